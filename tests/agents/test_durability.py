"""What clients and the split server make durable, and what they do with it in their next life."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from solo import Solo, contribution, smashed
from test_edge_client import GOLDEN, INITIAL, NAME, Client, step
from test_split_server import FIRST, OTHER, SECOND, THIRD, finish_job
from toy import RETRY, numbers

from hosfl_async.agent import JobDone, Persist, Send, Started, TimerFired
from hosfl_async.agents import EdgeClient, EdgeClientSettings, SplitServer, SplitServerSettings
from hosfl_async.agents.edge_client import Phase
from hosfl_async.jobs import Backward, Evaluated, Introduced, RestoreServerState, ServerStateRestored, ServerStateTaken, TakeServerState
from hosfl_async.messages import (
    AGGREGATOR,
    Accepted,
    ContributionMade,
    ContributionSettled,
    DualRefused,
    DualVariable,
    Join,
    LogPage,
    NamedTensor,
    Refused,
    ServerCheckpoint,
    Tensor,
    Welcome,
)

DURABLE = EdgeClientSettings(probes=2, retry=RETRY, durable_outbox=True)
STATE = (NamedTensor("theta_s", Tensor("float32", (1,), np.ones(1, "<f4").tobytes())),)


def persisted(solo: Solo) -> list[object]:
    return [effect.record for effect in solo.effects if isinstance(effect, Persist)]


# -- the client's outbox ------------------------------------------------------------------------------


def test_a_contribution_is_durable_before_it_is_sent_and_forgotten_once_it_is_answered() -> None:
    client = Client(durable_outbox=True).joined().contributed()
    kinds = [type(effect) for effect in client.effects if isinstance(effect, (Persist, Send)) and "Catch" not in repr(effect)]
    assert kinds[:2] == [Persist, Send]
    (made,) = persisted(client)
    assert made == ContributionMade(client.sent()[0])
    client.accepted(1, 1)
    assert persisted(client) == [ContributionSettled(step(1))]


def test_without_the_setting_nothing_is_persisted() -> None:
    client = Client().joined().contributed()
    assert not persisted(client)
    client.accepted(1, 1)
    assert not persisted(client)


def reborn(*records: object) -> Solo:
    solo = Solo(EdgeClient(DURABLE, NAME))
    solo.start(2, records)
    return solo


def test_what_an_earlier_life_left_is_sent_as_it_stands_and_answered_before_joining() -> None:
    left = [contribution(step(4)), contribution(step(5))]
    solo = reborn(*map(ContributionMade, left))
    assert solo.sent() == left
    solo.done(Introduced(GOLDEN, INITIAL))
    assert not solo.sent(Join), "the next incarnation would fence them off"
    solo.receive(AGGREGATOR, Accepted(step(4), 3, 3))
    assert persisted(solo) == [ContributionSettled(step(4))] and not solo.sent(Join)
    solo.feed(TimerFired("answer"))
    assert solo.sent() == left[1:]
    solo.receive(AGGREGATOR, Refused(step(5), "stale", 3))
    assert solo.sent() == [Join(2, GOLDEN, INITIAL)]
    solo.receive(AGGREGATOR, Welcome(2, 2, 3))
    assert solo.agent.phase is Phase.RESTING and solo.agent.counts["left_by_earlier_lives"] == 2


def test_answers_may_come_before_the_introduction() -> None:
    solo = reborn(ContributionMade(contribution(step(4))))
    solo.receive(AGGREGATOR, Accepted(step(4), 3, 3))
    assert not solo.sent(Join)
    solo.done(Introduced(GOLDEN, INITIAL))
    assert solo.sent() == [Join(2, GOLDEN, INITIAL)]


def test_fenced_steps_of_an_earlier_life_do_not_stop_this_one() -> None:
    solo = reborn(ContributionMade(contribution(step(4))))
    solo.done(Introduced(GOLDEN, INITIAL))
    solo.receive(AGGREGATOR, Refused(step(4), "fenced", 3))
    assert not solo.agent.broken and solo.sent() == [Join(2, GOLDEN, INITIAL)]


def test_settled_contributions_are_not_sent_again() -> None:
    solo = reborn(ContributionMade(contribution(step(4))), ContributionSettled(step(4)))
    assert not solo.sent()
    solo.done(Introduced(GOLDEN, INITIAL))
    assert solo.sent() == [Join(2, GOLDEN, INITIAL)]


# -- the server's checkpoint --------------------------------------------------------------------------

SETTINGS = SplitServerSettings(evaluate_every_steps=0, retry=RETRY, checkpoint_every_steps=2)


def server(*records: ServerCheckpoint, **changes: object) -> Solo:
    solo = Solo(SplitServer(replace(SETTINGS, **changes)))
    solo.start(1, records)
    if records:
        assert solo.job == RestoreServerState(records[-1].state)
        solo.done(ServerStateRestored())
    solo.receive(AGGREGATOR, LogPage(0, (), 0))
    solo.done(Evaluated(0, 0.1, 2.3, 10))
    return solo


def checkpoint_of(solo: Solo) -> ServerCheckpoint:
    assert isinstance(solo.job, TakeServerState)
    solo.done(ServerStateTaken(STATE))
    (kept,) = persisted(solo)
    assert isinstance(kept, ServerCheckpoint)
    return kept


def test_the_journal_holds_what_was_trained_and_nothing_that_waits() -> None:
    solo = server()
    for sender, name in (("client-1", FIRST), ("client-2", OTHER), ("client-3", THIRD)):
        solo.receive(sender, smashed(name))
    finish_job(solo)
    solo.receive("client-1", smashed(SECOND))
    finish_job(solo)
    kept = checkpoint_of(solo)
    assert (kept.server_steps, kept.steps, kept.state) == (2, (FIRST, OTHER), STATE)
    assert [answer.step for answer in kept.answers] == [OTHER]  # the first client has begun its next step: it needs the old dual no more
    assert isinstance(solo.job, Backward)


def test_a_restarted_server_trains_nothing_twice_and_answers_again() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    solo.receive("client-2", smashed(OTHER))
    finish_job(solo)
    (second,) = solo.sent(DualVariable)
    kept = checkpoint_of(solo)
    again = server(kept)
    assert again.agent.server_steps == 2
    again.receive("client-2", smashed(OTHER))
    assert again.sent() == [second] and again.job is None
    again.receive("client-3", smashed(THIRD))
    finish_job(again)
    assert again.agent.server_steps == 3 and again.sent(DualVariable)[0].server_version == 3


def test_duals_beyond_the_bound_are_forgotten_after_a_crash() -> None:
    solo = server(checkpoint_answers_bytes_max=numbers().bytes_sent)
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    solo.receive("client-2", smashed(OTHER))
    finish_job(solo)
    again = server(checkpoint_of(solo))
    again.receive("client-1", smashed(FIRST))
    assert again.sent() == [DualRefused(FIRST, "forgotten")] and again.job is None
    again.receive("client-2", smashed(OTHER))
    assert again.sent(DualVariable)


def test_nothing_happens_at_the_cut_before_the_state_is_restored() -> None:
    solo = Solo(SplitServer(SETTINGS))
    kept = ServerCheckpoint(2, 0, (FIRST,), (), STATE)
    solo.feed(Started(1, (kept,)))
    solo.receive("client-2", smashed(OTHER))
    assert solo.job == RestoreServerState(STATE)
    job, solo.job = solo.job, None
    solo.feed(JobDone(job, ServerStateRestored()))
    assert isinstance(solo.job, Backward) or solo.sent()
