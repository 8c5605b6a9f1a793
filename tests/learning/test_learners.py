"""Learners against the oracle: the same steps through jobs and through the plain loop give the same bits."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hosfl_async import jobs
from hosfl_async.errors import LearnerError
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.golden import golden_digest
from hosfl_async.learning.reference import Reference, ScheduleItem, scheduled, synchronous
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, PartitionSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.messages import EMPTY_CHAIN, LogEntry, StepId, Tensor, Term, chain_hash
from hosfl_async.scaling import coefficients

torch.set_num_threads(1)

TASK = TaskSettings(
    data="toy", toy_samples=240, batch_size=8, model=ModelSettings(client_widths=(4,), server_widths=(6,), activation="tanh")
)
ZEROTH, FIRST = ZerothOrderSettings(), FirstOrderSettings(learning_rate=0.01)
CLIENTS = ["client-0", "client-1", "client-2", "client-10"]
PROBES, RATE, K = 3, 0.3, 2.0


def factory(shared: bool, task: TaskSettings = TASK, clients: list[str] = CLIENTS) -> LearnerFactory:
    return LearnerFactory(task, ZEROTH, FIRST, seed=7, clients=clients, shared=shared)


def reference(task: TaskSettings = TASK, contributions: float | None = K) -> Reference:
    return Reference(task, ZEROTH, FIRST, seed=7, clients=CLIENTS, learning_rate=RATE, contributions=contributions)


class Run:
    """Drives learners by hand in any order, writes the log, and notes what was done as a schedule for the oracle."""

    def __init__(self, made: LearnerFactory) -> None:
        self.clients = {name: made.client(name) for name in CLIENTS}
        self.server, self.aggregator = made.server(), made.aggregator()
        self.log: list[LogEntry] = []
        self.schedule: list[ScheduleItem] = []
        self.under_way: dict[str, tuple[StepId, jobs.ForwardDone]] = {}
        self.numbers = dict.fromkeys(CLIENTS, 0)
        self.buffer: list[tuple[StepId, int, tuple[float, ...]]] = []

    def begin(self, name: str) -> None:
        learner = self.clients[name]
        learner.run(jobs.Replay(tuple(self.log[learner.version :])))
        self.numbers[name] += 1
        step = StepId(name, 1, self.numbers[name])
        self.schedule.append(("forward", step, learner.version))
        self.under_way[name] = (step, learner.run(jobs.Forward(step, learner.version)))

    def finish(self, name: str, weight: float, fresh: bool) -> None:
        (step, sent), learner = self.under_way.pop(name), self.clients[name]
        answer = self.server.run(jobs.Backward(step, sent.activations, sent.labels, weight))
        self.schedule.append(("backward", step, weight))
        if fresh:
            answer = self.server.run(jobs.EvaluateDual(step, sent.activations, sent.labels))
            self.schedule.append(("dual", step))
        learner.run(jobs.Probe(step, PROBES))
        projected = learner.run(jobs.Project(step, answer.dual)).projected_gradients
        self.schedule.append(("project", step, PROBES))
        self.buffer.append((step, learner.version, projected))

    def commit(self, weight: float) -> None:
        version = len(self.log) + 1
        weights = [(step, weight / (1 + index)) for index, (step, _, _) in enumerate(self.buffer)]
        scaled = {step: coefficients(v, learning_rate=RATE, weight=dict(weights)[step], contributions=K) for step, _, v in self.buffer}
        terms = tuple(Term(step, base, scaled[step]) for step, base, _ in sorted(self.buffer))
        chain = chain_hash(self.log[-1].chain if self.log else EMPTY_CHAIN, version, terms)
        self.log.append(LogEntry(version, terms, chain))
        self.schedule.append(("commit", version, weights))
        self.buffer.clear()
        self.aggregator.run(jobs.Replay((self.log[-1],)))


@settings(max_examples=25)
@given(
    shared=st.booleans(),
    order=st.lists(st.tuples(st.sampled_from(CLIENTS), st.sampled_from([1.0, 0.5]), st.booleans()), min_size=4, max_size=24),
)
def test_any_asynchronous_order_equals_the_oracle_bit_for_bit(shared: bool, order: list[tuple[str, float, bool]]) -> None:
    run = Run(factory(shared))
    for name, weight, fresh in order:
        if name in run.under_way:
            run.finish(name, weight, fresh)
        else:
            run.begin(name)
        if len(run.buffer) == 2:
            run.commit(weight)
    outcome = scheduled(reference(), run.schedule)
    snapshot = run.aggregator.run(jobs.TakeSnapshot())
    assert snapshot.version == len(run.log) == max(outcome.theta_c)
    assert snapshot.parameters.data == outcome.theta_c[len(run.log)].tobytes()
    assert run.server.theta_s.tobytes() == outcome.theta_s.tobytes()


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_synchronous_loop_is_one_of_these_orders(name: str) -> None:
    task = replace(TASK, model=ModelSettings(name=name, client_widths=(4,), server_widths=(6,), activation="relu"))
    run = Run(factory(True, task))
    for _ in range(3):
        for client in CLIENTS:
            run.begin(client)
        for client in CLIENTS:
            run.finish(client, 1.0, fresh=False)
        run.buffer = [run.buffer[i] for i in (2, 0, 3, 1)]
        commit_equal_weights(run)
    outcome = synchronous(reference(task, contributions=4.0), versions=3, probes=PROBES)
    assert run.aggregator.run(jobs.TakeSnapshot()).parameters.data == outcome.theta_c[3].tobytes()
    assert run.server.theta_s.tobytes() == outcome.theta_s.tobytes()


def commit_equal_weights(run: Run) -> None:
    version = len(run.log) + 1
    terms = tuple(
        Term(step, base, coefficients(v, learning_rate=RATE, weight=1.0, contributions=4.0)) for step, base, v in sorted(run.buffer)
    )
    run.log.append(LogEntry(version, terms, chain_hash(run.log[-1].chain if run.log else EMPTY_CHAIN, version, terms)))
    run.buffer.clear()
    run.aggregator.run(jobs.Replay((run.log[-1],)))


def test_training_lowers_the_loss_and_a_frozen_client_stays() -> None:
    moving, frozen = reference(contributions=4.0), reference()
    outcome = synchronous(moving, versions=100, probes=8)
    still = synchronous(frozen, versions=100, probes=0)
    assert list(still.theta_c) == [0]
    assert np.mean(outcome.losses[-40:]) < 0.7 * np.mean(still.losses[-40:])
    assert moving.accuracy(100) > 0.95


def test_evaluation_follows_both_halves() -> None:
    made, oracle = factory(True), reference(contributions=4.0)
    run = Run(made)
    first = run.server.run(jobs.Evaluate())
    assert (first.version, first.samples, first.accuracy) == (0, 48, oracle.accuracy(0))
    run.begin("client-0")
    run.finish("client-0", 1.0, fresh=False)
    run.commit(1.0)
    assert run.server.run(jobs.Evaluate()).version == 0
    run.server.run(jobs.Replay(tuple(run.log)))
    after = run.server.run(jobs.Evaluate())
    assert after.version == 1 and after.loss != first.loss


# -- what a learner refuses ---------------------------------------------------------------------------


def refused(learner: Any, job: Any, text: str) -> None:
    with pytest.raises(LearnerError, match=text):
        learner.run(job)


STEP, NEXT = StepId("client-0", 1, 1), StepId("client-0", 1, 2)


def test_jobs_out_of_order_are_refused() -> None:
    run = Run(factory(False))
    client = run.clients["client-0"]
    refused(client, jobs.Forward(STEP, 1), "at version 1")
    refused(client, jobs.Probe(STEP, 2), "not anchored")
    sent = client.run(jobs.Forward(STEP, 0))
    refused(client, jobs.Project(STEP, sent.activations), "before the probes")
    refused(client, jobs.Probe(NEXT, 2), "not anchored")
    client.run(jobs.Forward(NEXT, 0))  # the step before was given up
    refused(client, jobs.Probe(STEP, 2), "not anchored")
    run.under_way["client-1"] = (StepId("client-1", 1, 1), run.clients["client-1"].run(jobs.Forward(StepId("client-1", 1, 1), 0)))
    run.finish("client-1", 1.0, fresh=False)
    run.commit(1.0)
    client.run(jobs.Replay(tuple(run.log)))
    refused(client, jobs.Probe(NEXT, 2), "anchored at version 0")
    refused(client, jobs.Evaluate(), "does not compute")


def test_a_project_uses_its_anchor_up() -> None:
    client = factory(False).client("client-0")
    sent = client.run(jobs.Forward(STEP, 0))
    client.run(jobs.Probe(STEP, 2))
    assert len(client.run(jobs.Project(STEP, sent.activations)).projected_gradients) == 2
    refused(client, jobs.Project(STEP, sent.activations), "not anchored")


def tensor(dtype: str, *shape: int, cut: int = 0) -> Tensor:
    size = int(np.prod(shape)) * {"float32": 4, "int64": 8}[dtype]
    return Tensor(dtype, shape, bytes(size - cut))


def test_tensors_that_do_not_fit_are_refused() -> None:
    made = factory(False)
    client, server, aggregator = made.client("client-0"), made.server(), made.aggregator()
    client.run(jobs.Forward(STEP, 0))
    client.run(jobs.Probe(STEP, 1))
    for dual in (tensor("float32", 8, 5), tensor("float32", 32), tensor("int64", 8, 4), tensor("float32", 8, 4, cut=4)):
        refused(client, jobs.Project(STEP, dual), "dual of step client-0/1: expected bfloat16 or float32 or int4 or int8 8x4")
    activations, labels = tensor("float32", 8, 4), tensor("int64", 8)
    refused(server, jobs.Backward(STEP, tensor("float32", 8, 3), labels), "activations of step")
    refused(server, jobs.Backward(STEP, activations, tensor("int64", 7)), "labels of step")
    refused(server, jobs.EvaluateDual(STEP, tensor("float32", 0, 4), tensor("int64", 0)), "at least one")
    outside = Tensor("int64", (8,), np.full(8, 4, "<i8").tobytes())
    refused(server, jobs.Backward(STEP, activations, outside), "from 0 to 3")
    nan = Tensor("float32", (8, 4), np.full(32, np.nan, "<f4").tobytes())
    before = server.theta_s
    refused(server, jobs.Backward(STEP, nan, labels), "nothing was changed")
    assert (server.theta_s == before).all()
    infinite = Tensor("float32", (8, 4), np.full(32, np.inf, "<f4").tobytes())
    with np.errstate(all="ignore"):
        refused(client, jobs.Project(STEP, infinite), "not finite")
    snapshot = aggregator.run(jobs.TakeSnapshot())
    refused(client, jobs.InstallSnapshot(3, tensor("float32", 5), bytes(32)), "snapshot: expected float32")
    refused(client, jobs.InstallSnapshot(3, snapshot.parameters, bytes(32)), "does not match its digest")
    assert client.version == 0


# -- joining, snapshots, memory -----------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_introductions_agree_at_any_version(shared: bool) -> None:
    made = factory(shared)
    run = Run(made)
    first = run.aggregator.run(jobs.Introduce())
    assert first.golden == golden_digest()
    assert first == made.client("client-2").run(jobs.Introduce())
    run.begin("client-0")
    run.finish("client-0", 1.0, fresh=False)
    run.commit(1.0)
    assert run.aggregator.run(jobs.Introduce()) == first
    other = LearnerFactory(TASK, ZEROTH, FIRST, seed=8, clients=CLIENTS).aggregator().run(jobs.Introduce())
    assert other.golden == first.golden and other.initial != first.initial


@pytest.mark.parametrize("shared", [True, False])
def test_snapshot_and_tail_is_replay_from_the_start(shared: bool) -> None:
    run = Run(factory(shared))
    for index in range(6):
        name = CLIENTS[index % 4]
        run.begin(name)
        run.finish(name, 1.0, fresh=False)
        run.commit(1.0)
        if index == 2:
            snapshot = run.aggregator.run(jobs.TakeSnapshot())
    late = factory(shared).client("client-10")
    answer = late.run(jobs.InstallSnapshot(snapshot.version, snapshot.parameters, snapshot.digest))
    assert answer.version == 3 and answer.checkpoints[0].digest == snapshot.digest
    tail = late.run(jobs.Replay(tuple(run.log[3:]), (4, 6)))
    start = factory(shared).client("client-1").run(jobs.Replay(tuple(run.log), (4, 6)))
    assert tail == start and tail.version == 6


def test_a_client_without_data_is_unknown() -> None:
    with pytest.raises(LearnerError, match="nobody"):
        factory(True).client("nobody")


def test_an_idle_client_is_small() -> None:
    names = [f"client-{number}" for number in range(2000)]
    made = factory(True, replace(TASK, toy_samples=4000, partition=PartitionSettings(rule="iid")), names)
    first = made.client(names[0])
    gc.collect()
    tracemalloc.start()
    learners = [made.client(name) for name in names]
    each = tracemalloc.get_traced_memory()[0] / len(names)
    tracemalloc.stop()
    assert each < 512, f"{each:.0f} bytes for each idle client"
    del learners
    assert first.version == 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_a_restored_server_half_goes_on_bit_for_bit(optimizer: str) -> None:
    """Half and optimiser, taken out and put into another learner: every later dual is equal."""
    made = LearnerFactory(TASK, ZEROTH, replace(FIRST, optimizer=optimizer), seed=7, clients=CLIENTS)
    one, client = made.server(), made.client(CLIENTS[0])

    def backward(learner: Any, number: int) -> jobs.BackwardDone:
        step = StepId(CLIENTS[0], 1, number)
        done = client.run(jobs.Forward(step, 0))
        return learner.run(jobs.Backward(step, done.activations, done.labels))

    for number in (1, 2, 3):
        backward(one, number)
    state = one.run(jobs.TakeServerState()).state
    other = made.server()
    other.run(jobs.RestoreServerState(state))
    for number in (4, 5):
        assert backward(one, number) == backward(other, number)
    assert one.run(jobs.TakeServerState()) == other.run(jobs.TakeServerState())
    assert one.run(jobs.TakeServerState()).state != state, "what was taken is a copy"


def test_a_checkpoint_of_another_model_or_optimiser_changes_nothing() -> None:
    made = factory(shared=False)
    server = made.server()
    before = server.run(jobs.TakeServerState())
    other = LearnerFactory(TASK, ZEROTH, replace(FIRST, optimizer="sgd"), seed=7, clients=CLIENTS).server()
    wider = replace(TASK, model=replace(TASK.model, server_widths=(7,)))
    for foreign in (other, LearnerFactory(wider, ZEROTH, FIRST, seed=7, clients=CLIENTS).server()):
        with pytest.raises(LearnerError, match="another server half or optimiser"):
            server.run(jobs.RestoreServerState(foreign.run(jobs.TakeServerState()).state))
    assert server.run(jobs.TakeServerState()) == before


@pytest.mark.parametrize("cut", ["layer", "end"])
def test_a_clients_own_process_has_no_server_half_and_the_same_client_half(cut: str) -> None:
    task = TaskSettings(data="toy", toy_samples=60, model=ModelSettings(name="mlp", client_widths=(4,), server_widths=(64,), cut=cut))  # type: ignore[arg-type]
    both, alone = (
        LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), seed=3, clients=["client-1"], client_only=only)
        for only in (False, True)
    )
    assert alone.model.server.size == 0 and not list(alone.model.server.module.parameters())
    assert (both.model.server.size > 0) == (cut == "layer")
    assert both.client("client-1").digest() == alone.client("client-1").digest()
    with pytest.raises(LearnerError, match="no server half"):
        alone.server()
