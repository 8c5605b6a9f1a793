"""What the figures in the documents come from: `python -m benchmarks.NAME [--json]`, and `--small` with any of them.

``--small`` is a run of seconds through the same code to the same table, to see that it works: fewer steps, samples and repetitions, nothing
that a document holds is written, and the figures mean nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMALL_RUN: dict[str, int] = {"aggregator.client_steps": 20, "server.evaluate_every_steps": 20}
"""Settings of a run that is small."""
SMALL_SEEDS = 2


def new_parser(text: str | None, *, as_json: bool = True) -> argparse.ArgumentParser:
    """With what every benchmark knows; ``text`` is its docstring."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a run of seconds that shows that it works; its figures mean nothing")
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def in_own_process(module: str, *words: str) -> Any:
    """What ``python -m module words...`` prints, read as JSON: for measurements that want a process that has done nothing before."""
    command = [sys.executable, "-m", module, *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)


def start_hosfl(*words: str, log: Path) -> subprocess.Popen[bytes]:
    """A ``hosfl`` command, under way as a process of its own; what it says goes to ``log``."""
    command = [sys.executable, "-c", "from hosfl_async.cli import main; main()", *words]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def begin_peak_bytes() -> int:
    """Give freed memory back, let this process's peak start anew, and tell what is resident (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Highest resident set size since ``begin_peak_bytes``, or since the process began."""
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024
