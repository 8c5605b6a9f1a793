"""The aggregator alone: idempotent admission, durable acceptance, fencing, the log it serves, and the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solo import Solo, contribution
from toy import RETRY, SMALL_AGGREGATOR, ToyLearner, digest, hashed

from hosfl_async.agent import JobFailed, PeerGone, Persist, Record, Send, Stopping, TimerFired
from hosfl_async.agents import Aggregator, StalenessSettings
from hosfl_async.agents.update_log import entry_bytes
from hosfl_async.codec import encode
from hosfl_async.errors import AgentError
from hosfl_async.jobs import Introduce, Replay, TakeSnapshot
from hosfl_async.messages import (
    AGGREGATOR,
    CLIENTS,
    SPLIT_SERVER,
    Accepted,
    CatchUp,
    Checkpoint,
    ClientJoined,
    DigestDiffers,
    EntryCommitted,
    HeadAnnounced,
    Join,
    JoinRefused,
    LogPage,
    ProjectedGradients,
    Refused,
    Snapshot,
    StepId,
    TargetMet,
    TargetReached,
    Welcome,
)
from hosfl_async.scaling import coefficients, unpack_coefficients

GOLDEN, INITIAL = hashed("golden"), digest(ToyLearner().theta)


class Host(Solo):
    """The aggregator with its own learner; jobs are run at once unless ``learner_busy``."""

    def __init__(self, *, records: tuple = (), learner_busy: bool = False, **changes: object) -> None:
        super().__init__(Aggregator(replace(SMALL_AGGREGATOR, **{"client_steps": 100, **changes})))
        self.learner, self.learner_busy = ToyLearner(), False
        self.records = list(records)
        self.start(1, records)
        self.settle()
        self.learner_busy = learner_busy

    def feed(self, event: object) -> list:
        effects = super().feed(event)
        self.records += [effect.record for effect in effects if isinstance(effect, Persist)]
        return effects

    def settle(self) -> list:
        """The learner does what it was asked; effects of all that."""
        effects = list(self.effects)
        while self.job is not None and not self.learner_busy:
            effects += self.done(self.learner.run(self.job))
        self.effects = effects
        return effects

    def say(self, sender: str, message: object) -> list:
        self.receive(sender, message)
        self.settle()
        return self.sent()

    def join(self, client: str, boot: int = 1) -> Host:
        self.say(client, Join(boot, GOLDEN, INITIAL))
        return self

    def contribute(self, client: str, number: int, base_version: int = 0, incarnation: int = 1) -> list:
        return self.say(client, contribution(StepId(client, incarnation, number), base_version))

    def restarted(self, **changes: object) -> Host:
        return Host(records=tuple(self.records), **changes)


def host(clients: Iterable[str] = ("a", "b", "c"), **changes: object) -> Host:
    made = Host(**changes)
    for client in clients:
        made.join(client)
    return made


# -- joining ------------------------------------------------------------------------------------------


def test_an_incarnation_is_durable_before_it_is_granted() -> None:
    made = Host()
    made.say("a", Join(3, GOLDEN, INITIAL))
    assert made.effects == [Persist(ClientJoined("a", 3, 1)), Send("a", Welcome(3, 1, 0, False))]


def test_each_boot_gets_an_incarnation_of_its_own_and_a_repeated_join_the_same() -> None:
    made = host("a")
    assert made.say("a", Join(1, GOLDEN, INITIAL)) == [Welcome(1, 1, 0)]
    assert made.say("a", Join(4, GOLDEN, INITIAL)) == [Welcome(4, 2, 0)]
    assert made.say("a", Join(1, GOLDEN, INITIAL)) == [JoinRefused(1, "old_boot")]
    assert made.say("a", Join(4, GOLDEN, INITIAL)) == [Welcome(4, 2, 0)]
    assert [record.incarnation for record in made.records] == [1, 2] and made.agent.counts["joined"] == 2


@pytest.mark.parametrize(
    ("join", "reason"),
    [
        (Join(1, bytes(32), INITIAL), "golden_differs"),
        (Join(1, GOLDEN, bytes(32)), "initial_differs"),
        (Join(1, GOLDEN, INITIAL), "fleet_full"),
    ],
)
def test_who_cannot_join_is_told_why(join: Join, reason: str) -> None:
    made = host("a", clients_max=1)
    assert made.say("b", join) == [JoinRefused(1, reason)] and made.agent.counts["join_refused"] == 1


def test_joins_before_the_golden_replay_is_done_are_answered_after_it() -> None:
    made = Solo(Aggregator(replace(SMALL_AGGREGATOR, clients_max=1)))
    made.start()
    made.receive("a", Join(1, GOLDEN, INITIAL))
    made.receive("a", Join(1, GOLDEN, INITIAL))
    made.receive("b", Join(1, GOLDEN, INITIAL))
    assert made.sent() == [] and made.agent.counts["join_refused"] == 1
    made.done(ToyLearner().run(Introduce()))
    assert made.sent() == [Welcome(1, 1, 0)]


# -- admission ----------------------------------------------------------------------------------------


def test_a_full_buffer_becomes_one_entry_that_is_durable_before_anybody_is_told() -> None:
    made = host()
    assert made.contribute("b", 1) == [] and "deadline" in made.timers
    made.contribute("a", 1)
    kinds = [type(effect).__name__ for effect in made.effects if not (isinstance(effect, Record) and effect.name == "admitted")]
    assert kinds[:5] == ["Persist", "SetTimer", "Record", "Send", "Send"] and "deadline" not in made.timers
    entry = made.effects[1].record.entry
    assert [term.step.client for term in entry.terms] == ["a", "b"]
    assert made.sent(Accepted) == [Accepted(StepId(client, 1, 1), 1, 1) for client in "ab"]
    values = next(effect.values for effect in made.effects if isinstance(effect, Record) and effect.name == "commit")
    assert values == {"version": 1, "client_steps": 2, "contributions": 2, "staleness_mean_versions": 0, "by_deadline": 0}


def test_terms_are_scaled_by_the_stated_formula() -> None:
    made = host(staleness=StalenessSettings(rule="polynomial", exponent=1.0), learning_rate=0.5)
    for number in (1, 2):
        made.contribute("a", number)
        made.contribute("b", number)
    made.contribute("a", 3, base_version=1)
    made.contribute("b", 3, base_version=2)
    terms = made.records[-1].entry.terms
    for term, weight in zip(terms, (0.5, 1.0), strict=True):
        unscaled = contribution(term.step).projected_gradients
        assert term.coefficients == coefficients(unscaled, learning_rate=0.5, weight=weight, contributions=2.0)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_declining_rate_falls_in_a_straight_line_over_the_steps_in_the_log_also_after_a_restart(restarts: bool) -> None:
    settings = {"learning_rate": 0.5, "learning_rate_final_share": 0.2, "client_steps": 8, "buffer_contributions": 2}
    made = host(**settings)
    for version in range(4):
        boot = 1
        if restarts:
            made, boot = made.restarted(**settings), version + 2
            made.join("a", boot).join("b", boot)
        for client in "ab":
            made.contribute(client, version + 1, base_version=version, incarnation=boot)
    entries = [record.entry for record in made.records if isinstance(record, EntryCommitted)]
    for entry, rate in zip(entries, (0.5, 0.4, 0.3, 0.2), strict=True):
        for term in entry.terms:
            unscaled = contribution(term.step).projected_gradients
            expected = unpack_coefficients(coefficients(unscaled, learning_rate=rate, weight=1.0, contributions=2.0))
            assert unpack_coefficients(term.coefficients) == pytest.approx(expected, rel=1e-6)


def test_a_repetition_changes_nothing_and_gets_the_first_answer() -> None:
    made = host()
    made.contribute("a", 1)
    assert made.contribute("a", 1) == [], "it waits in the buffer: nothing is promised yet"
    made.contribute("b", 1)
    first = [encode(AGGREGATOR, message) for message in made.sent(Accepted) if message.step.client == "a"]
    log, chain = made.agent.log.head, made.agent.log.chain
    for _ in range(3):
        again = made.contribute("a", 1)
        assert [encode(AGGREGATOR, message) for message in again] == first
    assert (made.agent.log.head, made.agent.log.chain) == (log, chain)
    assert made.agent.counts["duplicate"] == 4 and made.agent.counts["accepted"] == 2
    made.contribute("b", 2)
    made.contribute("c", 1)
    assert made.contribute("a", 1) == [Accepted(StepId("a", 1, 1), 1, 2)], "the same answer, with the head of today"


def test_a_step_without_weight_is_refused_as_stale_and_stays_refused() -> None:
    made = host(staleness=StalenessSettings(rule="cutoff", versions_max=0), buffer_contributions=1)
    made.contribute("a", 1)
    for _ in range(2):
        assert made.contribute("b", 1, base_version=0) == [Refused(StepId("b", 1, 1), "stale", 1)]
    assert made.agent.counts["stale"] == 1 and made.agent.counts["duplicate"] == 1
    assert made.contribute("b", 2, base_version=1) == [Accepted(StepId("b", 1, 2), 2, 2)]


@pytest.mark.parametrize(
    ("base_version", "scalars"),
    [(1, (0.5, 0.5)), (0, (0.5,)), (0, ()), (0, (0.5, 0.5, 0.5)), (0, (1e300, 0.0)), (0, (float("nan"), 0.0)), (0, (float("inf"), 0.0))],
    ids=["of the future", "too few", "none", "too many", "beyond float32", "not a number", "infinite"],
)
def test_what_cannot_be_an_update_is_malformed(base_version: int, scalars: tuple[float, ...]) -> None:
    made = host(buffer_contributions=1)
    step = StepId("a", 1, 1)
    for _ in range(2):
        assert made.say("a", ProjectedGradients(step, base_version, scalars)) == [Refused(step, "malformed", 0)]
    assert made.contribute("a", 1) == [Refused(step, "malformed", 0)], "the first answer stands"
    assert made.agent.log.head == 0 and made.agent.counts["malformed"] == 1


def test_only_the_granted_incarnation_counts() -> None:
    made = host("a", buffer_contributions=1)
    made.join("a", boot=2)
    assert made.contribute("a", 1, incarnation=1) == [Refused(StepId("a", 1, 1), "fenced", 0)]
    assert made.contribute("a", 1, incarnation=3) == [Refused(StepId("a", 3, 1), "fenced", 0)]
    assert made.contribute("z", 1) == [Refused(StepId("z", 1, 1), "fenced", 0)]
    assert made.contribute("a", 1, incarnation=2) == [Accepted(StepId("a", 2, 1), 1, 1)]
    assert made.agent.counts["fenced"] == 3


def test_a_late_copy_of_a_former_lifes_accepted_step_is_fenced_off_and_changes_nothing() -> None:
    """A broker that was killed may hand a frame over again after its client's next life has joined."""
    made = host("a", buffer_contributions=1)
    assert made.contribute("a", 1) == [Accepted(StepId("a", 1, 1), 1, 1)]
    made.join("a", boot=2)
    assert made.contribute("a", 1, incarnation=1) == [Refused(StepId("a", 1, 1), "fenced", 1)]
    assert made.agent.log.head == 1 and [term.step for term in made.agent.log.after(0, 9)[0].terms] == [StepId("a", 1, 1)]


