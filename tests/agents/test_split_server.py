"""The split server alone: one step trains once, repetitions get the first answer, bounds hold, the end is evaluated once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solo import Solo, smashed
from toy import RETRY, SMALL_SERVER, numbers

from hosfl_async.agent import JobFailed, PeerGone, Persist, Record, RunJob, SetTimer, Started, Stopping, TimerFired
from hosfl_async.agents import SplitServer, SplitServerSettings, StalenessSettings
from hosfl_async.agents.update_log import UpdateLog
from hosfl_async.errors import AgentError
from hosfl_async.jobs import (
    Backward,
    BackwardDone,
    BackwardsDone,
    BackwardTogether,
    Estimate,
    Evaluate,
    Evaluated,
    EvaluateDual,
    InstallSnapshot,
    Replay,
    Replayed,
)
from hosfl_async.messages import (
    AGGREGATOR,
    CatchUp,
    Checkpoint,
    DigestDiffers,
    DualRefused,
    DualRequest,
    DualVariable,
    HeadAnnounced,
    LogPage,
    Snapshot,
    StepId,
    TargetReached,
    Term,
)

FIRST = StepId("client-1", 1, 1)
SECOND = StepId("client-1", 1, 2)
OTHER = StepId("client-2", 1, 1)
THIRD = StepId("client-3", 1, 1)


def server(**changes: object) -> Solo:
    """A server that has made its first evaluation, at version 0."""
    solo = Solo(SplitServer(replace(SplitServerSettings(evaluate_every_steps=0, retry=RETRY), **changes)))
    solo.start()
    solo.receive(AGGREGATOR, LogPage(0, (), 0))
    assert isinstance(solo.job, Evaluate)
    solo.done(Evaluated(0, 0.1, 2.3, 10))
    return solo


def finish_job(solo: Solo, number: int = 1) -> list:
    job = solo.job
    return solo.done(BackwardDone(job.step, numbers("dual", str(job.step), number), 1.0))


# -- the cut ------------------------------------------------------------------------------------------


def test_smashed_data_train_one_step_and_are_answered_with_the_dual() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    assert isinstance(solo.job, Backward) and solo.job.weight == 1.0
    finish_job(solo)
    (dual,) = solo.sent()
    assert isinstance(dual, DualVariable) and (dual.step, dual.server_version) == (FIRST, 1)
    assert solo.agent.counts["trained"] == 1


def test_an_untrained_half_is_evaluated_before_it_is_trained_however_late_the_log_is() -> None:
    """Otherwise the first point of a curve depends on which message is faster."""
    solo = Solo(SplitServer(SplitServerSettings(micro_batch_max=2, micro_batch_wait_s=0.5)))
    solo.feed(Started(1))
    solo.receive("client-1", smashed(FIRST))
    solo.now = 9.0
    solo.receive("client-2", smashed(OTHER))
    assert solo.job is None and "micro_batch" not in solo.timers
    solo.receive(AGGREGATOR, LogPage(0, (), 0))
    assert isinstance(solo.job, Evaluate)
    solo.done(Evaluated(0, 0.1, 2.3, 10))
    assert [part.step for part in solo.job.parts] == [FIRST, OTHER]


def test_a_repetition_gets_the_same_dual_and_trains_nothing() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    solo.receive("client-1", smashed(FIRST))
    assert solo.sent() == []  # still being computed: the dual will answer both
    finish_job(solo)
    first = solo.sent()
    solo.receive("client-2", smashed(OTHER))
    finish_job(solo)
    solo.receive("client-1", smashed(FIRST))
    assert solo.sent() == first and solo.job is None
    assert [job.step for job in solo.jobs if isinstance(job, Backward)] == [FIRST, OTHER]


def test_an_older_step_or_incarnation_is_never_trained() -> None:
    solo = server()
    solo.receive("client-1", smashed(StepId("client-1", 2, 1)))
    finish_job(solo)
    for late in (FIRST, SECOND, StepId("client-1", 1, 99)):
        solo.receive("client-1", smashed(late))
        assert solo.sent() == [DualRefused(late, "forgotten")] and solo.job is None


def test_another_name_than_the_senders_is_counted_and_not_answered() -> None:
    solo = server()
    for message in (smashed(FIRST), DualRequest(FIRST)):
        solo.receive("client-2", message)
        assert solo.effects == []
    assert solo.agent.counts["impostor"] == 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(1, 4), st.booleans()), max_size=40))
def test_under_any_duplication_and_reordering_a_step_trains_at_most_once_and_has_one_dual(events: list) -> None:
    solo = server(answers_remembered_max=3, queue_max=2)
    duals: dict[StepId, DualVariable] = {}
    for client, incarnation, number, finish in events:
        solo.receive(client, smashed(StepId(client, incarnation, number)))
        for dual in solo.sent(DualVariable):
            assert duals[dual.step] == dual
        if finish and solo.job is not None:
            finish_job(solo, len(solo.jobs))
            for dual in solo.sent(DualVariable):
                assert duals.setdefault(dual.step, dual) == dual
    assert set(Counter(job.step for job in solo.jobs if isinstance(job, Backward)).values()) <= {1}


def test_what_fell_out_of_memory_is_forgotten_not_trained_again() -> None:
    solo = server(answers_remembered_max=1)
    for step in (FIRST, OTHER):
        solo.receive(step.client, smashed(step))
        finish_job(solo)
    solo.receive("client-1", smashed(FIRST))
    assert solo.sent() == [DualRefused(FIRST, "forgotten")]
    assert solo.agent.counts["evictions"] == 1 and solo.job is None


def test_what_waits_for_the_learner_is_never_pushed_out_of_the_memory() -> None:
    """Otherwise each new step makes the server forget one whose dual it is about to compute, and nobody ever gets one."""
    solo = server(answers_remembered_max=1, queue_max=4)
    solo.receive("client-1", smashed(FIRST))
    other = StepId("client-2", 1, 1)
    solo.receive("client-2", smashed(other))
    assert solo.sent() == [DualRefused(other, "busy")] and solo.agent.counts["evictions"] == 0
    finish_job(solo)
    assert [message.step for message in solo.sent(DualVariable)] == [FIRST]
    solo.receive("client-2", smashed(other))
    assert solo.sent() == [] and solo.agent.counts["evictions"] == 1 and solo.job.step == other


def test_activations_that_do_not_fit_are_malformed_every_time() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    job, solo.job = solo.job, None
    solo.feed(JobFailed(job, "shape"))
    assert solo.sent() == [DualRefused(FIRST, "malformed")]
    solo.receive("client-1", smashed(FIRST))
    assert solo.sent() == [DualRefused(FIRST, "malformed")]
    assert solo.agent.counts["malformed"] == 1 and not solo.agent.finished


# -- bounds -------------------------------------------------------------------------------------------


def test_a_full_queue_answers_busy_and_takes_the_step_later() -> None:
    solo = server(queue_max=1)
    solo.receive("client-1", smashed(FIRST))  # at the learner
    solo.receive("client-2", smashed(OTHER))  # in the queue
    solo.receive("client-3", smashed(THIRD))
    assert solo.sent() == [DualRefused(THIRD, "busy")]
    finish_job(solo)
    solo.receive("client-3", smashed(THIRD))
    assert solo.sent() == []
    finish_job(solo)
    finish_job(solo)
    assert [dual.step for dual in solo.sent()] == [THIRD]
    assert solo.agent.counts["busy"] == 1


def test_the_queue_is_bound_by_bytes_but_always_takes_one() -> None:
    data = smashed(OTHER)
    size = len(data.activations.data)
    solo = server(queue_bytes_max=2 * size)
    names = [StepId(f"client-{number}", 1, 1) for number in range(1, 5)]
    answers = []
    for step in names:
        solo.receive(step.client, smashed(step))
        answers.append([message.reason for message in solo.sent(DualRefused)])
    assert answers == [[], [], [], ["busy"]]  # one at the learner, two wait
    tight = server(queue_bytes_max=1)
    tight.receive("client-1", smashed(FIRST))
    finish_job(tight)
    assert tight.sent(DualVariable), "the bound must not shut out a single large step"


def test_a_dual_that_must_wait_in_a_full_queue_is_refused_as_busy() -> None:
    """Policy fresh: a request joins the queue like smashed data do, under the same bound."""
    solo = server(queue_max=1)
    solo.receive("client-1", smashed(FIRST, wanted=False))
    finish_job(solo)
    solo.receive("client-2", smashed(OTHER))
    solo.receive("client-3", smashed(THIRD))
    solo.receive("client-1", DualRequest(FIRST))
    assert solo.sent() == [DualRefused(FIRST, "busy")]
    finish_job(solo)
    finish_job(solo)
    solo.receive("client-1", DualRequest(FIRST))
    finish_job(solo)
    assert [dual.step for dual in solo.sent(DualVariable)] == [FIRST]


# -- micro-batches ------------------------------------------------------------------------------------


def finish_together(solo: Solo) -> list:
    return solo.done(BackwardsDone(tuple(BackwardDone(part.step, numbers("dual", str(part.step)), 1.0) for part in solo.job.parts)))


def test_what_came_while_the_server_was_busy_trains_together_in_one_step() -> None:
    solo = server(micro_batch_max=2)
    for step in (FIRST, OTHER, THIRD, StepId("client-4", 1, 1)):
        solo.receive(step.client, smashed(step))
    assert isinstance(solo.job, Backward), "nobody waits where no waiting is set"
    finish_job(solo)
    assert isinstance(solo.job, BackwardTogether) and [part.step for part in solo.job.parts] == [OTHER, THIRD]
    finish_together(solo)
    duals = solo.sent(DualVariable)
    assert [(dual.step, dual.server_version) for dual in duals] == [(OTHER, 2), (THIRD, 2)]
    assert [dual.dual for dual in duals] == [numbers("dual", str(step)) for step in (OTHER, THIRD)], "each its own"
    assert (solo.agent.server_steps, solo.agent.counts["trained"], solo.agent.counts["micro_batches"]) == (2, 3, 2)
    solo.receive(THIRD.client, smashed(THIRD))
    assert solo.sent() == duals[1:], "a repetition gets the same dual"


def test_activations_wait_for_company_but_not_longer_than_set() -> None:
    solo = server(micro_batch_max=3, micro_batch_wait_s=2.0)
    solo.receive(FIRST.client, smashed(FIRST))
    assert solo.job is None and solo.timers["micro_batch"] == 2.0
    solo.now = 1.0
    solo.receive(OTHER.client, smashed(OTHER))
    assert solo.job is None
    solo.now = 2.0
    del solo.timers["micro_batch"]
    solo.feed(TimerFired("micro_batch"))
    assert [part.step for part in solo.job.parts] == [FIRST, OTHER]
    finish_together(solo)
    for step in (StepId("client-1", 1, 2), StepId("client-2", 1, 2), THIRD):
        assert solo.job is None
        solo.receive(step.client, smashed(step))
    assert len(solo.job.parts) == 3 and "micro_batch" not in solo.timers, "full, so nobody waits any more"


def test_a_failed_micro_batch_costs_only_the_guilty_their_step() -> None:
    solo = server(micro_batch_max=3, micro_batch_wait_s=1.0)
    for step in (FIRST, OTHER, THIRD):
        solo.receive(step.client, smashed(step))
    together, solo.job = solo.job, None
    solo.feed(JobFailed(together, "shape"))
    assert solo.sent() == [] and solo.job == together.parts[0]
    finish_job(solo)
    guilty, solo.job = solo.job, None
    solo.feed(JobFailed(guilty, "shape"))
    assert solo.sent() == [DualRefused(OTHER, "malformed")]
    finish_job(solo)
    assert [dual.step for dual in solo.sent(DualVariable)] == [THIRD]
    counts = solo.agent.counts
    assert (counts["taken_apart"], counts["malformed"], counts["trained"], solo.agent.server_steps) == (1, 1, 2, 2)


def test_the_end_dismisses_those_who_wait_for_company() -> None:
    solo = server(micro_batch_max=3, micro_batch_wait_s=5.0)
    solo.receive(FIRST.client, smashed(FIRST))
    solo.receive(AGGREGATOR, HeadAnnounced(0, True))
    assert solo.sent(DualRefused) == [DualRefused(FIRST, "finished")]
    assert "micro_batch" not in solo.timers and solo.agent.counts["trained"] == 0


# -- other servers ------------------------------------------------------------------------------------


def test_a_server_that_only_runs_forward_passes_answers_with_slopes_and_steps_unless_too_stale() -> None:
    stale = StalenessSettings(rule="cutoff", versions_max=1)
    solo = server(estimator="server_losses", steps_per_activation=3, staleness=stale)
    solo.receive("client-1", smashed(FIRST, 4))
    assert isinstance(solo.job, Estimate) and solo.job.steps == 3
    solo.done(BackwardDone(FIRST, numbers("slopes", shape=(2,)), 1.0))
    assert [dual.dual.shape for dual in solo.sent(DualVariable)] == [(2,)] and solo.agent.server_steps == 3
    solo.receive("client-2", smashed(OTHER, 1))
    assert isinstance(solo.job, Estimate) and solo.job.steps == 0, "answered, but nothing is learnt from it"
    finish_job(solo)
    assert solo.sent(DualVariable) and solo.agent.server_steps == 3 and solo.agent.counts["duals_evaluated"] == 1
    solo.receive("client-3", smashed(THIRD, 4))
    failed, solo.job = solo.job, None
    solo.feed(JobFailed(failed, "shape"))
    assert solo.sent() == [DualRefused(THIRD, "malformed")]


def test_a_server_without_steps_evaluates_at_announced_versions() -> None:
    solo = server(evaluate_every_versions=2)
    log = log_of(5)
    solo.receive(AGGREGATOR, HeadAnnounced(1))
    assert solo.sent() == []
    solo.receive(AGGREGATOR, HeadAnnounced(2))
    assert solo.sent() == [CatchUp(0)]
    solo.receive(AGGREGATOR, LogPage(0, log.after(0, 3), 3))
    solo.done(Replayed(3))
    assert isinstance(solo.job, Evaluate)
    solo.done(Evaluated(3, 0.5, 1.0, 10))
    solo.receive(AGGREGATOR, HeadAnnounced(3))
    assert solo.sent() == [], "evaluated already"
    solo.receive(AGGREGATOR, HeadAnnounced(4))
    assert solo.sent() == [CatchUp(3)]


def evaluated(solo: Solo, version: int, accuracy: float) -> None:
    """The next evaluation gives this."""
    solo.receive(AGGREGATOR, HeadAnnounced(version))
    log = log_of(version)
    at = solo.agent._follower.version
    solo.receive(AGGREGATOR, LogPage(at, log.after(at, version - at), version))
    solo.done(Replayed(version))
    solo.done(Evaluated(version, accuracy, 1.0, 10))


def test_a_target_that_is_reached_is_reported_until_the_end_is_heard_of() -> None:
    solo = server(evaluate_every_versions=1, stop_at_accuracy=0.8)
    evaluated(solo, 1, 0.79)
    assert solo.sent(TargetReached) == [] and "target" not in solo.timers
    evaluated(solo, 2, 0.8)
    assert solo.sent(TargetReached) == [TargetReached(2, 0.8)]
    solo.feed(TimerFired("target"))
    assert solo.sent(TargetReached) == [TargetReached(2, 0.8)]
    solo.receive(AGGREGATOR, HeadAnnounced(2, True))
    solo.feed(TimerFired("target"))
    assert solo.sent(TargetReached) == [] and solo.agent.counts["targets_reported"] == 2


def test_reports_of_a_target_end_and_begin_anew_with_the_next_evaluation() -> None:
    solo = server(evaluate_every_versions=1, stop_at_accuracy=0.8)
    evaluated(solo, 1, 0.9)
    said = 1
    while solo.timers.pop("target", None) is not None:
        solo.feed(TimerFired("target"))
        said += len(solo.sent(TargetReached))
    assert said == RETRY.attempts_max + 1
    evaluated(solo, 2, 0.85)
    assert solo.sent(TargetReached) == [TargetReached(2, 0.85)]


# -- policy fresh -------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False])
def test_fresh_trains_on_arrival_and_evaluates_the_dual_when_asked(early: bool) -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST, wanted=False))
    if early:
        solo.receive("client-1", DualRequest(FIRST))
    finish_job(solo)
    assert solo.sent() == []
    if not early:
        assert solo.job is None
        solo.receive("client-1", DualRequest(FIRST))
    assert isinstance(solo.job, EvaluateDual)
    solo.receive("client-1", DualRequest(FIRST))  # repeated while it is evaluated
    finish_job(solo, 2)
    first = solo.sent()
    assert [dual.step for dual in first] == [FIRST]
    solo.receive("client-1", DualRequest(FIRST))
    assert solo.sent() == first and solo.job is None
    solo.receive("client-1", smashed(FIRST, wanted=False))
    assert solo.sent() == first and solo.job is None
    assert (solo.agent.server_steps, solo.agent.counts["duals_evaluated"]) == (1, 1)


def test_a_request_that_overtakes_its_data_is_told_so() -> None:
    solo = server()
    solo.receive("client-1", DualRequest(FIRST))
    assert solo.sent() == [DualRefused(FIRST, "forgotten")]


def test_the_servers_own_staleness_policy_weighs_its_step_or_skips_it() -> None:
    solo = server(staleness=StalenessSettings(rule="polynomial", exponent=1.0))
    solo.receive("client-1", smashed(FIRST, 4))
    solo.receive("client-2", smashed(OTHER, 1))
    finish_job(solo)
    assert solo.job.weight == 0.25
    none = server(staleness=StalenessSettings(rule="cutoff", versions_max=1))
    none.receive("client-1", smashed(FIRST, 4))
    none.receive("client-2", smashed(OTHER, 1))
    finish_job(none)
    assert isinstance(none.job, EvaluateDual)
    finish_job(none)
    assert none.sent(DualVariable) and none.agent.server_steps == 1


# -- following the log, evaluating, ending ------------------------------------------------------------


def log_of(count: int) -> UpdateLog:
    log = UpdateLog()
    for number in range(1, count + 1):
        log.append((Term(StepId("client-1", 1, number), number - 1, bytes(8)),))
    return log


def test_an_evaluation_is_due_every_so_many_steps_and_waits_for_the_head_of_the_log() -> None:
    solo = server(evaluate_every_steps=2)
    for step in (FIRST, OTHER):
        solo.receive(step.client, smashed(step))
        finish_job(solo)
    assert solo.sent(CatchUp) == [CatchUp(0)]
    solo.receive("client-1", smashed(SECOND))
    assert isinstance(solo.job, Backward), "training goes on while the log is fetched"
    finish_job(solo)
    log = log_of(3)
    solo.receive(AGGREGATOR, LogPage(0, log.after(0, 2), 3))
    assert isinstance(solo.job, Replay)
    solo.done(Replayed(2))
    assert solo.sent(CatchUp) == [CatchUp(2)]
    solo.receive(AGGREGATOR, LogPage(2, log.after(2, 2), 3))
    solo.done(Replayed(3))
    assert isinstance(solo.job, Evaluate)
    solo.done(Evaluated(3, 0.5, 1.0, 10))
    (record,) = [effect for effect in solo.effects if isinstance(effect, Record)]
    assert (record.name, record.values["version"], record.values["last"]) == ("evaluation", 3.0, 0.0)
    assert solo.job is None and solo.sent() == []


def ended(solo: Solo, head: int = 2) -> None:
    """Announce the end and walk the server to its last evaluation."""
    log = log_of(head)
    solo.receive(AGGREGATOR, HeadAnnounced(head, True))
    assert solo.sent(CatchUp) == [CatchUp(0)]
    solo.receive(AGGREGATOR, LogPage(0, log.after(0, 64), head, None, True))
    assert isinstance(solo.job, Replay) and solo.job.digest_at == (head,)
    solo.done(Replayed(head, (Checkpoint(head, b"d" * 32),)))
    assert isinstance(solo.job, Evaluate)
    solo.done(Evaluated(head, 0.9, 0.2, 10))


def test_the_end_is_evaluated_exactly_once_and_confirmed() -> None:
    solo = server()
    ended(solo)
    assert not solo.agent.finished
    assert solo.sent(CatchUp) == [CatchUp(2, Checkpoint(2, b"d" * 32))]
    solo.receive(AGGREGATOR, LogPage(2, (), 2, None, True))  # the aggregator has not digested the end yet
    assert solo.sent() == [] and "catch_up" in solo.timers
    solo.feed(TimerFired("catch_up"))
    assert len(solo.sent(CatchUp)) == 1
    solo.receive(AGGREGATOR, LogPage(2, (), 2, b"d" * 32, True))
    assert solo.agent.finished and solo.timers == {}
    solo.receive(AGGREGATOR, HeadAnnounced(2, True))
    assert [type(job) for job in solo.jobs].count(Evaluate) == 2  # the first and the last
    assert solo.effects == []


def test_a_server_left_in_silence_asks_whether_the_run_is_over_ever_more_rarely() -> None:
    solo = server(silence_s=10.0, silences_max=3)
    pauses = []
    while "silence" in solo.timers:
        pauses.append(solo.timers.pop("silence"))
        solo.feed(TimerFired("silence"))
        assert solo.sent() == [CatchUp(0)]
        solo.receive(AGGREGATOR, LogPage(0, (), 0))
    assert pauses == [10.0, 20.0, 40.0] and solo.agent.counts["silences"] == 3
    solo.receive("client-1", smashed(FIRST))
    assert solo.timers["silence"] == 10.0, "the next smashed data begin anew"
    finish_job(solo)
    solo.feed(TimerFired("silence"))
    solo.feed(TimerFired("silence"))
    solo.receive(AGGREGATOR, LogPage(0, (), 0, None, True))  # the announcement was lost; the answer tells it
    assert isinstance(solo.job, Replay)


def test_a_server_that_is_fed_asks_nothing() -> None:
    solo = server()
    for number in range(1, 4):
        solo.receive("client-1", smashed(StepId("client-1", 1, number)))
        finish_job(solo)
        solo.feed(TimerFired("silence"))
        assert solo.sent() == [] and solo.timers["silence"] == SplitServerSettings().silence_s
    assert solo.agent.counts["silences"] == 0


def test_at_the_end_the_queue_is_dismissed_and_repetitions_are_told_so() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    solo.receive("client-2", smashed(OTHER))
    solo.receive(AGGREGATOR, HeadAnnounced(0, True))
    assert solo.sent(DualRefused) == [DualRefused(OTHER, "finished")]
    finish_job(solo)
    assert [dual.step for dual in solo.sent(DualVariable)] == [FIRST], "what is at the learner is answered"
    for _ in range(2):
        solo.receive("client-2", smashed(OTHER))
        assert solo.sent() == [DualRefused(OTHER, "finished")]
    solo.receive("client-3", smashed(THIRD))
    assert solo.sent() == [DualRefused(THIRD, "finished")]


def test_a_fresh_request_after_the_end_is_told_so() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST, wanted=False))
    finish_job(solo)
    ended(solo)
    solo.receive(AGGREGATOR, LogPage(2, (), 2, b"d" * 32, True))
    assert solo.agent.finished
    solo.receive("client-1", DualRequest(FIRST))
    assert solo.sent() == [DualRefused(FIRST, "finished")]


def test_an_end_that_is_heard_during_an_evaluation_is_digested_and_confirmed() -> None:
    solo = server(evaluate_every_steps=1)
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    log = log_of(2)
    solo.receive(AGGREGATOR, LogPage(0, log.after(0, 64), 2))
    solo.done(Replayed(2))
    assert isinstance(solo.job, Evaluate)
    solo.receive(AGGREGATOR, HeadAnnounced(2, True))
    solo.done(Evaluated(2, 0.9, 0.2, 10))
    assert solo.job == Replay((), (2,))
    solo.done(Replayed(2, (Checkpoint(2, b"d" * 32),)))
    assert solo.sent(CatchUp) == [CatchUp(2, Checkpoint(2, b"d" * 32))] and solo.job is None


def test_a_repeated_page_does_not_double_the_questions() -> None:
    solo = server(evaluate_every_steps=1)
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    page = LogPage(0, log_of(4).after(0, 2), 4)
    solo.receive(AGGREGATOR, page)
    solo.done(Replayed(2))
    assert solo.sent(CatchUp) == [CatchUp(2)]
    solo.receive(AGGREGATOR, page)
    assert solo.sent() == []


def test_a_snapshot_is_installed_and_the_tail_is_replayed() -> None:
    solo = server(evaluate_every_steps=1)
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    log = log_of(4)
    solo.receive(AGGREGATOR, Snapshot(3, numbers("theta", shape=(4,)), b"s" * 32, log.chain_at(3), 4))
    assert isinstance(solo.job, InstallSnapshot)
    solo.done(Replayed(3))
    assert solo.sent(CatchUp) == [CatchUp(3)]
    solo.receive(AGGREGATOR, LogPage(3, log.after(3, 64), 4))
    solo.done(Replayed(4))
    assert isinstance(solo.job, Evaluate)


def test_a_log_that_does_not_hold_together_stops_the_server() -> None:
    solo = server(evaluate_every_steps=1)
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    entry = log_of(1).after(0, 1)[0]
    solo.receive(AGGREGATOR, LogPage(0, (type(entry)(1, entry.terms, bytes(32)),), 1))
    assert solo.agent.finished and "chain" in solo.agent.broken and solo.agent.counts["log_refused"] == 1


def test_other_parameters_than_the_aggregators_stop_the_server() -> None:
    solo = server()
    solo.receive(AGGREGATOR, DigestDiffers(2, bytes(32)))
    assert solo.agent.finished and "version 2" in solo.agent.broken


def test_a_failed_replay_stops_the_server() -> None:
    solo = Solo(SplitServer(SMALL_SERVER))
    solo.start()
    solo.receive(AGGREGATOR, LogPage(0, log_of(1).after(0, 1), 1))
    job, solo.job = solo.job, None
    solo.feed(JobFailed(job, "no memory"))
    assert solo.agent.finished and solo.agent.broken == "Replay failed: no memory"


def test_the_catch_up_is_repeated_with_growing_pauses() -> None:
    solo = Solo(SplitServer(SMALL_SERVER))
    solo.start()
    pauses = [solo.timers["catch_up"]]
    for _ in range(6):
        solo.feed(TimerFired("catch_up"))
        assert solo.sent() == [CatchUp(0)]
        pauses.append(solo.timers["catch_up"])
    assert pauses[1] > pauses[0] and all(RETRY.first_s <= pause < 1.5 * RETRY.max_s for pause in pauses)
    assert solo.agent.counts["retried"] == 6


def test_peers_that_go_and_a_host_that_stops_change_nothing() -> None:
    solo = server()
    solo.feed(PeerGone("client-1"))
    solo.feed(Stopping())
    assert solo.effects == [] and solo.agent.counts["peers_gone"] == 1


def test_the_server_persists_nothing_and_says_so_by_its_effects() -> None:
    solo = server()
    solo.receive("client-1", smashed(FIRST))
    finish_job(solo)
    assert not any(isinstance(effect, Persist) for effect in solo.effects)
    assert not any(isinstance(effect, RunJob | SetTimer) for effect in solo.effects)


def test_validate_notices_a_broken_bound() -> None:
    solo = server(queue_max=1)
    for _ in range(2):
        solo.agent._queue.add(Backward(FIRST, numbers("a"), numbers("b")), 0.0)
    with pytest.raises(AgentError, match="bound"):
        solo.agent.validate()


def test_the_question_of_a_silence_is_repeated_if_it_is_lost() -> None:
    solo = server(silence_s=10.0)
    solo.feed(TimerFired("silence"))
    asked = len(solo.sent(CatchUp))
    while "catch_up" in solo.timers and asked < 50:
        solo.timers.pop("catch_up")
        solo.feed(TimerFired("catch_up"))
        asked += len(solo.sent(CatchUp))
    assert asked == RETRY.attempts_max + 1
