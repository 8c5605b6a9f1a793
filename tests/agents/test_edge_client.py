"""The edge client alone: a step is computed at one version, retries are byte-identical, every phase can be left and the end is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solo import Solo
from toy import LABELS, RETRY, numbers, scalars

from hosfl_async.agent import JobFailed, PeerGone, Record, Send, Stopping, TimerFired
from hosfl_async.agents import EdgeClient, EdgeClientSettings
from hosfl_async.agents.edge_client import TRANSITIONS, Phase
from hosfl_async.agents.settings import ANSWERS_REMEMBERED_MIN
from hosfl_async.agents.update_log import UpdateLog
from hosfl_async.codec import encode
from hosfl_async.errors import AgentError
from hosfl_async.jobs import Forward, ForwardDone, InstallSnapshot, Introduced, Probe, ProbeDone, Project, Projected, Replay, Replayed
from hosfl_async.messages import (
    AGGREGATOR,
    SPLIT_SERVER,
    Accepted,
    CatchUp,
    Checkpoint,
    DigestDiffers,
    DualRefused,
    DualRequest,
    DualVariable,
    HeadAnnounced,
    Join,
    JoinRefused,
    LogPage,
    ProjectedGradients,
    Refused,
    SmashedData,
    Snapshot,
    StepId,
    Tensor,
    Term,
    Welcome,
)

NAME = "client-1"
GOLDEN, INITIAL, FINAL = b"g" * 32, b"i" * 32, b"f" * 32


def step(number: int, incarnation: int = 1) -> StepId:
    return StepId(NAME, incarnation, number)


def log_of(count: int) -> UpdateLog:
    log = UpdateLog()
    for number in range(1, count + 1):
        log.append((Term(StepId("client-2", 1, number), number - 1, bytes(8)),))
    return log


class Client(Solo):
    """An edge client and short words for a step's stations."""

    def __init__(self, **changes: object) -> None:
        super().__init__(EdgeClient(replace(EdgeClientSettings(probes=2, retry=RETRY), **changes), NAME))
        self.start()

    @property
    def phase(self) -> Phase:
        return self.agent.phase

    def joined(self) -> Client:
        self.done(Introduced(GOLDEN, INITIAL))
        self.receive(AGGREGATOR, Welcome(1, 1, 0))
        return self

    def forward(self) -> Client:
        self.done(ForwardDone(numbers(str(self.job.step)), LABELS))
        return self

    def probed(self) -> Client:
        self.done(ProbeDone(self.job.step))
        return self

    def dual(self, number: int = 1, tensor: Tensor | None = None) -> Client:
        self.receive(SPLIT_SERVER, DualVariable(step(number), 1, tensor or numbers("dual", number)))
        return self

    def projected(self) -> Client:
        self.done(Projected(self.job.step, scalars(self.job.step, 2)))
        return self

    def contributed(self, number: int = 1) -> Client:
        """Through one whole step, up to its contribution."""
        return self.forward().probed().dual(number).projected()

    def accepted(self, number: int, version: int, head: int | None = None) -> Client:
        self.receive(AGGREGATOR, Accepted(step(number), version, version if head is None else head))
        return self


# -- joining ------------------------------------------------------------------------------------------


def test_it_introduces_itself_joins_and_begins_its_first_step() -> None:
    client = Client()
    client.done(Introduced(GOLDEN, INITIAL))
    assert client.sent() == [Join(1, GOLDEN, INITIAL)]
    client.receive(AGGREGATOR, Welcome(1, 3, 0))
    assert client.job == Forward(step(1, 3), 0) and client.timers == {}


def test_the_join_is_repeated_until_it_is_answered() -> None:
    client = Client()
    client.done(Introduced(GOLDEN, INITIAL))
    first = client.sent()
    for _ in range(3):
        client.feed(TimerFired("join"))
        assert client.sent() == first
    client.receive(AGGREGATOR, Welcome(9, 1, 0))  # of another boot
    assert client.phase is Phase.JOINING
    client.receive(AGGREGATOR, Welcome(1, 1, 0))
    client.receive(AGGREGATOR, Welcome(1, 2, 0))  # late: an incarnation is granted once per boot
    assert client.job.step.incarnation == 1 and client.agent.counts["retried"] == 3


