"""What a run leaves of the model: best and final, and the early end at a target, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hosfl_async import load_scenario, simulate
from hosfl_async.assembly.building import Parts
from hosfl_async.errors import SettingsError
from hosfl_async.log_store import LogStore
from hosfl_async.messages import EntryCommitted, TargetMet
from hosfl_async.runs import Run

SETTINGS = {"aggregator.client_steps": 300, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(load_scenario("quickstart", SETTINGS), control=False, folder=tmp_path_factory.mktemp("runs") / "run")


def opened(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    with safe_open(path, "numpy") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def accuracy(run: Run, values: dict[str, Any]) -> float:
    """Of a model that was left, on the run's own held-out data."""
    made = Parts(run.scenario).learners
    for which, half in (("client", made.model.client), ("server", made.model.server)):
        half.bind(half.views(np.concatenate([values[f"{which}.{name}"].reshape(-1) for name in half.names])))
    with torch.inference_mode():
        cut = made.model.client.module(torch.from_numpy(made.data.test_images))
        found = made.model.server.module(cut).argmax(dim=1).numpy()
    return float((found == made.data.test_labels).mean())


def test_best_is_the_model_of_the_best_evaluation_and_not_the_last(run: Run) -> None:
    best = max(run.evaluations, key=lambda point: point.accuracy)
    assert best.accuracy > run.evaluations[-1].accuracy, "this run is of no use here: its last evaluation is its best"
    about, values = opened(run.folder / "best.safetensors")
    assert (float(about["accuracy"]), int(about["version"]), int(about["server_steps"])) == (best.accuracy, best.version, best.server_steps)
    assert accuracy(run, values) == pytest.approx(best.accuracy)
    assert accuracy(run, opened(run.folder / "model.safetensors")[1]) == pytest.approx(run.evaluations[-1].accuracy)


def test_a_run_ends_at_its_target_and_everyone_goes_home(run: Run, tmp_path: Path) -> None:
    target = sorted(point.accuracy for point in run.evaluations)[len(run.evaluations) // 2]
    first = next(point for point in run.evaluations if point.accuracy >= target)
    scenario = load_scenario("quickstart", SETTINGS | {"shared.stop_at_accuracy": target})
    early = simulate(scenario, control=False, folder=tmp_path / "early")
    summary = early.summary
    assert summary.target_met == first.accuracy and summary.client_steps < 300 and not summary.unmet
    assert summary.digests_agree and summary.clients_confirmed == 20
    until = run.evaluations.index(first) + 1
    assert early.evaluations[:until] == run.evaluations[:until], "until then it is the same run"
    assert len(early.evaluations) == until + 1, "and the final one"
    with LogStore(tmp_path / "early/log.sqlite") as store:
        records = store.records()
    [met] = [number for number, record in enumerate(records) if isinstance(record, TargetMet)]
    assert not any(isinstance(record, EntryCommitted) for record in records[met:])
    assert "ended early" in repr(early)


def test_a_target_that_is_never_looked_for_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"stop_at_accuracy.*never seen"):
        load_scenario("quickstart", {"shared.stop_at_accuracy": 0.9, "server.evaluate_every_steps": 0})
