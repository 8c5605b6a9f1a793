"""What a client contributes, by its estimator: the client's side and the aggregator's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solo import contribution
from test_aggregator import Host
from test_edge_client import Client, log_of, step
from toy import LABELS, SIZE, numbers

from hosfl_async.agent import JobFailed, Received, Started, TimerFired
from hosfl_async.agents import Aggregator
from hosfl_async.agents.settings import ClippingSettings
from hosfl_async.jobs import (
    BackPropagate,
    FeedBack,
    Forward,
    ForwardDone,
    GradientDone,
    LocalSlopes,
    Probe,
    ProbeDone,
    Project,
    Projected,
    Replay,
    Replayed,
    TrainLocally,
)
from hosfl_async.messages import (
    AGGREGATOR,
    SPLIT_SERVER,
    CatchUp,
    ClientGradient,
    DualVariable,
    EntryCommitted,
    HeadAnnounced,
    LogPage,
    ProjectedGradients,
    Refused,
    SmashedData,
    StepId,
    Tensor,
)
from hosfl_async.scaling import scaled_gradient


def gradient(size: int = SIZE, value: bytes = b"\0\0\x80\x3f") -> Tensor:
    return Tensor("float32", (size,), value * size)


def dense(number: int, base_version: int = 0, size: int = SIZE, client: str = "a") -> ClientGradient:
    return ClientGradient(StepId(client, 1, number), base_version, gradient(size))


def joined(**changes: object) -> Host:
    made = Host(estimator="gradient", buffer_contributions=2, **changes)
    for client in ("a", "b"):
        made.join(client)
    return made


def test_a_first_order_client_back_propagates_the_dual_without_probes() -> None:
    client = Client(estimator="gradient").joined().forward()
    assert client.job is None, "no perturbed forwards"
    client.dual(1)
    assert client.job == BackPropagate(step(1), numbers("dual", 1))
    client.done(GradientDone(step(1), gradient()))
    assert client.sent() == [ClientGradient(step(1), 0, gradient())]


def test_skip_feedback_is_a_forward_pass_that_takes_notes_and_one_more_with_the_dual() -> None:
    client = Client(estimator="skip_feedback").joined()
    assert client.job == Forward(step(1), 0, feedback=True)
    client.forward()
    assert client.job is None, "no perturbed forwards"
    client.dual(1)
    assert client.job == FeedBack(step(1), numbers("dual", 1))
    client.done(GradientDone(step(1), gradient()))
    assert client.sent() == [ClientGradient(step(1), 0, gradient())]


def test_perturbed_activities_are_probed_while_the_dual_is_under_way_and_make_a_dense_vector() -> None:
    client = Client(estimator="activity_slopes", probes=3).joined().forward()
    assert client.job == Probe(step(1), 3, activities=True)
    client.dual(1)
    client.done(ProbeDone(step(1)))
    assert client.job == FeedBack(step(1), numbers("dual", 1))
    client.done(GradientDone(step(1), gradient()))
    assert client.sent() == [ClientGradient(step(1), 0, gradient())]


def test_an_unanswered_gradient_is_repeated_byte_for_byte() -> None:
    client = Client(estimator="gradient").joined().forward().dual(1)
    client.done(GradientDone(step(1), gradient()))
    first = client.sent()
    client.feed(TimerFired("answer"))
    assert client.sent() == first


@pytest.mark.parametrize("clipping", [ClippingSettings(), ClippingSettings(rule="median", held_devices=2)], ids=["plain", "held scalars"])
def test_gradients_become_terms_scaled_by_the_one_rule(clipping: ClippingSettings) -> None:
    made = joined(learning_rate=0.5, clipping=clipping)
    made.say("a", dense(1))
    made.say("b", dense(1, client="b"))
    [entry] = [record.entry for record in made.records if isinstance(record, EntryCommitted)]
    expected = scaled_gradient(gradient().data, learning_rate=0.5, weight=1.0, contributions=2)
    assert [(term.coefficients, term.gradient) for term in entry.terms] == [(b"", expected)] * 2


@given(st.permutations([dense(1), dense(2), dense(1, client="b")]))
def test_the_entry_does_not_depend_on_the_order_of_arrival(order: list[ClientGradient]) -> None:
    def chain(messages: list[ClientGradient]) -> bytes:
        made = Host(estimator="gradient", buffer_contributions=3)
        for client in ("a", "b"):
            made.join(client)
        for message in messages:
            made.say(message.step.client, message)
        assert made.agent.log.head == 1
        return made.agent.log.chain

    assert chain(order) == chain([dense(1), dense(2), dense(1, client="b")])


def test_pages_of_gradients_are_short_in_bytes_and_never_empty() -> None:
    made = joined(page_bytes_max=2 * 4 * SIZE, snapshot_every_versions=100)
    for number in (1, 2, 3):
        made.say("a", dense(number))
        made.say("b", dense(number, client="b"))
    [page] = made.say("a", CatchUp(0))
    assert [entry.version for entry in page.entries] == [1]
    small = joined(page_bytes_max=1)
    small.say("a", dense(1))
    small.say("b", dense(1, client="b"))
    [page] = small.say("a", CatchUp(0))
    assert [entry.version for entry in page.entries] == [1]


@pytest.mark.parametrize(
    "message",
    [dense(1, size=SIZE + 1), dense(1, size=0), dense(1, base_version=7), contribution(StepId("a", 1, 1))],
    ids=["too long", "empty", "future", "scalars"],
)
def test_what_no_follower_could_replay_is_malformed(message: object) -> None:
    [answer] = joined().say("a", message)
    assert isinstance(answer, Refused)
    assert answer.reason == "malformed"


def test_a_gradient_is_malformed_where_scalars_are_expected() -> None:
    made = Host()
    made.join("a")
    [answer] = made.say("a", dense(1))
    assert answer.reason == "malformed"


def test_a_gradient_beyond_float32_is_malformed() -> None:
    made = joined(learning_rate=10.0)
    [answer] = made.say("a", ClientGradient(StepId("a", 1, 1), 0, gradient(value=b"\xff\xff\x7f\x7f")))
    assert answer.reason == "malformed"


def test_a_restarted_aggregator_takes_no_gradient_before_it_knows_its_length() -> None:
    made = joined()
    again = Host(records=tuple(made.records), estimator="gradient", buffer_contributions=2, learner_busy=True)
    fresh = Aggregator(again.agent._settings)
    fresh.handle(Started(2, tuple(made.records)), 0.0)
    assert fresh.handle(Received("a", dense(1)), 1.0) == []
    assert (fresh.counts["early"], fresh.counts["received"]) == (1, 0)
    fresh.validate()
    again.say("a", dense(1))
    assert again.agent.counts["malformed"] == 0


def test_a_kept_dual_serves_the_next_steps_on_the_same_batch_without_smashed_data() -> None:
    client = Client(dual_reuse=3).joined().contributed(1).accepted(1, 1)
    client.receive(AGGREGATOR, LogPage(0, log_of(1).after(0, 1), 1))
    client.done(Replayed(1))
    assert client.job == Forward(step(2), 1, step(1))
    client.forward()
    assert client.sent(SmashedData) == []
    assert client.job == Probe(step(2), 2)
    client.probed()
    assert client.job == Project(step(2), numbers("dual", 1))
    client.projected().accepted(2, 1)
    assert client.job == Forward(step(3), 1, step(1))
    client.forward().probed().projected().accepted(3, 1)
    assert client.job == Forward(step(4), 1), "the dual has served three steps"
    assert client.forward().sent(SmashedData)


def test_an_abandoned_step_gives_the_kept_dual_up() -> None:
    client = Client(dual_reuse=2).joined().contributed(1).accepted(1, 0)
    client.forward().probed()
    failed, client.job = client.job, None
    client.feed(JobFailed(failed, "a dual that does not fit"))
    assert client.job == Forward(step(3), 0)


# -- the whole model on the client --------------------------------------------------------------------


def test_a_client_with_the_whole_model_computes_its_slopes_alone() -> None:
    client = Client(estimator="local_losses").joined()
    assert client.job == LocalSlopes(step(1), 0, 2)
    client.done(Projected(step(1), (0.5, -0.25)))
    assert client.sent() == [ProjectedGradients(step(1), 0, (0.5, -0.25))], "nothing crosses a cut"
    client.accepted(1, 1)
    client.receive(AGGREGATOR, LogPage(0, log_of(1).after(0, 1), 1))
    assert isinstance(client.job, Replay), "what is new in the log is replayed first"
    client.done(Replayed(1))
    assert client.job == LocalSlopes(step(2), 1, 2)


def test_a_client_with_the_whole_model_trains_alone_and_sends_what_changed() -> None:
    client = Client(estimator="local_training", local_steps=3, local_learning_rate=0.5).joined()
    assert client.job == TrainLocally(step(1), 0, 3, 0.5)
    client.done(GradientDone(step(1), gradient()))
    assert client.sent() == [ClientGradient(step(1), 0, gradient())]


def test_no_entry_is_replayed_while_a_client_computes_alone() -> None:
    client = Client(estimator="local_losses").joined()
    client.receive(AGGREGATOR, LogPage(0, log_of(2).after(0, 2), 2))
    assert client.job == LocalSlopes(step(1), 0, 2)
    client.done(Projected(step(1), (0.5, -0.25)))
    assert client.sent()[0].base_version == 0


def test_dense_contributions_are_asked_of_local_training_and_scalars_of_local_losses() -> None:
    trained = Host(estimator="local_training", buffer_contributions=1)
    trained.join("a")
    trained.say("a", dense(1))
    assert trained.agent.log.head == 1
    [answer] = trained.say("a", contribution(StepId("a", 1, 2)))
    assert answer.reason == "malformed"
    slopes = Host(estimator="local_losses", buffer_contributions=1)
    slopes.join("a")
    [answer] = slopes.say("a", dense(1))
    assert answer.reason == "malformed"


def test_a_split_server_that_takes_no_steps_is_told_the_head_at_multiples_of_a_version() -> None:
    told = Host(buffer_contributions=1, evaluate_every_versions=2)
    told.join("a")
    announced = []
    for number in range(1, 6):
        answers = told.say("a", contribution(StepId("a", 1, number)))
        announced += [message.head for message in answers if isinstance(message, HeadAnnounced)]
    assert announced == [2, 4]
    quiet = Host(buffer_contributions=1)
    quiet.join("a")
    assert not [m for n in range(1, 6) for m in quiet.say("a", contribution(StepId("a", 1, n))) if isinstance(m, HeadAnnounced)]


# -- a server that only runs forward passes -----------------------------------------------------------


def test_a_client_without_a_dual_sends_its_perturbed_activations_and_contributes_the_servers_slopes() -> None:
    client = Client(estimator="server_losses").joined()
    assert client.job == Forward(step(1), 0, None, 2)
    stacked = numbers("stacked", shape=(6, 3))
    client.done(ForwardDone(stacked, LABELS))
    assert client.sent() == [SmashedData(step(1), 0, stacked, LABELS)] and client.job is None
    slopes = Tensor("float32", (2,), b"\0\0\x80\x3f\0\0\0\xbf")
    client.receive(SPLIT_SERVER, DualVariable(step(1), 1, slopes))
    assert client.sent() == [ProjectedGradients(step(1), 0, (1.0, -0.5))]


@pytest.mark.parametrize("answer", [numbers("dual", shape=(6, 3)), numbers("dual", shape=(3,))], ids=["a dual", "one too many"])
def test_slopes_that_are_not_one_for_each_probe_cost_the_step(answer: Tensor) -> None:
    client = Client(estimator="server_losses").joined()
    client.done(ForwardDone(numbers("stacked", shape=(6, 3)), LABELS))
    client.receive(SPLIT_SERVER, DualVariable(step(1), 1, answer))
    assert client.sent(ProjectedGradients) == [] and client.agent.counts["duals_malformed"] == 1