def test_a_refused_join_is_the_end_but_only_that_of_its_own_boot() -> None:
    client = Client()
    client.done(Introduced(GOLDEN, INITIAL))
    client.receive(AGGREGATOR, JoinRefused(7, "old_boot"))
    assert client.phase is Phase.JOINING
    client.receive(AGGREGATOR, JoinRefused(1, "golden_differs"))
    assert client.phase is Phase.BROKEN and "golden_differs" in client.agent.broken and client.timers == {}


# -- one step -----------------------------------------------------------------------------------------


def test_eager_one_step_from_forward_to_contribution() -> None:
    client = Client().joined().forward()
    (smashed,) = client.sent()
    assert smashed == SmashedData(step(1), 0, numbers(str(step(1))), LABELS, True)
    assert client.job == Probe(step(1), 2)
    client.probed()
    assert client.job is None
    client.dual()
    assert client.job == Project(step(1), numbers("dual", 1))
    client.projected()
    assert client.sent() == [ProjectedGradients(step(1), 0, scalars(step(1), 2))]
    assert client.job is None and client.phase is Phase.RESTING
    client.accepted(1, 1, head=0)
    assert client.job == Forward(step(2), 0)


def test_the_dual_may_come_before_the_perturbed_forwards_are_done() -> None:
    client = Client().joined().forward().dual()
    assert client.job == Probe(step(1), 2)
    client.probed()
    assert client.job == Project(step(1), numbers("dual", 1)) and client.timers == {}


def test_fresh_asks_for_the_dual_when_the_perturbed_forwards_are_done() -> None:
    client = Client(dual_policy="fresh").joined().forward()
    assert not client.sent(SmashedData)[0].dual_wanted
    client.feed(TimerFired("dual"))
    assert [type(message) for message in client.sent()] == [SmashedData]
    client.probed()
    assert client.sent() == [DualRequest(step(1))]
    client.feed(TimerFired("dual"))
    assert [type(message) for message in client.sent()] == [SmashedData, DualRequest]
    client.receive(SPLIT_SERVER, DualRefused(step(1), "forgotten"))  # the request overtook its data
    assert client.phase is Phase.AWAITING_DUAL and "dual" in client.timers
    client.dual()
    assert client.phase is Phase.PROJECTING


@pytest.mark.parametrize("policy", ["eager", "fresh"])
def test_a_frozen_client_feeds_the_server_and_contributes_nothing_else(policy: str) -> None:
    client = Client(probes=0, dual_policy=policy).joined().forward()
    assert client.sent(SmashedData)[0].dual_wanted and client.sent(DualRequest) == [] and client.job is None
    client.dual()
    assert client.sent() == [ProjectedGradients(step(1), 0, ())]
    assert [type(job) for job in client.jobs[1:]] == [Forward]


@pytest.mark.parametrize("early_dual", [True, False])
def test_no_entry_is_replayed_between_forward_and_projection(early_dual: bool) -> None:
    client = Client(steps_unanswered_max=2).joined()
    page = LogPage(0, log_of(2).after(0, 64), 2)
    client.receive(AGGREGATOR, page)
    client.forward()
    if early_dual:
        client.dual().probed()
    else:
        client.probed()
        client.receive(AGGREGATOR, page)
        assert client.job is None, "the learner is free and entries wait, but the step is not over"
        client.dual()
    client.receive(AGGREGATOR, HeadAnnounced(2))
    client.projected()
    kinds = [type(job) for job in client.jobs[1:]]
    assert kinds == [Forward, Probe, Project, Replay]
    client.done(Replayed(2))
    assert client.job == Forward(step(2), 2)


def test_a_dual_of_another_step_or_a_second_one_is_late() -> None:
    client = Client().joined().forward()
    client.dual(7)
    assert client.agent.counts["duals_late"] == 1
    client.dual().dual().probed().dual().projected().dual()
    assert client.agent.counts["duals_late"] == 4 and [type(job) for job in client.jobs].count(Project) == 1


@pytest.mark.parametrize("tensor", [numbers("x", shape=(3, 2)), Tensor("int64", (2, 3), bytes(48))])
def test_a_malformed_dual_costs_the_step(tensor: Tensor) -> None:
    client = Client().joined().forward().probed().dual(tensor=tensor)
    assert client.agent.counts["duals_malformed"] == 1 and client.job == Forward(step(2), 0)