def test_a_step_of_an_older_incarnation_that_waits_in_the_buffer_is_still_committed() -> None:
    made = host()
    made.contribute("a", 1)
    made.join("a", boot=2)
    made.contribute("b", 1)
    assert [str(term.step) for term in made.records[-1].entry.terms] == ["a/1", "b/1"]


def test_another_name_than_the_senders_is_counted_and_not_answered() -> None:
    made = host()
    assert made.say("b", contribution(StepId("a", 1, 1))) == [] and made.agent.counts["impostor"] == 1


def test_a_step_older_than_the_remembered_answers_is_superseded() -> None:
    made = host("a", buffer_contributions=1)
    for number in range(2, 18):
        made.contribute("a", number, base_version=made.agent.log.head)
    assert made.contribute("a", 2)[0].version == 1, "the oldest that is still remembered"
    assert made.contribute("a", 1) == [Refused(StepId("a", 1, 1), "superseded", 16)]
    assert made.agent.log.head == 16 and made.agent.counts["superseded"] == 1


def test_the_deadline_commits_what_is_there_and_divides_by_k_all_the_same() -> None:
    made = host(buffer_contributions=3, buffer_deadline_s=7.0)
    made.contribute("a", 1)
    assert made.timers["deadline"] == 7.0
    made.contribute("b", 1)
    assert "deadline" in made.timers and made.agent.log.head == 0
    made.feed(TimerFired("deadline"))
    made.settle()
    terms = made.records[-1].entry.terms
    assert made.agent.counts["by_deadline"] == 1 and len(made.sent(Accepted)) == 2
    assert terms[0].coefficients == coefficients(
        contribution(terms[0].step).projected_gradients, learning_rate=0.5, weight=1.0, contributions=3.0
    )
    made.feed(TimerFired("deadline"))
    assert made.effects == [], "nothing waits any more"


