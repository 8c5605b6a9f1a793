"""Personal fine-tuning: what a client keeps back, what a step of its own does, and that nothing of it reaches anybody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import jobs, load_scenario
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.personalising import personal_figures
from hosfl_async.assembly.simulated import build_simulation, simulate
from hosfl_async.errors import HosflError, SettingsError
from hosfl_async.learning.data import own_test
from hosfl_async.learning.directions import new_perturber
from hosfl_async.learning.learners import ClientLearner, ServerLearner
from hosfl_async.learning.personal import accuracy, fine_tune
from hosfl_async.learning.perturbation import direction_keys
from hosfl_async.learning.settings import PersonalSettings
from hosfl_async.messages import AGGREGATOR, EMPTY_CHAIN, SPLIT_SERVER, StepId
from hosfl_async.report import Recorder
from hosfl_async.scenario import Scenario

SETTINGS: dict[str, Any] = {
    "aggregator.client_steps": 120,
    "expect.accuracy_min": 0.0,
    "expect.accuracy_control_max": 1.0,
    "personal.steps": 4,
    "personal.probes": 3,
}


def scenario(**settings: Any) -> Scenario:
    return load_scenario("quickstart", SETTINGS | {key.replace("__", "."): value for key, value in settings.items()})


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    held_out=st.floats(0.01, 0.99),
    gap=st.integers(0, 3),
    data=st.data(),
)
def test_a_client_keeps_back_the_last_of_each_class(labels: list[int], held_out: float, gap: int, data: st.DataObject) -> None:
    known = np.array(labels)
    shard = np.array(data.draw(st.permutations(range(len(labels)))))[: data.draw(st.integers(1, len(labels)))]
    training, test = own_test(shard, known, held_out, gap)
    assert not {*training} & {*test} and {*training, *test} <= {*shard}
    for label in {*known[shard]}:
        members = sorted(int(position) for position in shard if known[position] == label)
        count = int(len(members) * held_out)
        kept = [position for position in training if known[position] == label]
        assert sorted(position for position in test if known[position] == label) == members[len(members) - count :]
        assert sorted(kept) == (members[: max(0, len(members) - count - gap)] if count else members)


def learners(made: Parts, name: str = "client-1") -> tuple[ClientLearner, ServerLearner]:
    return made.client_learner(name), made.server_learner()


def test_one_step_is_the_step_of_the_run_with_the_clients_own_scalars() -> None:
    made = Parts(scenario())
    client, server = learners(made)
    own = made.learners.own_test("client-1")
    settings = PersonalSettings(steps=1, probes=3, learning_rate=0.5)
    before = client.theta_c
    tuned = fine_tune(client, server, settings, "client-1", own, EMPTY_CHAIN)

    again, step = made.client_learner("client-1"), StepId("client-1.personal", 1, 1)
    sent = again.run(jobs.Forward(step, 0))
    again.run(jobs.Probe(step, 3))
    scalars = again.run(jobs.Project(step, server.run(jobs.EvaluateDual(step, sent.activations, sent.labels)).dual)).projected_gradients
    directions = new_perturber(made.learners.model.client, made.learners.zeroth_order).written(
        direction_keys(made.learners.run_key, step, range(3)), before.size
    )
    expected = before - sum(0.5 / 3 * scalar * direction for scalar, direction in zip(scalars, directions, strict=True))
    np.testing.assert_allclose(client.theta_c, expected, rtol=1e-5, atol=1e-7)
    assert client.version == 1 and any(scalars) and not tuned.broken_off
    assert tuned.before == accuracy(again, server, own)


@pytest.mark.parametrize("together", [1, 8])
def test_nothing_of_it_reaches_anybody_else(together: int) -> None:
    short = scenario(simulation__forwards_together_max=together)
    made, recorder = Parts(short), Recorder()
    simulation = build_simulation(short, made, recorder)
    simulation.run()
    aggregator, server = simulation.learner(AGGREGATOR), simulation.learner(SPLIT_SERVER)
    assert isinstance(server, ServerLearner)
    theta_s, digest = server.theta_s, aggregator.digest()  # type: ignore[attr-defined]
    longer = replace(short, personal=replace(short.personal, steps=12, learning_rate=0.3))
    first = personal_figures(longer, made, aggregator, server)
    assert first is not None and first == personal_figures(longer, made, aggregator, server)
    assert (server.theta_s == theta_s).all() and aggregator.digest() == digest  # type: ignore[attr-defined]
    assert [client.name for client in first.clients] == [f"client-{number}" for number in range(1, 21)]
    for client in first.clients:
        sizes = len(made.learners.shard(client.name)), len(made.learners.own_test(client.name))
        assert (client.training, client.test) == sizes
    final = aggregator.run(jobs.TakeSnapshot())  # type: ignore[attr-defined]
    for client in first.clients[1:6]:  # the same alone, whoever else is tuned
        learner = made.client_learner(client.name)
        learner.run(jobs.InstallSnapshot(final.version, final.parameters, final.digest))
        alone = fine_tune(learner, server, longer.personal, client.name, made.learners.own_test(client.name), EMPTY_CHAIN)
        assert (alone.before, alone.after) == (client.before, client.after)
        del learner
    assert first.before != first.after and first.worst_after <= first.after


def test_the_run_is_the_same_however_long_clients_tune_afterwards() -> None:
    one, many = (simulate(scenario(personal__steps=steps), control=False) for steps in (1, 5))
    assert one.digest == many.digest and one.accuracy_final == many.accuracy_final and one.bytes == many.bytes
    assert one.personal and many.personal and one.personal.before == many.personal.before
    assert {client.name: client.before for client in one.personal.clients} == {
        client.name: client.before for client in many.personal.clients
    }


def test_nobody_trains_on_its_own_test_and_all_of_the_others_do() -> None:
    with_tests, without = Parts(scenario()).learners, Parts(scenario(personal__steps=0)).learners
    for number in range(1, 21):
        name = f"client-{number}"
        training, test, whole = with_tests.shard(name), with_tests.own_test(name), without.shard(name)
        assert not {*training} & {*test} and {*training, *test} == {*whole}
        assert with_tests.client(name).samples == len(training)
        assert not len(without.own_test(name))


def test_a_tuning_that_leaves_the_finite_numbers_ends_there() -> None:
    found = simulate(scenario(personal__learning_rate=1e300), control=False).personal
    assert found and found.broken_off == 20 and found.after == found.before and found.worst_after == found.worst_before


def test_what_cannot_be_tuned_is_refused() -> None:
    for settings, told in (
        ({"method": "sfl_zeroth_order"}, "no dual"),
        ({"method": "decomfl"}, "no dual"),
        ({"update.rule": "momentum"}, "plain steps"),
    ):
        with pytest.raises(HosflError, match=told):
            load_scenario("quickstart", SETTINGS | {"aggregator.buffer_deadline_s": 1e6} | settings)
    nothing_left = Parts(scenario(personal__gap=1000, task__partition__rule="shards")).learners
    with pytest.raises(SettingsError, match=r"personal\.gap.*nothing is left"):
        [nothing_left.client(f"client-{number}") for number in range(1, 21)]