@pytest.mark.parametrize("reason", ["forgotten", "malformed"])
def test_a_step_that_the_server_refuses_for_good_is_abandoned(reason: str) -> None:
    client = Client().joined().forward().probed()
    client.receive(SPLIT_SERVER, DualRefused(step(1), reason))
    assert client.job == Forward(step(2), 0) and client.agent.counts == {f"duals_refused_{reason}": 1, "abandoned": 1}
    client.receive(SPLIT_SERVER, DualRefused(step(1), reason))  # late
    assert client.agent.counts["abandoned"] == 1


def test_a_busy_server_is_asked_again() -> None:
    client = Client().joined().forward().probed()
    first = "dual" in client.timers
    client.receive(SPLIT_SERVER, DualRefused(step(1), "busy"))
    assert first and "dual" in client.timers and client.phase is Phase.AWAITING_DUAL


def test_smashed_data_are_repeated_byte_for_byte_and_given_up_after_attempts_max() -> None:
    client = Client().joined().forward()
    (first,) = client.sent(SmashedData)
    for attempt in range(RETRY.attempts_max):
        client.feed(TimerFired("dual"))
        (again,) = client.sent()
        assert encode(NAME, again) == encode(NAME, first), attempt
    client.feed(TimerFired("dual"))
    assert client.sent() == [] and client.agent.counts["abandoned"] == 1 and client.phase is Phase.RESTING
    client.probed()  # of the abandoned step
    assert client.job == Forward(step(2), 0)


def test_whoever_gives_up_one_step_after_the_other_waits_twice_as_long_for_the_next() -> None:
    """A way to the server and back that takes longer than all repetitions must not stop a client for good."""
    client = Client().joined()
    for number in range(1, 5):
        client.forward()
        repeated = 0
        while client.phase is Phase.AWAITING_DUAL:
            client.feed(TimerFired("dual"))
            repeated += len(client.sent(SmashedData))
        assert repeated == RETRY.attempts_max * 2 ** (number - 1) and client.agent.counts["abandoned"] == number
        client.probed()
    client.forward().probed().dual(5).projected().accepted(5, 1, head=0).forward()
    for _ in range(RETRY.attempts_max + 1):
        client.feed(TimerFired("dual"))
    assert client.agent.counts["abandoned"] == 5, "answered once, its patience is as at first"


def test_a_step_given_up_long_ago_may_still_tell_that_the_run_is_over() -> None:
    client = Client().joined().forward()
    client.receive(SPLIT_SERVER, DualRefused(step(1), "forgotten"))
    client.probed().forward()
    client.receive(SPLIT_SERVER, DualRefused(step(1), "finished"))
    assert client.agent.counts["cut_off"] == 1 and client.phase is Phase.RESTING


def test_a_projection_that_fails_costs_the_step() -> None:
    client = Client().joined().forward().probed().dual()
    job, client.job = client.job, None
    client.feed(JobFailed(job, "shape"))
    assert client.agent.counts == {"projections_failed": 1, "abandoned": 1} and client.job == Forward(step(2), 0)


def test_a_projection_that_fails_after_the_run_is_over_does_no_harm() -> None:
    client = Client().joined().forward().probed().dual()
    client.receive(AGGREGATOR, HeadAnnounced(0, True))
    assert client.agent.counts["cut_off"] == 1
    job, client.job = client.job, None
    client.feed(JobFailed(job, "shape"))
    assert client.agent.counts["cut_off"] == 1 and client.phase is Phase.RESTING and client.job is not None


# -- answers ------------------------------------------------------------------------------------------


def test_a_contribution_is_repeated_byte_for_byte_until_it_is_answered() -> None:
    client = Client().joined().contributed()
    first = client.sent()
    for _ in range(3 * RETRY.attempts_max):
        client.feed(TimerFired("answer"))
        assert [encode(NAME, message) for message in client.sent(ProjectedGradients)] == [encode(NAME, message) for message in first]
    client.accepted(1, 1, head=0)
    assert "answer" not in client.timers and client.agent.counts["accepted"] == 1
    client.accepted(1, 1, head=0)
    assert client.agent.counts["accepted"] == 1