def test_divided_by_the_weights_a_partial_buffer_has_full_weight() -> None:
    made = host(buffer_contributions=3, divide_by="weights")
    made.contribute("a", 1)
    made.feed(TimerFired("deadline"))
    (term,) = made.records[-1].entry.terms
    assert term.coefficients == coefficients(contribution(term.step).projected_gradients, learning_rate=0.5, weight=1.0, contributions=1.0)


clients = st.sampled_from("abc")


@given(
    st.lists(
        st.one_of(
            st.tuples(clients, clients, st.integers(1, 3), st.integers(1, 40), st.integers(0, 6), st.integers(0, 3)),
            st.tuples(st.just("deadline")),
            st.tuples(st.just("boot"), clients, st.integers(1, 3)),
        ),
        max_size=60,
    ),
    st.sampled_from(["polynomial", "cutoff"]),
)
def test_contributions_are_conserved_whatever_comes(events: list, rule: str) -> None:
    """``validate`` (after every event) holds the counts; here the log is held against the answers."""
    made = host(staleness=StalenessSettings(rule=rule, versions_max=2), buffer_contributions=3)
    answers: dict[StepId, int | str] = {}
    for event in events:
        if event[0] == "deadline":
            made.feed(TimerFired("deadline"))
            made.settle()
        elif event[0] == "boot":
            made.join(event[1], event[2])
        else:
            sender, client, incarnation, number, base_version, probes = event
            made.say(sender, contribution(StepId(client, incarnation, number), base_version, probes))
        for message in made.sent():
            if isinstance(message, Accepted):
                assert answers.setdefault(message.step, message.version) == message.version
            elif isinstance(message, Refused) and message.reason in ("stale", "malformed"):
                assert answers.setdefault(message.step, message.reason) == message.reason
    entries = [record.entry for record in made.records if isinstance(record, EntryCommitted)]
    logged = {term.step: entry.version for entry in entries for term in entry.terms}
    assert {step: answer for step, answer in answers.items() if isinstance(answer, int)} == logged
    assert sum(len(entry.terms) for entry in entries) == len(logged) == made.agent.counts["accepted"]


