"""An MLflow store in a database file, read back by MLflow's own client. `make tracking` installs what this needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hosfl_async import Run, simulate
from hosfl_async.tracking import open_tracker
from hosfl_async.tracking.facts import final_figures

for _package in ("mlflow", "sqlalchemy", "alembic"):
    pytest.importorskip(_package, reason="the extra mlflow")


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


def client(place: str) -> Any:
    from hosfl_async.tracking.to_mlflow import MlflowClient

    return MlflowClient(tracking_uri=place, registry_uri=place)


def runs(place: str) -> list[Any]:
    store = client(place)
    return list(store.search_runs([store.get_experiment_by_name("quickstart").experiment_id]))


def test_what_was_written_is_the_run(run: Run, place: str, tmp_path: Path) -> None:
    run.export(f"mlflow={place}")
    [found] = runs(place)
    assert (found.info.run_name, found.info.status) == ("quickstart-seed0", "FINISHED")
    assert found.data.params["aggregator.client_steps"] == "100"
    assert len(found.data.params) > 100, "more than MLflow takes at once"
    assert found.data.tags["log_digest"] == run.summary.digest
    assert (found.data.tags["seed"], found.data.tags["method"]) == ("0", "hosfl_async")
    for name, value in final_figures(run.summary).items():
        assert found.data.metrics[f"final.{name}"] == pytest.approx(value), name
    history = client(place).get_metric_history(found.info.run_id, "accuracy")
    began_ms = 1000 * (run.folder / "scenario.toml").stat().st_mtime
    assert [(each.step, each.value) for each in history] == [(each.client_steps, each.accuracy) for each in run.evaluations]
    assert [each.timestamp - began_ms for each in history] == pytest.approx([1000 * each.time_s for each in run.evaluations], abs=2)
    sent = client(place).get_metric_history(found.info.run_id, "bytes")
    assert [each.value for each in sent] == [sum(each.bytes.values()) for each in run.evaluations]
    kept = {each.path for each in client(place).list_artifacts(found.info.run_id)}
    assert kept == {"scenario.toml", "summary.json", "metrics.jsonl"}
    copy = client(place).download_artifacts(found.info.run_id, "summary.json", str(tmp_path))
    assert json.loads(Path(copy).read_text())["digest"] == run.summary.digest


def test_what_is_there_is_left_alone(run: Run, place: str) -> None:
    run.export(f"mlflow={place}")
    run.export(f"mlflow={place}")
    assert len(runs(place)) == 1


def test_a_followed_run_and_an_interrupted_one(run: Run, place: str, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    followed = simulate(run.scenario, folder=tmp_path / "followed", control=False, track=f"mlflow={place}")
    with pytest.raises(KeyboardInterrupt):
        simulate(run.scenario, folder=tmp_path / "interrupted", control=False, track=f"mlflow={place}", progress=interrupt)
    found = {each.info.run_name: each for each in runs(place)}
    assert {name: each.info.status for name, each in found.items()} == {"followed": "FINISHED", "interrupted": "KILLED"}
    assert found["followed"].data.tags["log_digest"] == followed.summary.digest


def test_nothing_is_reported_to_its_makers() -> None:
    import os

    open_tracker("mlflow")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
