"""``hosfl sweep``: every point once, one row each, going on where it stopped."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from command import SCENARIOS, hosfl, start

PATIENCE_S = 20


def test_a_sweep_is_run_and_resumed(tmp_path: Path) -> None:
    file, out = tmp_path / "a.toml", tmp_path / "out"
    parent = shutil.copy(SCENARIOS / "quickstart.toml", tmp_path)
    text = 'extends = "quickstart.toml"\nname = "a"\n[aggregator]\nclient_steps = 60\n[sweep]\nseeds = [4]\nshared.probes = [2, 3]\n'
    file.write_text(text)
    done = hosfl("sweep", file, "--no-control", "--out", out, "-j", "2")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["shared.probes"], row["seed"]) for row in rows] == [("2", "4"), ("3", "4")]
    for row in rows:
        summary = json.loads((out / f"shared.probes={row['shared.probes']},seed=4" / "summary.json").read_text())
        assert float(row["accuracy_final"]) == summary["accuracy_final"] and row["digest"] == summary["digest"]
        assert int(row["bytes"]) == sum(summary["bytes"].values()) and row["accuracy_frozen_control"] == ""
    assert (out / "sweep.parquet").exists() == (find_spec("pyarrow") is not None)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    file.write_text(text.replace("[2, 3]", "[2, 3, 4]"))
    grown = hosfl("sweep", file, "--no-control", "--out", out)
    assert grown.stdout.startswith(done.stdout.rstrip()) and "3 of 3: shared.probes=4,seed=4" in grown.stderr
    assert before.items() < {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}.items()
    assert Path(parent).exists()


def children_of(parent: int) -> set[int]:
    return {int(child) for task in Path(f"/proc/{parent}/task").glob("*/children") for child in task.read_text().split()}


def is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_no_worker_outlives_a_sweep_that_is_killed(tmp_path: Path) -> None:
    """It would go on writing into the folder that the resumed sweep clears."""
    file, out = tmp_path / "a.toml", tmp_path / "out"
    shutil.copy(SCENARIOS / "quickstart.toml", tmp_path)
    file.write_text('extends = "quickstart.toml"\nname = "a"\n[aggregator]\nclient_steps = 1000000\n[sweep]\nseeds = [1, 2]\n')
    sweep = start("sweep", file, "--no-control", "--out", out, "-j", "2")
    until(lambda: len(list(out.glob("*.part/metrics.jsonl"))) == 2)
    workers = children_of(sweep.pid)
    assert len(workers) >= 2
    sweep.kill()
    sweep.wait()  # not for the pipes' ends, which a worker may hold
    try:
        until(lambda: not any(map(is_running, workers)))
    finally:
        for worker in filter(is_running, workers):
            os.kill(worker, signal.SIGKILL)