# -- restart ------------------------------------------------------------------------------------------


def test_a_restart_from_the_records_gives_the_same_log_and_the_same_answers() -> None:
    made = host()
    for number in (1, 2, 3):
        for client in "abc":
            made.contribute(client, number, base_version=made.agent.log.head)
    assert len(made.agent._buffer) == 1, "c/3 waits; it was promised nothing"
    again = made.restarted()
    assert (again.agent.log.head, again.agent.log.chain) == (made.agent.log.head, made.agent.log.chain)
    assert again.agent.steps_in_log == made.agent.steps_in_log == 8
    for client, number in [(client, number) for client in "abc" for number in (1, 2, 3)][:-1]:
        assert again.contribute(client, number) == made.contribute(client, number) != []
    assert again.contribute("c", 3) == []
    assert again.contribute("a", 4, base_version=4)[-1].version == 5
    assert again.say("a", Join(1, GOLDEN, INITIAL)) == [Welcome(1, 1, 5)]
    assert again.say("a", Join(2, GOLDEN, INITIAL)) == [Welcome(2, 2, 5)]


def test_a_restart_digests_the_log_from_the_beginning() -> None:
    made = host(buffer_contributions=1)
    for number in range(1, 6):
        made.contribute("a", number, base_version=number - 1)
    again = made.restarted(buffer_contributions=1)
    assert again.learner.version == 5 and digest(again.learner.theta) == digest(made.learner.theta)


def test_contributions_are_taken_while_a_restarted_aggregator_still_introduces_itself() -> None:
    made = host(buffer_contributions=1)
    again = Solo(Aggregator(replace(SMALL_AGGREGATOR, buffer_contributions=1)))
    again.start(2, tuple(made.records))
    again.receive("a", contribution(StepId("a", 1, 1)))
    assert [type(message) for message in again.sent()] == [Accepted] and again.job == Introduce()


# -- serving the log ----------------------------------------------------------------------------------