def test_whoever_is_never_answered_asks_whether_the_run_is_over() -> None:
    client = Client().joined().contributed()
    asked = 0
    for _ in range(RETRY.attempts_max + 1):
        assert not asked
        client.feed(TimerFired("answer"))
        asked += len(client.sent(CatchUp))
    assert asked == 1 and "catch_up" in client.timers
    client.receive(AGGREGATOR, LogPage(0, (), 0, finished=True))
    assert client.agent.counts.get("accepted", 0) == 0
    assert isinstance(client.job, Replay), "over: it digests the end, to have it confirmed"


def test_it_waits_for_answers_before_it_goes_further_than_allowed() -> None:
    client = Client(steps_unanswered_max=2).joined().contributed(1)
    assert client.job == Forward(step(2), 0)
    client.contributed(2)
    assert client.job is None and client.phase is Phase.RESTING
    client.feed(TimerFired("answer"))
    assert [message.step.number for message in client.sent()] == [1, 2]
    client.accepted(2, 1, head=0)
    assert client.job == Forward(step(3), 0) and "answer" in client.timers


def test_it_never_outruns_the_answers_that_the_aggregator_remembers() -> None:
    client = Client(steps_unanswered_max=2).joined().contributed(1)  # its answer is lost, and again
    number = 2
    while client.job is not None and number < 3 * ANSWERS_REMEMBERED_MIN:
        client.contributed(number).accepted(number, number - 1, head=0)
        number += 1
    assert number - 1 == ANSWERS_REMEMBERED_MIN
    client.accepted(1, 1, head=0)
    assert client.job == Forward(step(number), 0)


@pytest.mark.parametrize("reason", ["stale", "superseded", "malformed"])
def test_a_refused_contribution_is_not_repeated(reason: str) -> None:
    client = Client().joined().contributed()
    client.receive(AGGREGATOR, Refused(step(1), reason, 0))
    assert client.timers == {} and client.agent.counts[f"refused_{reason}"] == 1 and client.job == Forward(step(2), 0)


def test_a_fenced_client_stops_for_good() -> None:
    client = Client().joined().contributed()
    client.receive(AGGREGATOR, Refused(step(1, 7), "fenced", 0))  # another incarnation's
    assert not client.agent.finished
    client.receive(AGGREGATOR, Refused(step(1), "fenced", 0))
    assert client.agent.finished and "incarnation" in client.agent.broken and client.timers == {}
    assert client.feed(TimerFired("answer")) == []


# -- the log ------------------------------------------------------------------------------------------


def test_it_pulls_what_it_lacks_before_the_next_step_and_asks_once() -> None:
    client = Client().joined().contributed().accepted(1, 3)
    assert client.sent() == [CatchUp(0)] and client.job is None
    client.receive(AGGREGATOR, HeadAnnounced(3))
    assert client.sent() == []
    log = log_of(3)
    client.receive(AGGREGATOR, LogPage(0, log.after(0, 2), 3))
    assert client.job == Replay(log.after(0, 2))
    client.done(Replayed(2))
    assert client.sent() == [CatchUp(2)]
    client.receive(AGGREGATOR, LogPage(2, log.after(2, 2), 3))
    client.done(Replayed(3))
    assert client.job == Forward(step(2), 3) and client.timers == {}


def test_a_repeated_page_does_not_double_the_questions() -> None:
    client = Client().joined().contributed().accepted(1, 4)
    page = LogPage(0, log_of(4).after(0, 2), 4)
    client.receive(AGGREGATOR, page)
    client.done(Replayed(2))
    assert client.sent() == [CatchUp(2)]
    client.receive(AGGREGATOR, page)
    assert client.sent() == []
    client.receive(AGGREGATOR, Snapshot(1, numbers("theta", shape=(4,)), b"s" * 32, log_of(1).chain, 4))
    assert client.sent() == []


def test_a_page_of_an_earlier_life_leaves_a_gap_and_is_left_alone() -> None:
    client = Client().joined()
    client.receive(AGGREGATOR, LogPage(2, log_of(4).after(2, 2), 4))
    assert client.phase is Phase.FORWARD
    client.contributed()
    assert client.sent(CatchUp) == [CatchUp(0)] and client.job is None


