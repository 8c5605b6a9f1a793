"""Client updates per second and memory: our simulator, pfl-research and Flower, one after the other in one run.

``python -m benchmarks.peers [--clients 1000] [--updates 5000] [--repeat 5] [--skip flower] [--json] [--keep DIR]``. The *trivial update*:
a client adds a constant, the server averages; what is measured is the engine. What each side does, honestly:

* **ours**: asynchronous, one process. An update is a whole split-learning step: join once, then catch-up by snapshot, smashed data, dual,
  contribution, acceptance; every message encoded, carried by a modelled link and checked; about a dozen agent events. No model vector
  travels, and the learner computes nothing.
* **ours, whole model**: the peers' own update through the same agents and network, as FedBuff has it: the model of 100 parameters goes
  to the client as a snapshot, its change comes back, the aggregator averages into its log.
* **pfl-research**: synchronous cohorts, one process, plain numpy. An update is a function call on a shared vector of 100 parameters;
  nothing is encoded, no time is modelled. An algorithm written by hand for this, the leanest that its base classes allow.
* **pfl-research, PyTorch**: the same as its documents use it: ``FederatedAveraging`` on a ``PyTorchModel``, its own loop over the user's
  batches and model difference; only the training step in that loop is replaced by adding the constant.
* **pfl-research, PyTorch, SGD**: the same with nothing replaced: a step of SGD on a loss whose gradient is the constant.
* **Flower**: synchronous rounds over Ray's worker processes. An update is a serialised message of 100 parameters to a worker and back.

Each peer gets a virtual environment in a temporary folder, made by this script and thrown away (``--keep`` keeps and reuses it); one that
cannot be installed is skipped and said so. CPU time and memory (proportional set size) are those of all processes of a side, workers
included; CPU time counts the whole process with its start-up as ``cpu_s_whole``, and the updates alone where one process does all.
The sides take turns ``--repeat`` times and each figure is the median; Flower, which needs minutes, runs in the first turn only. With
``--small`` nothing is installed, and only our own sides run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from benchmarks import ROOT, new_parser

HERE = Path(__file__).parent
ENVIRONMENTS = {
    "pfl-research": ["pfl==0.6.0", "numpy"],
    "pfl-pytorch": ["pfl==0.6.0", "numpy", "torch==2.13.0"],
    "flower": ["flwr[simulation]==1.41.0", "numpy"],
}
"""What is installed where; a CPU build of torch is enough, and pip's own configuration chooses it."""
OURS = {"ours": "own_worker", "ours, whole model": "own_whole_worker"}
PEERS = {
    "pfl-research": ("pfl-research", "pfl_worker.py", []),
    "pfl-research, PyTorch": ("pfl-pytorch", "pfl_torch_worker.py", []),
    "pfl-research, PyTorch, SGD": ("pfl-pytorch", "pfl_torch_worker.py", ["sgd"]),
    "flower": ("flower", "flower_worker.py", []),
}
"""Side -> environment, script, and what it is told after the sizes."""
ONCE = ("flower",)
MARK = "HOSFL_PEER"
SAMPLE_EVERY_S, SAMPLE_SOONEST_S = 0.5, 0.01
"""Looks are as far apart as a tenth of the run so far, between these: a short run is seen to its end, too."""
INSTALL_MAX_S = 900
RUN_MAX_S = 1200
SMALL_CLIENTS, SMALL_UPDATES = 20, 200


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


def run(name: str, command: list[str], sizes: list[int], more: Sequence[str] = ()) -> dict[str, Any] | None:
    """One side's figures; None, with the reason on standard error, if it fails."""
    mark = f"{name}-{os.getpid()}"
    quiet = {"RAY_DEDUP_LOGS": "0", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen(
            [*command, *map(str, sizes), *more], cwd=ROOT, env={**os.environ, **quiet, MARK: mark}, stdout=out, stderr=problems, text=True
        )
        sampled, began = Sampled(mark), perf_counter()
        while process.poll() is None and perf_counter() - began < RUN_MAX_S:
            sampled.look()
            sleep(min(max(SAMPLE_SOONEST_S, 0.1 * (perf_counter() - began)), SAMPLE_EVERY_S))
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


def commands(folder: Path, skipped: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Side -> how it is started, and what it is told after the sizes; without those that are skipped or cannot be installed."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for name, module in OURS.items():
        found[name] = [sys.executable, "-m", f"benchmarks.peers.{module}"], []
    wanted = {name: peer for name, peer in PEERS.items() if name not in skipped}
    pythons = {where: environment(where, ENVIRONMENTS[where], folder) for where in dict.fromkeys(where for where, _, _ in wanted.values())}
    for name, (where, script, more) in wanted.items():
        if python := pythons[where]:
            found[name] = [str(python), str(HERE / script)], more
    return found


def measure(sizes: list[int], turns: int, skipped: Sequence[str], folder: Path) -> dict[str, Any]:
    """All sides in turn, ``turns`` times; ``sizes`` are clients, updates and parameters."""
    started = commands(folder, skipped)
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OURS, *PEERS)}
    for turn in range(turns):
        for name, (command, more) in started.items():
            if (turn == 0 or name not in ONCE) and (figures := run(name, command, sizes, more)):
                told[name].append(figures)
    sides = {name: medians(runs) if runs else None for name, runs in told.items() if name not in skipped}
    return {"clients": sizes[0], "parameters": sizes[2], "turns": turns, "sides": sides, "ratios": ratios(sides)}


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figure by figure; what a side does not tell stays None."""
    return {key: None if runs[0][key] is None else round(median(each[key] for each in runs), 4) for key in runs[0]}


def ratios(sides: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """For each of our two sides and each peer how many times faster, cheaper and smaller ours is; below 1 it is the other way round."""
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for mine in OURS:
        for name, side in sides.items():
            if name not in OURS and side and (ours := sides.get(mine)):
                ratios.setdefault(mine, {})[name] = ratio = {
                    "updates_per_s": round(ours["updates_per_s"] / side["updates_per_s"], 2),
                    "memory": round(side["peak_bytes"] / ours["peak_bytes"], 2),
                }
                if side["cpu_ms_per_update"] and ours["cpu_ms_per_update"]:
                    ratio["cpu"] = round(side["cpu_ms_per_update"] / ours["cpu_ms_per_update"], 2)
    return ratios


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--parameters", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=1, help="turns; figures are their medians")
    parser.add_argument("--skip", nargs="+", default=[], choices=[*PEERS], metavar="SIDE", help=f"some of: {'; '.join(PEERS)}")
    parser.add_argument("--keep", type=Path, help="folder of environments to keep and reuse")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error(f"--repeat: expected at least 1, found {arguments.repeat}")
    if arguments.small:
        arguments.clients, arguments.updates = min(arguments.clients, SMALL_CLIENTS), min(arguments.updates, SMALL_UPDATES)
        arguments.repeat, arguments.skip = 1, [*PEERS]
        print(f"{', '.join(PEERS)}: skipped, --small installs nothing", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        sizes = [arguments.clients, arguments.updates, arguments.parameters]
        figures = measure(sizes, arguments.repeat, arguments.skip, arguments.keep or Path(folder))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, side in figures["sides"].items():
        print(name, "skipped" if side is None else ", ".join(f"{key} {value:,}" for key, value in side.items() if value is not None))
    for mine, others in figures["ratios"].items():
        for name, ratio in others.items():
            print(f"{mine} : {name}, above 1 ours is better: " + ", ".join(f"{key} {value}" for key, value in ratio.items()))


if __name__ == "__main__":
    main()