def filled(count: int, **changes: object) -> Host:
    made = host(buffer_contributions=1, **changes)
    for number in range(1, count + 1):
        made.contribute("a", number, base_version=number - 1)
    return made


def test_pages_are_short_and_follow_each_other() -> None:
    made = filled(5, snapshot_every_versions=100)
    (page,) = made.say("b", CatchUp(1))
    assert [entry.version for entry in page.entries] == [2, 3] and (page.from_version, page.head) == (1, 5)
    assert made.say("b", CatchUp(5)) == [LogPage(5, (), 5)]
    assert made.say("b", CatchUp(9)) == [LogPage(9, (), 5)], "the asker will see that the log cannot be behind it"


def test_strangers_are_not_served_but_the_split_server_is() -> None:
    made = filled(1)
    assert made.say("stranger", CatchUp(0)) == [] and made.agent.counts["strangers"] == 1
    assert len(made.say(SPLIT_SERVER, CatchUp(0))) == 1


def test_who_is_far_behind_gets_the_snapshot_with_its_place_in_the_chain() -> None:
    made = filled(7, snapshot_every_versions=3, snapshot_behind_versions=3)
    (snapshot,) = made.say("b", CatchUp(0))
    assert isinstance(snapshot, Snapshot) and (snapshot.version, snapshot.head, snapshot.finished) == (6, 7, False)
    assert snapshot.chain == made.records[-2].entry.chain
    (page,) = made.say("b", CatchUp(6))
    assert isinstance(page, LogPage) and page.entries[0].version == 7
    assert made.agent.counts["snapshots"] == 1


def test_a_snapshot_for_many_is_one_object_until_the_log_has_moved() -> None:
    made = filled(7, snapshot_every_versions=3, snapshot_behind_versions=3)
    (first,), (second,) = made.say("b", CatchUp(0)), made.say("a", CatchUp(0))
    assert first is second
    made.contribute("a", 8, base_version=7)
    (later,) = made.say("b", CatchUp(0))
    assert (later.version, later.head) == (6, 8) and later.parameters is first.parameters and first.head == 7


def test_who_needs_forgotten_entries_gets_the_snapshot_though_it_is_near() -> None:
    made = filled(7, entries_kept_max=1, snapshot_every_versions=3, snapshot_behind_versions=100)
    assert made.agent.log.oldest_base == 5
    assert isinstance(made.say("b", CatchUp(4))[0], Snapshot)
    assert [entry.version for entry in made.say("b", CatchUp(5))[0].entries] == [6, 7]


def test_entries_are_forgotten_only_below_a_snapshot_and_a_busy_log_does_not_prevent_it() -> None:
    made = host(buffer_contributions=1, learner_busy=True, snapshot_every_versions=3, entries_kept_max=2, page_entries_max=2)
    for number in range(1, 60):  # two commits during each job: the learner never reaches the head
        made.contribute("a", number, base_version=number - 1)
        if number % 2 == 0:
            made.done(made.learner.run(made.job))
            assert made.learner.version < made.agent.log.head
    assert any(isinstance(job, TakeSnapshot) for job in made.jobs)
    assert made.agent.log.oldest_base > 0


@pytest.mark.parametrize("entries_bytes_max", [1, 40, 100])
def test_entries_are_bounded_in_bytes_too_and_snapshots_come_in_time_for_it(entries_bytes_max: int) -> None:
    made = host(buffer_contributions=1, snapshot_every_versions=1000, snapshot_behind_versions=1000, entries_bytes_max=entries_bytes_max)
    largest = 0
    for number in range(1, 60):
        made.contribute("a", number, base_version=number - 1)
        largest = max(largest, made.agent.log.bytes - entries_bytes_max)
    entry = entry_bytes(made.agent.log.after(58, 1)[0])
    assert largest <= entry, "the latest may come on top: no snapshot covers it yet"
    snapshots = sum(isinstance(job, TakeSnapshot) for job in made.jobs)
    assert 1 < snapshots <= 59 * entry / (entries_bytes_max / 2), "each covers half of the bound at least"
    assert isinstance(made.say("b", CatchUp(0))[0], Snapshot), "whoever needs what is forgotten"
    assert isinstance(made.say("b", CatchUp(made.agent.log.oldest_base))[0], LogPage)