def test_a_lost_catch_up_is_repeated() -> None:
    client = Client().joined().contributed().accepted(1, 1)
    for _ in range(5):
        client.feed(TimerFired("catch_up"))
        assert client.sent() == [CatchUp(0)]


def test_a_snapshot_replaces_entries_that_wait() -> None:
    log = log_of(6)
    client = Client().joined().contributed()
    client.receive(AGGREGATOR, HeadAnnounced(6))
    client.receive(AGGREGATOR, LogPage(0, log.after(0, 2), 6))
    assert isinstance(client.job, Replay)
    theta = numbers("theta", shape=(4,))
    client.receive(AGGREGATOR, Snapshot(5, theta, b"s" * 32, log.chain_at(5), 6))
    client.done(Replayed(2))
    assert client.job == InstallSnapshot(5, theta, b"s" * 32)
    client.receive(AGGREGATOR, LogPage(2, log.after(2, 2), 6))  # late
    client.done(Replayed(5))
    assert client.sent() == [CatchUp(5)]
    client.receive(AGGREGATOR, LogPage(5, log.after(5, 2), 6))
    assert client.job == Replay(log.after(5, 2))


def test_a_snapshot_that_its_digest_denies_stops_the_client() -> None:
    client = Client().joined().contributed()
    client.receive(AGGREGATOR, Snapshot(5, numbers("theta", shape=(4,)), b"s" * 32, log_of(5).chain, 5))
    job, client.job = client.job, None
    client.feed(JobFailed(job, "other digest"))
    assert client.agent.broken == "snapshot of version 5 refused: other digest"


def test_digests_are_taken_at_multiples_and_compared() -> None:
    client = Client(digest_every_versions=2).joined().contributed().accepted(1, 3)
    log = log_of(6)
    client.receive(AGGREGATOR, LogPage(0, log.after(0, 3), 3))
    assert client.job.digest_at == (2,)
    client.done(Replayed(3, (Checkpoint(2, FINAL),)))
    client.contributed(2).accepted(2, 4)
    assert client.sent() == [CatchUp(3, Checkpoint(2, FINAL))]
    client.receive(AGGREGATOR, DigestDiffers(2, INITIAL))
    assert client.agent.finished and "version 2" in client.agent.broken


# -- the end ------------------------------------------------------------------------------------------


def in_joining() -> Client:
    client = Client()
    client.done(Introduced(GOLDEN, INITIAL))
    return client


PHASES: dict[str, Callable[[], Client]] = {
    "joining": in_joining,
    "resting": lambda: Client().joined().contributed(),
    "forward": lambda: Client().joined(),
    "awaiting dual, probing": lambda: Client().joined().forward(),
    "awaiting dual": lambda: Client().joined().forward().probed(),
    "projecting": lambda: Client().joined().forward().probed().dual(),
}


def walk_to_the_end(client: Client, head: int = 3) -> Iterator[Phase]:
    """Whatever is under way ends; then the log is replayed and the digest confirmed."""
    log = log_of(head)
    for _ in range(12):
        yield client.phase
        if client.phase is Phase.JOINING:
            client.receive(AGGREGATOR, Welcome(1, 1, head, True))
        elif isinstance(client.job, Forward):
            client.forward()
        elif isinstance(client.job, Probe):
            client.probed()
        elif isinstance(client.job, Project):
            client.projected()
        elif isinstance(client.job, Replay):
            client.done(Replayed(head, (Checkpoint(head, FINAL),) if head in client.job.digest_at else ()))
        elif asked := client.sent(CatchUp):
            known = FINAL if asked[0].checkpoint else None
            client.receive(AGGREGATOR, LogPage(asked[0].from_version, log.after(asked[0].from_version, 64), head, known, True))
        else:
            return


@pytest.mark.parametrize("phase", PHASES)
def test_from_every_phase_the_end_of_the_run_is_reached(phase: str) -> None:
    client = PHASES[phase]()
    client.receive(AGGREGATOR, HeadAnnounced(3, True))
    phases = list(walk_to_the_end(client))
    assert client.agent.finished and client.phase is Phase.DONE and not client.agent.broken, phases
    assert client.timers == {} and client.agent.version == 3 and client.job is None
    assert client.receive(AGGREGATOR, HeadAnnounced(3, True)) == []


