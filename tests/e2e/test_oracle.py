"""The distributed system equals the readable loop, bit for bit: where paces are equal, and, given its own order, where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hosfl_async import jobs
from hosfl_async.agent import Record
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.simulated import build_simulation
from hosfl_async.learning.reference import Outcome, Reference, ScheduleItem, scheduled, synchronous
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER, EntryCommitted
from hosfl_async.report import Recorder
from hosfl_async.scenario import Scenario, load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TOKENS = ('task.data="toy_tokens"', 'task.model={name="encoder", blocks=2, cut_block=1, hidden=8, heads=2}', "aggregator.client_steps=60")
"""A small text encoder instead of the digits."""


class Observed:
    """A simulated run that remembers in which order what was computed and committed."""

    def __init__(self, scenario: Scenario) -> None:
        self.schedule: list[ScheduleItem] = []
        self.weights: dict[str, float] = {}
        self.scenario = scenario
        parts = _Watched(scenario, schedule=self.schedule)
        recorder = Recorder()
        self.simulation = build_simulation(scenario, parts, recorder, validate=True)
        self.simulation._on_record = self._on_record
        self.simulation._nodes[AGGREGATOR].store = _Store(self.schedule, self.weights)
        self.outcome = self.simulation.run()

    def _on_record(self, time_s: float, agent: str, record: Record) -> None:
        if record.name == "admitted":
            self.weights[str(record.step)] = record.values["weight"]
        elif record.name == "clipped":
            [step] = {item[1] for item in self.schedule if item[0] in ("project", "local_slopes") and str(item[1]) == str(record.step)}
            self.schedule.append(("clip", step, record.values["bound"]))

    @property
    def theta_c(self) -> np.ndarray:
        return self._learner(AGGREGATOR)._held.theta

    @property
    def theta_s(self) -> np.ndarray:
        return self._learner(SPLIT_SERVER)._trainer.theta

    def _learner(self, name: str) -> Any:
        return self.simulation.learner(name).inner  # type: ignore[union-attr]


class _Watched(Parts):
    def __init__(self, scenario: Scenario, schedule: list[ScheduleItem]) -> None:
        super().__init__(scenario)
        object.__setattr__(self, "schedule", schedule)

    def client_learner(self, name: str) -> Any:
        return _Watching(super().client_learner(name), self.schedule)  # type: ignore[attr-defined]

    def server_learner(self, name: str = "") -> Any:
        return _Watching(super().server_learner(name), self.schedule)  # type: ignore[attr-defined]

    def aggregator_learner(self, name: str = "") -> Any:
        return _Watching(super().aggregator_learner(name), self.schedule)  # type: ignore[attr-defined]


class _Watching:
    """Passes jobs on, and writes down those that the reference has a word for."""

    def __init__(self, inner: Any, schedule: list[ScheduleItem]) -> None:
        self.inner, self._schedule = inner, schedule
        self._probes, self._activities = 0, False

    def run(self, job: Any) -> Any:
        match job:
            case jobs.Forward(step, base_version, batch_of, probes):
                self._schedule.append(("forward", step, base_version, batch_of))
                if probes:
                    self._schedule.append(("perturbed", step, probes))
            case jobs.Estimate(step, weight=weight, steps=steps):
                self._schedule.append(("estimate", step, weight, steps))
            case jobs.LocalSlopes() | jobs.TrainLocally():
                name = "local_slopes" if isinstance(job, jobs.LocalSlopes) else "train_locally"
                self._schedule.append((name, *(getattr(job, field) for field in job.__struct_fields__)))
            case jobs.Backward(step, weight=weight, steps=steps):
                self._schedule.append(("backward", step, weight, steps))
            case jobs.BackwardTogether(parts):
                self._schedule.append(("backward_together", [(part.step, part.weight) for part in parts], parts[0].steps))
            case jobs.EvaluateDual(step):
                self._schedule.append(("dual", step))
            case jobs.Probe(probes=probes, activities=activities):
                self._probes, self._activities = probes, activities
            case jobs.Project(step):
                self._schedule.append(("project", step, self._probes))
            case jobs.BackPropagate(step):
                self._schedule.append(("back_propagate", step))
            case jobs.FeedBack(step):
                self._schedule.append(("probe_activities", step, self._probes) if self._activities else ("feed_back", step))
        return self.inner.run(job)


class _Store:
    def __init__(self, schedule: list[ScheduleItem], weights: dict[str, float]) -> None:
        self._schedule, self._weights = schedule, weights

    def append(self, record: Any) -> None:
        if isinstance(record, EntryCommitted):
            steps = [term.step for term in record.entry.terms]
            self._schedule.append(("commit", record.entry.version, [(step, self._weights[str(step)]) for step in steps]))

    def records(self) -> tuple[Any, ...]:
        return ()


def reference_of(scenario: Scenario) -> Reference:
    nominal = scenario.aggregator.divide_by == "buffer_contributions"
    return Reference(
        scenario.task,
        scenario.zeroth_order,
        scenario.first_order,
        seed=scenario.seed,
        clients=[name for name, _ in scenario.devices()],
        learning_rate=scenario.aggregator.learning_rate,
        contributions=float(scenario.aggregator.buffer_contributions) if nominal else None,
        location=scenario.aggregator.location,
        trim_share=scenario.aggregator.trim_share,
        cut=scenario.cut,
        update=scenario.update,
        final_share=scenario.aggregator.learning_rate_final_share,
        client_steps=scenario.aggregator.client_steps,
    )


def assert_equal(observed: Observed, expected: Outcome) -> None:
    head = max(expected.theta_c)
    assert observed.simulation.agent(AGGREGATOR).log.head == head  # type: ignore[union-attr]
    assert observed.theta_c.tobytes() == expected.theta_c[head].tobytes()
    assert observed.theta_s.tobytes() == expected.theta_s.tobytes()
    assert expected.theta_c[head].tobytes() != expected.theta_c[0].tobytes()


def test_the_synchronous_scenario_is_the_plain_loop() -> None:
    scenario = load_scenario(SCENARIOS / "synchronous.toml")
    versions = scenario.aggregator.client_steps // scenario.clients
    expected = synchronous(reference_of(scenario), versions=versions, probes=scenario.shared.probes)
    assert_equal(Observed(scenario), expected)


@pytest.mark.parametrize("location", ["mean", "median", "trimmed_mean"])
def test_the_papers_shared_directions_are_the_plain_loop_too(location: str) -> None:
    changes = ['shared.directions="per_version"', f"aggregator.location={location}", "aggregator.client_steps=100"]
    scenario = load_scenario(SCENARIOS / "synchronous.toml", changes)
    observed = Observed(scenario)
    assert_equal(observed, synchronous(reference_of(scenario), versions=20, probes=scenario.shared.probes))
    for entry in observed.simulation.agent(AGGREGATOR).log.after(0, 20):  # type: ignore[union-attr]
        assert [len(term.coefficients) for term in entry.terms] == [32, 0, 0, 0, 0], "P coefficients for the whole fleet"


def test_synchronous_first_order_is_the_plain_loop() -> None:
    scenario = load_scenario(SCENARIOS / "synchronous.toml", ["method=sfl_first_order_sync", "aggregator.client_steps=300"])
    versions = scenario.aggregator.client_steps // scenario.clients
    expected = synchronous(reference_of(scenario), versions=versions, probes=0, first_order=True)
    assert_equal(Observed(scenario), expected)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ['client.dual_policy="fresh"'],
        ['aggregator.divide_by="weights"', "client.steps_unanswered_max=3"],
        ['cut.activations="int4"', 'cut.duals="int8"'],
        ['cut.activations="bfloat16"', 'cut.duals="int4"', 'cut.scale_per="sample"', 'client.dual_policy="fresh"'],
        ['aggregator.clipping.rule="median"', "aggregator.clipping.factor=1.5", 'aggregator.participation.rule="inverse"'],
        ["aggregator.concurrency=9", 'aggregator.selection="balanced"', 'aggregator.participation.rule="capped"'],
        ['shared.directions="per_version"', 'aggregator.participation.rule="inverse"'],
        ['shared.directions="per_version"', 'aggregator.location="median"', "aggregator.buffer_contributions=10"],
        ['shared.directions="per_version"', 'aggregator.location="trimmed_mean"', 'aggregator.divide_by="weights"'],
        [
            'shared.directions="per_version"',
            'aggregator.location="median"',
            'aggregator.trust={rule="peers", agreement_min_share=1.0, distrust_deviations=0, comparisons_min=1}',
        ],
        ['aggregator.clipping={rule="median", held_devices=12}', 'aggregator.divide_by="weights"'],
        ['server.staleness.rule="polynomial"', 'aggregator.staleness.rule="hinge"'],
        ["network.loss=0.1", "network.duplication=0.1", "network.reordering=0.2", "aggregator.buffer_deadline_s=3"],
        ["method=sfl_first_order", "network.loss=0.1"],
        [*TOKENS, "method=skip_feedback", "network.loss=0.1", 'cut.duals="int8"'],
        ["method=activity_perturbation", "network.loss=0.1", "task.model.client_widths=[16,7]", 'client.dual_policy="fresh"'],
        [*TOKENS, "method=skip_feedback", 'update.rule="adamw"', "aggregator.learning_rate=0.01", "client.dual_reuse=2"],
        [*TOKENS, "method=skip_feedback", 'zeroth_order.feedback="skip"', 'task.model.client_matrices="int8"', "network.loss=0.1"],
        [*TOKENS, 'task.model.name="decoder"', "method=skip_feedback", "network.loss=0.1"],
        ["client.dual_reuse=3", "network.loss=0.1"],
        ["server.steps_per_activation=3"],
        ["method=sfl_zeroth_order", "network.loss=0.1", "server.steps_per_activation=2", 'server.staleness.rule="polynomial"'],
        [*TOKENS, "method=sfl_zeroth_order", "network.loss=0.1", "server.steps_per_activation=2", "shared.probes=4"],
        ["method=fedbuff_first_order", "network.loss=0.1", "client.local_steps=3"],
        ["method=decomfl", "aggregator.buffer_deadline_s=600"],
        ["method=decomfl", "aggregator.cohort=12", 'aggregator.clipping.rule="median"', "aggregator.buffer_deadline_s=30"],
        ['update.rule="momentum"', "aggregator.learning_rate=0.05", "network.loss=0.1"],
        ['update.rule="adamw"', "aggregator.learning_rate=0.02", "update.weight_decay=0.1", "aggregator.snapshot_behind_versions=1"],
        [
            'update.rule="adamw"',
            "update.decay_versions=9",
            "aggregator.learning_rate=0.02",
            "method=sfl_first_order",
            'aggregator.divide_by="weights"',
        ],
        ["aggregator.learning_rate_final_share=0.1", 'aggregator.divide_by="weights"', "network.loss=0.1"],
        ["aggregator.learning_rate_final_share=0", "method=sfl_first_order", 'update.rule="momentum"'],
        ['update.rule="momentum"', 'shared.directions="per_version"', "aggregator.learning_rate=0.05"],
        ["server.micro_batch_max=4", "server.micro_batch_wait_s=0.2", 'server.staleness.rule="polynomial"'],
        ["server.micro_batch_max=3", "compute.backward_s=0.1", 'client.dual_policy="fresh"', "server.steps_per_activation=2"],
        ['zeroth_order.signs="independent"'],
        ['task.model.name="cnn"', "task.model.client_widths=[4,2]", "aggregator.client_steps=60"],
        ["fleet[0].dropout.mean_time_between_s=10", 'fleet[0].dropout.kind="crash"', "fleet[0].dropout.mean_absence_s=5"],
    ],
    ids=[
        "eager",
        "fresh",
        "weights",
        "quantised",
        "quantised by sample",
        "clipped",
        "limited",
        "shared",
        "shared median",
        "shared trimmed mean",
        "shared median of the trusted",
        "held at first",
        "staleness",
        "lossy",
        "first order",
        "skip feedback",
        "activities",
        "skip feedback, adamw",
        "skip feedback, matrices in int8",
        "skip feedback, decoder",
        "dual used again",
        "server steps",
        "zeroth order on both halves",
        "zeroth order on both halves, sequences",
        "whole model, trained locally",
        "whole model, slopes",
        "whole model, slopes of a cohort",
        "declining rate",
        "declining rate, momentum, first order",
        "momentum",
        "adamw, snapshots",
        "adamw, first order",
        "momentum, shared",
        "micro-batches",
        "micro-batches, fresh",
        "independent signs",
        "convolutions",
        "crashes",
    ],
)
def test_an_asynchronous_run_is_the_plain_loop_in_its_own_order(changes: list[str]) -> None:
    scenario = load_scenario(SCENARIOS / "quickstart.toml", ["aggregator.client_steps=150", "shared.retry.first_s=1", *changes], seed=7)
    observed = Observed(scenario)
    expected = scheduled(reference_of(scenario), observed.schedule)
    assert_equal(observed, expected)
    assert any(item[0] == "backward_together" for item in observed.schedule) == any("micro_batch" in change for change in changes)
    orders = {
        item[1].client
        for item in observed.schedule
        if item[0] in ("project", "back_propagate", "feed_back", "probe_activities", "estimate", "local_slopes", "train_locally")
    }
    assert len(orders) > 10, "an asynchronous run of many clients was meant"