def test_digests_are_compared_and_a_split_brain_is_told() -> None:
    made = filled(4)
    theirs = made.agent._own_half.digest(4)
    assert isinstance(made.say("b", CatchUp(4, Checkpoint(4, theirs)))[0], LogPage)
    assert made.say("b", CatchUp(4, Checkpoint(4, bytes(32)))) == [DigestDiffers(4, theirs)]
    assert isinstance(made.say("b", CatchUp(4, Checkpoint(3, bytes(32))))[0], LogPage), "no digest was taken there"
    assert (made.agent.counts["digests_compared"], made.agent.counts["digests_differ"]) == (2, 1)


def test_digests_remembered_are_bounded() -> None:
    made = filled(12, digest_every_versions=1, digests_kept_max=3, snapshot_every_versions=100)
    assert [made.agent._own_half.digest(version) is not None for version in (8, 9, 10, 11, 12)] == [False, False, True, True, True]


# -- the end ------------------------------------------------------------------------------------------


def over(**changes: object) -> Host:
    """A run of two steps that has just ended."""
    made = host("ab", **{"client_steps": 2, "buffer_contributions": 1, **changes})
    made.contribute("a", 1)
    made.contribute("b", 1)
    return made


def test_the_last_step_ends_the_run_and_everyone_is_told() -> None:
    made = over()
    assert made.agent.over and made.sent(Accepted) == [Accepted(StepId("b", 1, 1), 2, 2, True)]
    told = [effect.recipient for effect in made.effects if isinstance(effect, Send) and isinstance(effect.message, HeadAnnounced)]
    assert told == [CLIENTS, SPLIT_SERVER] and "farewell" in made.timers
    assert made.contribute("a", 2) == [Refused(StepId("a", 1, 2), "finished", 2, True)]
    assert made.contribute("a", 2) == [Refused(StepId("a", 1, 2), "finished", 2, True)]
    assert made.contribute("a", 1) == [Accepted(StepId("a", 1, 1), 1, 2, True)]
    assert made.agent.counts["late"] == 2 and made.agent.log.head == 2


def test_the_last_buffer_does_not_wait_for_k() -> None:
    made = over(buffer_contributions=5)
    assert made.agent.over and made.agent.log.head == 1 and made.agent.counts["by_deadline"] == 0


def test_the_target_ends_the_run_after_what_was_waiting_and_durably_before_anybody_hears() -> None:
    made = host("ab", buffer_contributions=3, stop_at_accuracy=0.8)
    made.contribute("a", 1)
    made.receive(SPLIT_SERVER, TargetReached(0, 0.85))
    what = [
        type(effect.record) if isinstance(effect, Persist) else type(effect.message)
        for effect in made.effects
        if isinstance(effect, Persist | Send)
    ]
    assert what == [EntryCommitted, Accepted, TargetMet, HeadAnnounced, HeadAnnounced]
    assert made.sent(Accepted) == [Accepted(StepId("a", 1, 1), 1, 1, False)] and made.sent(HeadAnnounced) == [HeadAnnounced(1, True)] * 2
    assert made.agent.over and made.agent.target_met and "deadline" not in made.timers
    made.settle()
    assert made.contribute("b", 1) == [Refused(StepId("b", 1, 1), "finished", 1, True)]
    made.receive(SPLIT_SERVER, TargetReached(1, 0.9))
    assert made.sent() == [HeadAnnounced(1, True)] and not any(isinstance(effect, Persist) for effect in made.effects)


def test_a_restarted_aggregator_still_knows_that_its_run_is_over_unless_the_target_is_higher_now() -> None:
    made = host("a", stop_at_accuracy=0.8)
    made.receive(SPLIT_SERVER, TargetReached(0, 0.85))
    assert Host(records=tuple(made.records), stop_at_accuracy=0.8).agent.over
    assert Host(records=tuple(made.records), stop_at_accuracy=0.85).agent.over
    assert not Host(records=tuple(made.records), stop_at_accuracy=0.9).agent.over
    assert not Host(records=tuple(made.records)).agent.over


@pytest.mark.parametrize(
    ("sender", "report", "target"),
    [
        ("a", TargetReached(0, 0.9), 0.8),
        (SPLIT_SERVER, TargetReached(0, 0.7), 0.8),
        (SPLIT_SERVER, TargetReached(1, 0.9), 0.8),
        (SPLIT_SERVER, TargetReached(0, 0.9), 0.0),
    ],
    ids=["from a client", "below the target", "of a version of the future", "without a target"],
)
def test_a_report_that_is_no_end_is_counted_and_changes_nothing(sender: str, report: TargetReached, target: float) -> None:
    made = host("a", stop_at_accuracy=target)
    assert made.receive(sender, report) == []
    assert not made.agent.over and made.agent.counts["targets_refused"] == 1