def test_the_end_waits_for_the_aggregators_digest_without_polling() -> None:
    client = PHASES["resting"]()
    client.receive(AGGREGATOR, Refused(step(1), "finished", 0, True))
    client.done(Replayed(0, (Checkpoint(0, INITIAL),)))
    assert client.sent() == [CatchUp(0, Checkpoint(0, INITIAL))]
    for _ in range(3):
        client.receive(AGGREGATOR, LogPage(0, (), 0, None, True))
        assert client.sent() == [] and not client.agent.finished
    client.feed(TimerFired("catch_up"))
    assert len(client.sent()) == 1
    client.receive(AGGREGATOR, LogPage(0, (), 0, INITIAL, True))
    assert client.phase is Phase.DONE


def test_a_server_that_says_the_run_is_over_sends_the_client_to_the_aggregator() -> None:
    client = Client().joined().forward().probed()
    client.receive(SPLIT_SERVER, DualRefused(step(1), "finished"))
    client.done(Replayed(0, (Checkpoint(0, INITIAL),)))
    assert client.sent() == [CatchUp(0, Checkpoint(0, INITIAL))]
    client.receive(AGGREGATOR, LogPage(0, log_of(3).after(0, 64), 3, INITIAL, True))
    list(walk_to_the_end(client))
    assert client.phase is Phase.DONE and client.agent.version == 3


# -- transitions --------------------------------------------------------------------------------------


def ways() -> dict[tuple[Phase, Phase], Callable[[], Client]]:
    """For every transition of the table, a short history that takes it last."""

    def then(phase: str, action: Callable[[Client], object]) -> Callable[[], Client]:
        def go() -> Client:
            client = PHASES[phase]()
            action(client)
            return client

        return go

    def split_brain(client: Client) -> None:
        client.receive(AGGREGATOR, DigestDiffers(0, bytes(32)))

    def over(client: Client) -> None:
        client.receive(AGGREGATOR, HeadAnnounced(0, True))

    def to_done(client: Client) -> None:
        over(client)
        list(walk_to_the_end(client, 0))

    P = Phase
    return {
        (P.JOINING, P.RESTING): then("joining", lambda client: client.receive(AGGREGATOR, Welcome(1, 1, 1))),
        (P.JOINING, P.BROKEN): then("joining", lambda client: client.receive(AGGREGATOR, JoinRefused(1, "fleet_full"))),
        (P.RESTING, P.FORWARD): then("resting", lambda client: client.accepted(1, 1, head=0)),
        (P.RESTING, P.PROJECTING): lambda: Client(estimator="local_losses").joined(),
        (P.RESTING, P.DONE): then("resting", to_done),
        (P.RESTING, P.BROKEN): then("resting", split_brain),
        (P.FORWARD, P.AWAITING_DUAL): then("forward", lambda client: client.forward()),
        (P.FORWARD, P.RESTING): then("forward", over),
        (P.FORWARD, P.BROKEN): then("forward", split_brain),
        (P.AWAITING_DUAL, P.PROJECTING): then("awaiting dual", lambda client: client.dual()),
        (P.AWAITING_DUAL, P.RESTING): then("awaiting dual, probing", over),
        (P.AWAITING_DUAL, P.BROKEN): then("awaiting dual", split_brain),
        (P.PROJECTING, P.RESTING): then("projecting", lambda client: client.projected()),
        (P.PROJECTING, P.BROKEN): then("projecting", split_brain),
    }


def test_the_table_names_every_way_and_no_other() -> None:
    assert set(ways()) == {(here, there) for here, theres in TRANSITIONS.items() for there in theres}
    reachable, frontier = {Phase.JOINING}, [Phase.JOINING]
    while frontier:
        fresh = TRANSITIONS[frontier.pop()] - reachable
        reachable |= fresh
        frontier.extend(fresh)
    assert reachable == set(Phase)


@pytest.mark.parametrize(
    ("way", "go"), ways().items(), ids=lambda value: "-".join(p.value for p in value) if isinstance(value, tuple) else ""
)
def test_every_transition_is_taken(way: tuple[Phase, Phase], go: Callable[[], Client]) -> None:
    assert go().phase is way[1]


