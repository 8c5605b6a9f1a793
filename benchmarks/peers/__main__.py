"""Client updates per second and memory: our simulator, pfl-research and Flower, one after the other in one run.

``python -m benchmarks.peers [--clients 1000] [--updates 5000] [--json] [--keep DIR]``. The *trivial update*: a client adds a constant,
the server averages; what is measured is the engine. What each side does, honestly:

* **ours**: asynchronous, one process. An update is a whole split-learning step: join once, then catch-up by snapshot, smashed data, dual,
  contribution, acceptance; every message encoded, carried by a modelled link and checked; about a dozen agent events. No model vector
  travels, and the learner computes nothing.
* **ours, whole model**: the peers' own update through the same agents and network, as FedBuff has it: the model of 100 parameters goes
  to the client as a snapshot, its change comes back, the aggregator averages into its log.
* **pfl-research**: synchronous cohorts, one process, plain numpy. An update is a function call on a shared vector of 100 parameters;
  nothing is encoded, no time is modelled.
* **Flower**: synchronous rounds over Ray's worker processes. An update is a serialised message of 100 parameters to a worker and back.

Each peer gets a virtual environment in a temporary folder, made by this script and thrown away (``--keep`` keeps and reuses it); one that
cannot be installed is skipped and said so. CPU time and memory (proportional set size) are those of all processes of a side, workers
included; CPU time counts the whole process with its start-up as ``cpu_s_whole``, and the updates alone where one process does all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS = {"pfl-research": ("pfl_worker.py", ["pfl==0.6.0", "numpy"]), "flower": ("flower_worker.py", ["flwr[simulation]==1.41.0", "numpy"])}
MARK = "HOSFL_PEER"
SAMPLE_EVERY_S = 0.5
INSTALL_MAX_S = 900
RUN_MAX_S = 1200


def environment(name: str, packages: list[str], folder: Path) -> Path | None:
    """The Python of a fresh virtual environment with ``packages``; None, with the reason on standard error, if that fails."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", *packages]
    try:
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_MAX_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name}: skipped, {' '.join(packages)} cannot be installed: {str(error.stderr or error)[-300:]}", file=sys.stderr)
        return None
    return python


class Sampled:
    """CPU time and memory of all processes that carry one mark in their environment, wherever they moved."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._cpu_s: dict[int, float] = {}
        self.peak_bytes = 0

    def look(self) -> None:
        held = 0
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark not in (each / "environ").read_bytes().split(b"\0"):
                    continue
                fields = (each / "stat").read_text().rpartition(")")[2].split()
                self._cpu_s[int(each.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                held += next(int(line.split()[1]) for line in (each / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
            except (OSError, IndexError, StopIteration):
                continue  # it has ended, or is not ours
        self.peak_bytes = max(self.peak_bytes, 1024 * held)

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())


def run(name: str, command: list[str], sizes: list[int]) -> dict[str, Any] | None:
    """One side's figures; None, with the reason on standard error, if it fails."""
    mark = f"{name}-{os.getpid()}"
    quiet = {"RAY_DEDUP_LOGS": "0", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen(
            [*command, *map(str, sizes)], cwd=ROOT, env={**os.environ, **quiet, MARK: mark}, stdout=out, stderr=problems, text=True
        )
        sampled, began = Sampled(mark), perf_counter()
        while process.poll() is None and perf_counter() - began < RUN_MAX_S:
            sampled.look()
            sleep(SAMPLE_EVERY_S)
        if process.poll() is None:
            process.kill()
        out.seek(0), problems.seek(0)
        lines = [line for line in out.read().splitlines() if line.startswith('{"updates"')]
        if process.returncode or not lines:
            print(f"{name}: skipped, it ended with {process.returncode}: {problems.read()[-500:]}", file=sys.stderr)
            return None
    figures: dict[str, Any] = json.loads(lines[-1])
    updates, clients = figures["updates"], sizes[0]
    return {
        "updates": updates,
        "updates_per_s": round(updates / figures["wall_s"], 1),
        "wall_ms_per_update": round(1000 * figures["wall_s"] / updates, 4),
        "cpu_ms_per_update": round(1000 * figures["cpu_s"] / updates, 4) if "cpu_s" in figures else None,
        "cpu_s_whole": round(sampled.cpu_s, 2),
        "peak_bytes": sampled.peak_bytes,
        "bytes_per_client": round(sampled.peak_bytes / clients),
    }


def measure(clients: int, updates: int, parameters: int, folder: Path) -> dict[str, Any]:
    sizes = [clients, updates, parameters]
    sides = {"ours": run("ours", [sys.executable, "-m", "benchmarks.peers.own_worker"], sizes)}
    sides["ours, whole model"] = run("ours, whole model", [sys.executable, "-m", "benchmarks.peers.own_whole_worker"], sizes)
    for name, (script, packages) in PEERS.items():
        python = environment(name, packages, folder)
        sides[name] = run(name, [str(python), str(HERE / script)], sizes) if python else None
    return {"clients": clients, "parameters": parameters, "sides": sides, "ratios": ratios(sides)}


def ratios(sides: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times faster and smaller ours is; below 1 it is slower or larger."""
    ours, ratios = sides["ours"], {}
    for name, side in sides.items():
        if side and ours and not name.startswith("ours"):
            ratios[name] = {
                "updates_per_s": round(ours["updates_per_s"] / side["updates_per_s"], 2),
                "memory": round(side["peak_bytes"] / ours["peak_bytes"], 2),
            }
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--parameters", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="folder of environments to keep and reuse")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.clients, arguments.updates, arguments.parameters, arguments.keep or Path(folder))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, side in figures["sides"].items():
        print(name, "skipped" if side is None else ", ".join(f"{key} {value:,}" for key, value in side.items() if value is not None))
    for name, ratio in figures["ratios"].items():
        print(f"ours to {name}: {ratio['updates_per_s']} times the updates per second, {ratio['memory']} times less memory")


if __name__ == "__main__":
    main()
