"""Curves as Parquet, read back by pandas as one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosfl_async import Run, load_scenario, simulate

pytest.importorskip("pyarrow", reason="the extra parquet")

import pandas


def test_a_folder_of_curves_is_one_table(run: Run, tmp_path: Path) -> None:
    settings = {"aggregator.client_steps": 100, "server.evaluate_every_steps": 25, "shared.probes": 3, "expect.accuracy_min": 0.0}
    other = simulate(
        load_scenario("quickstart", settings), folder=tmp_path / "other", control=False, track=f"parquet={tmp_path / 'curves'}"
    )
    run.export(f"parquet={tmp_path / 'curves'}")
    run.export(f"parquet={tmp_path / 'curves'}")  # is there already
    table = pandas.read_parquet(tmp_path / "curves")
    assert {len(run.evaluations), len(other.evaluations)} == set(table.groupby("run").size())
    assert dict(table.groupby("shared.probes")["run"].first()) == {2.0: run.folder.name, 3.0: "other"}
    for each in (run, other):
        rows = table[table["run"] == each.folder.name].reset_index(drop=True)
        curve = each.frame()
        assert all(rows["ended"]) and list(rows["accuracy"]) == list(curve["accuracy"])
        assert list(rows["modelled_time_s"]) == list(curve["time_s"])
        assert rows["bytes_activations"].equals(curve["bytes_activations"])
        assert set(rows["method"]) == {"hosfl_async"}


def test_an_interrupted_run_is_not_one_that_ended(run: Run, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(run.scenario, folder=tmp_path / "run", control=False, track=f"parquet={tmp_path / 'curves'}", progress=interrupt)
    table = pandas.read_parquet(tmp_path / "curves")
    assert len(table) > 0 and not any(table["ended"])
