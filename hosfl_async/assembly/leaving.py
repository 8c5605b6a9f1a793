"""The learnt model in a run folder: as it was at the end, and as it was at the best evaluation.

The best one is written when it is found, so that an interrupted run has it, too. Best is by the very data that it was chosen on: quote
``accuracy_final``, use ``best.safetensors``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hosfl_async.agents import SplitServer
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.folder import BEST, MODEL, OpenFolder, write_model
from hosfl_async.jobs import TakeServerState
from hosfl_async.learning.learners import AggregatorLearner, ServerLearner
from hosfl_async.learning.split_model import named_values
from hosfl_async.report.recorder import Evaluation
from hosfl_async.scenario import Scenario

Write = Callable[[Callable[[], None]], Any]
"""Calls what writes a file: at once, or in another thread."""


def leave_model(folder: Path, scenario: Scenario, parts: Parts, aggregator: Any, server: Any) -> None:
    """The final halves: the client half as the aggregator's log has it, and the split server's, if both learners are there."""
    if not (isinstance(aggregator, AggregatorLearner) and isinstance(server, ServerLearner)):
        return
    values = named_values(parts.learners.model, aggregator.theta_c, server.theta_s)
    write_model(folder, MODEL, values, _about(scenario) | {"version": str(aggregator.version), "digest": aggregator.digest().hex()})


def keep_best(
    folder: Path, scenario: Scenario, parts: Parts, server: Callable[[], Any], write: Write = lambda act: act()
) -> Callable[[Evaluation], None]:
    """What ``Recorder.on_best`` calls: both halves as the split server has just evaluated them."""

    def keep(point: Evaluation) -> None:
        learner = server()
        assert isinstance(learner, ServerLearner) and learner.version == point.version, "evaluated, and already elsewhere"
        values = named_values(parts.learners.model, learner.theta_c, learner.theta_s)
        at = {"version": str(point.version), "server_steps": str(point.server_steps), "accuracy": repr(point.accuracy)}
        about = _about(scenario) | at | {"digest": learner.digest().hex()}
        write(lambda: write_model(folder, BEST, values, about))

    return keep


def leave_checkpoint(files: OpenFolder, server: Any, learner: Any) -> None:
    """The split server as it stands, if it is up: where the run can go on, whether it is over or was stopped."""
    if isinstance(server, SplitServer) and isinstance(learner, ServerLearner):
        files.checkpoints.append(server.checkpoint_with(learner.run(TakeServerState()).state))


def _about(scenario: Scenario) -> dict[str, str]:
    return {"scenario": scenario.name, "seed": str(scenario.seed)}