def test_there_is_no_way_beside_the_table() -> None:
    client = Client()
    with pytest.raises(AgentError, match="no way from joining to projecting"):
        client.agent._enter(Phase.PROJECTING)


# -- whatever comes -----------------------------------------------------------------------------------


def anything() -> st.SearchStrategy:
    """Messages that real peers could have sent to this name at some time, in any order."""
    steps = st.builds(StepId, st.just(NAME), st.integers(1, 2), st.integers(1, 4))
    heads, over = st.integers(0, 6), st.sampled_from([False, False, False, True])
    log = log_of(6)
    pages = st.tuples(st.integers(0, 6), st.integers(0, 3)).map(
        lambda where: LogPage(where[0], log.after(where[0], where[1]), 6, None, where[0] + where[1] >= 6)
    )
    return st.one_of(
        st.builds(DualVariable, steps, st.just(1), st.sampled_from([numbers("dual"), numbers("dual"), numbers("x", shape=(1,))])),
        st.builds(DualRefused, steps, st.sampled_from(["busy", "forgotten", "malformed"])),
        st.builds(Accepted, steps, heads, heads),
        st.builds(Refused, steps, st.sampled_from(["stale", "superseded", "malformed"]), heads),
        st.builds(Welcome, st.integers(1, 2), st.integers(1, 2), heads),
        pages,
        st.integers(1, 6).map(lambda version: Snapshot(version, numbers("theta", shape=(4,)), b"s" * 32, log.chain_at(version), 6)),
        st.builds(HeadAnnounced, heads, over),
    )


def end_of(client: Client) -> None:
    """The learner's answer to whatever it was asked."""
    match client.job:
        case Forward():
            client.forward()
        case Probe():
            client.probed()
        case Project():
            client.projected()
        case Replay(entries, digest_at):
            version = entries[-1].version if entries else client.agent.version
            client.done(Replayed(version, tuple(Checkpoint(at, FINAL) for at in digest_at)))
        case InstallSnapshot(version):
            client.done(Replayed(version))
        case _:
            client.done(Introduced(GOLDEN, INITIAL))


@given(
    st.sampled_from(["eager", "fresh"]),
    st.integers(1, 3),
    st.lists(st.one_of(st.just("end of job"), st.integers(0, 9), anything()), max_size=60),
)
def test_whatever_comes_each_step_is_computed_at_one_version_and_contributed_once(policy: str, unanswered: int, events: list) -> None:
    client = Client(dual_policy=policy, steps_unanswered_max=unanswered)
    said: dict[StepId, ProjectedGradients] = {}
    anchored: StepId | None = None
    newest = StepId(NAME, 0, 0)
    for event in [*["end of job"], Welcome(1, 1, 0), *events]:
        if event == "end of job":
            if client.job is not None:
                end_of(client)
        elif isinstance(event, int):
            if client.timers:
                name = sorted(client.timers)[event % len(client.timers)]
                del client.timers[name]
                client.feed(TimerFired(name))
        else:
            client.receive(AGGREGATOR, event)
        for message in client.sent(ProjectedGradients):
            assert said.setdefault(message.step, message) == message
        client.effects = []
    for job in client.jobs:
        match job:
            case Forward(name, _):
                assert name > newest
                anchored = newest = name
            case Probe(name, _) | Project(name, _):
                assert name == anchored, "an entry was replayed, or another step begun, since the anchor"
            case Replay() | InstallSnapshot():
                anchored = None
    assert all(len(message.projected_gradients) == 2 for message in said.values())


def test_peers_that_go_and_a_host_that_stops_change_nothing() -> None:
    client = Client().joined()
    client.feed(PeerGone(SPLIT_SERVER))
    client.feed(Stopping())
    assert client.effects == [] and client.agent.counts == {"peers_gone": 1}


def test_measures_carry_their_step_and_their_unit() -> None:
    client = Client().joined().forward().probed()
    client.now = 2.5
    client.dual()
    assert client.effects[1] == Record("dual", {"wait_s": 2.5}, StepId("client-1", 1, 1))
    client.now = 4.0
    client.projected()
    assert client.effects[-1] == Record("step", {"duration_s": 4.0}, StepId("client-1", 1, 1))
    assert isinstance(client.effects[0], Send)
