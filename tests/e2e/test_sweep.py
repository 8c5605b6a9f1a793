"""``hosfl sweep``: every point once, one row each, going on where it stopped."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

from command import SCENARIOS, hosfl


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
