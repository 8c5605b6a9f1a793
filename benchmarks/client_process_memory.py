"""Peak memory of an edge client's whole process, as `hosfl agent client` runs it, against the same client doing back-propagation.

``python -m benchmarks.client_process_memory [--json]``

For each method an aggregator, a split server and one client run as processes of their own over a broker, to the end of a short run. What
is told is the client process's own high-water mark of resident memory (``VmHWM``, Linux): interpreter, torch, data, client half and all.
A client's process keeps no server half; that of the split server, which has both, is told beside it. ``floor`` is a process that has
imported the same code and done nothing.

* zeroth order: ours, P = 5 probes;
* first order: the same client half, batch and data, back-propagated with SGD (method ``sfl_first_order``).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import new_parser, start_hosfl
from hosfl_async.broker.embedded import embedded_broker
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import ModelSettings

METHODS = {"zeroth order": "hosfl_async", "first order": "sfl_first_order"}
CLASSES, SAMPLES = 10, 400
LOOK_EVERY_S = 0.02
PATIENCE_S = 300.0
_FLOOR = "import hosfl_async.process.building, torch; print(open('/proc/self/status').read())"


@dataclass(frozen=True)
class Case:
    """A convolutional client half on square images; the server half has wide layers, so that it shows where it is loaded."""

    side: int
    client_widths: tuple[int, ...]
    server_widths: tuple[int, ...]
    batch: int
    steps: int
    bound_bytes: int
    """What a client process of ours may take; docs/reliability.md states it."""


CASES = {
    "cnn 32-64-64, 64x64, batch 32": Case(64, (32, 64, 64), (2048, 2048), 32, 6, 400_000_000),
    "cnn 32-64-64, 64x64, batch 128": Case(64, (32, 64, 64), (2048, 2048), 128, 6, 640_000_000),
}
SMALL_CASES = {"cnn 8, 16x16, batch 8": Case(16, (8,), (512, 512), 8, 2, 2**30)}


def high_water_bytes(status: str) -> int:
    """``VmHWM`` of a /proc/PID/status; 0 if the process has none any more."""
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def high_water_bytes_of(pid: int) -> int:
    try:
        return high_water_bytes(Path(f"/proc/{pid}/status").read_text())
    except OSError:  # it has just ended
        return 0


def floor_bytes() -> int:
    done = subprocess.run([sys.executable, "-c", _FLOOR], capture_output=True, text=True, check=True)
    return high_water_bytes(done.stdout)


def half_bytes(case: Case) -> dict[str, int]:
    """Parameters of both halves."""
    widths: dict[str, Any] = {"client_widths": case.client_widths, "server_widths": case.server_widths}
    model = build_model(ModelSettings(name="cnn", **widths), (1, case.side, case.side), CLASSES)
    return {"client_half_bytes": 4 * model.client.size, "server_half_bytes": 4 * model.server.size}


def peaks(case: Case, method: str) -> dict[str, int]:
    """High-water marks of client and split server. Raises ``RuntimeError`` if the client's process does not end well."""
    with TemporaryDirectory(prefix="hosfl-memory-") as place:
        return asyncio.run(_peaks(Path(place), case, method))


async def _peaks(folder: Path, case: Case, method: str) -> dict[str, int]:
    _write_scenario(folder, case, method)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    async with embedded_broker("auto") as url:
        try:
            for role, name in (("aggregator", "aggregator"), ("server", "split_server"), ("client", "client-1")):
                settings = folder / f"{name}.toml"
                settings.write_text(
                    f'run = "memory"\nname = "{name}"\nscenario = "scenario.toml"\nstate = "state-{name}"\n[broker]\nurl = "{url}"\n'
                    f'[health]\nfile = "{name}.health"\nevery_s = 0.2\n'
                )
                processes[name] = start_hosfl("agent", role, "--config", str(settings), log=folder / f"{name}.log")
                if role != "client":
                    await _connected(folder, name, processes[name])
            return await _watch(folder, processes)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