def confirm(made: Host, peer: str) -> list:
    return made.say(peer, CatchUp(made.agent.log.head, Checkpoint(made.agent.log.head, made.agent.final_digest)))


def test_it_is_finished_when_every_peer_has_confirmed_the_final_digest() -> None:
    made = over()
    for peer in ("a", "b"):
        assert not made.agent.finished
        (page,) = confirm(made, peer)
        assert (page.digest, page.finished) == (made.agent.final_digest, True)
    made.feed(TimerFired("farewell"))
    assert made.sent() == [HeadAnnounced(2, True)]
    confirm(made, SPLIT_SERVER)
    assert made.agent.finished and made.agent.confirmed == {"a", "b", SPLIT_SERVER}


def test_farewells_end() -> None:
    made = over(farewells_max=3)
    said = 1
    while made.timers:
        made.timers.clear()
        made.feed(TimerFired("farewell"))
        said += len(made.sent(HeadAnnounced))
    assert made.agent.finished and said == 4


def test_who_is_gone_is_not_waited_for_unless_it_comes_back() -> None:
    made = over()
    made.timers.clear()
    for peer in ("a", SPLIT_SERVER):
        confirm(made, peer)
    made.feed(PeerGone("b"))
    assert made.agent.finished and made.agent.counts["peers_gone"] == 1
    made.say("b", CatchUp(0))
    assert not made.agent.finished and "farewell" in made.timers
    confirm(made, "b")
    assert made.agent.finished


def test_who_was_gone_before_the_end_is_not_waited_for() -> None:
    made = host("ab", client_steps=1, buffer_contributions=1)
    made.feed(PeerGone("b"))
    made.feed(PeerGone("nobody"))
    made.contribute("a", 1)
    for peer in ("a", SPLIT_SERVER):
        confirm(made, peer)
    assert made.agent.finished


def test_who_joins_after_the_end_is_led_to_it() -> None:
    made = over()
    for peer in ("a", "b", SPLIT_SERVER):
        confirm(made, peer)
    assert made.say("c", Join(1, GOLDEN, INITIAL))[0] == Welcome(1, 1, 2, True)
    assert not made.agent.finished
    confirm(made, "c")
    assert made.agent.finished


def test_restarted_after_the_end_it_says_farewell_again() -> None:
    made = over()
    again = made.restarted(client_steps=2, buffer_contributions=1)
    assert again.sent(HeadAnnounced) == [HeadAnnounced(2, True)] and again.agent.final_digest == made.agent.final_digest
    for peer in ("a", "b", SPLIT_SERVER):
        confirm(again, peer)
    assert again.agent.finished


def test_the_final_digest_is_taken_even_where_no_multiple_falls() -> None:
    made = over(digest_every_versions=100)
    assert made.agent.final_digest == digest(made.learner.theta)
    assert [job.digest_at for job in made.jobs if isinstance(job, Replay)] == [(), (2,)]


# -- faults of our own --------------------------------------------------------------------------------


def test_a_job_of_its_own_that_fails_is_a_fault() -> None:
    made = Solo(Aggregator(SMALL_AGGREGATOR))
    made.start()
    with pytest.raises(AgentError, match="Introduce failed: golden"):
        made.agent.handle(JobFailed(Introduce(), "golden"), 0.0)


def test_a_host_that_stops_changes_nothing() -> None:
    made = host()
    made.contribute("a", 1)
    assert made.feed(Stopping()) == []


def test_validate_notices_a_contribution_that_is_not_accounted_for() -> None:
    made = host()
    made.agent.counts["received"] += 1
    with pytest.raises(AgentError, match="not conserved"):
        made.agent.validate()


def test_pauses_between_farewells_stay_within_their_bounds() -> None:
    made = over()
    pauses = []
    for _ in range(8):
        pauses.append(made.timers["farewell"])
        made.feed(TimerFired("farewell"))
    assert all(RETRY.first_s <= pause < 1.5 * RETRY.max_s for pause in pauses)