async def _connected(folder: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until it is heard, so that whoever comes next need not ask twice."""
    health, give_up_at = folder / f"{name}.health", time.monotonic() + PATIENCE_S
    while not (health.exists() and json.loads(health.read_text()).get("connected")):
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError(f"{name} does not connect:\n" + (folder / f"{name}.log").read_text()[-2000:])
        await asyncio.sleep(LOOK_EVERY_S)


async def _watch(folder: Path, processes: dict[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Look again and again until the client has ended: the mark only grows."""
    found = dict.fromkeys(("client-1", "split_server"), 0)
    give_up_at = time.monotonic() + PATIENCE_S
    while processes["client-1"].poll() is None and time.monotonic() < give_up_at:
        for name in found:
            found[name] = max(found[name], high_water_bytes_of(processes[name].pid))
        await asyncio.sleep(LOOK_EVERY_S)
    if processes["client-1"].poll() != 0:
        raise RuntimeError("the client did not end well:\n" + (folder / "client-1.log").read_text()[-2000:])
    return {"client_peak_bytes": found["client-1"], "server_peak_bytes": found["split_server"]}


def _write_scenario(folder: Path, case: Case, method: str) -> None:
    draw = np.random.Generator(np.random.Philox(7))
    images = draw.random((SAMPLES, 1, case.side, case.side), dtype=np.float32)
    np.savez(folder / "data.npz", images=images, labels=draw.integers(0, CLASSES, SAMPLES))
    (folder / "scenario.toml").write_text(
        f'name = "memory"\nmethod = "{method}"\n[task]\ndata = "{folder / "data.npz"}"\nbatch_size = {case.batch}\n'
        f'[task.model]\nname = "cnn"\nclient_widths = {list(case.client_widths)}\nserver_widths = {list(case.server_widths)}\n'
        f"[shared]\nprobes = 5\n[aggregator]\nclient_steps = {case.steps}\nbuffer_contributions = 1\n[server]\nevaluate_every_steps = 0\n"
        "[[fleet]]\ncount = 1\n"
    )


def measure(name: str, case: Case) -> dict[str, Any]:
    """One case, every method: bytes, and what each client process takes above the floor."""
    floor = floor_bytes()
    row: dict[str, Any] = {"case": name, "floor_bytes": floor, **half_bytes(case)}
    for way, method in METHODS.items():
        found = peaks(case, method)
        row[way] = {**found, "above_floor_bytes": found["client_peak_bytes"] - floor}
    row["bound_bytes"], row["within_bound"] = case.bound_bytes, row["zeroth order"]["client_peak_bytes"] <= case.bound_bytes
    row["ratio"] = row["zeroth order"]["client_peak_bytes"] / row["first order"]["client_peak_bytes"]
    row["ratio_above_floor"] = row["zeroth order"]["above_floor_bytes"] / row["first order"]["above_floor_bytes"]
    return row


def main() -> None:
    options = new_parser(__doc__).parse_args()
    rows = [measure(name, case) for name, case in (SMALL_CASES if options.small else CASES).items()]
    if options.json:
        print(json.dumps({"client_process_memory": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['case']}: floor {row['floor_bytes'] / 1e6:.0f} MB, client half {row['client_half_bytes'] / 1e6:.2f} MB, server half"
            f" {row['server_half_bytes'] / 1e6:.0f} MB"
        )
        for way in METHODS:
            found, own = row[way], row[way]["above_floor_bytes"]
            print(
                f"  {way:<13} client process {found['client_peak_bytes'] / 1e6:.0f} MB (+{own / 1e6:.0f} above the floor)"
                f", split server {found['server_peak_bytes'] / 1e6:.0f} MB"
            )
        print(f"  ratio {row['ratio']:.2f} of the whole process, {row['ratio_above_floor']:.2f} above the floor")
        print(f"  bound {row['bound_bytes'] / 1e6:.0f} MB: {'kept' if row['within_bound'] else 'BROKEN'}")


if __name__ == "__main__":
    main()
