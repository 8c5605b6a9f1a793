"""The split server's queue: order of arrival, bounds, and when a micro-batch may go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from toy import numbers

from hosfl_async.agents import SplitServerSettings
from hosfl_async.agents.cut_queue import CutQueue
from hosfl_async.jobs import Backward, BackwardTogether, EvaluateDual
from hosfl_async.messages import StepId


def job(number: int, trains: bool = True) -> Backward | EvaluateDual:
    step = StepId("client-1", 1, number)
    return Backward(step, numbers("a"), numbers("b")) if trains else EvaluateDual(step, numbers("a"), numbers("b"))


def parts_of(taken: object) -> list:
    return list(taken.parts) if isinstance(taken, BackwardTogether) else [] if taken is None else [taken]


def queue(**changes: object) -> CutQueue:
    return CutQueue(SplitServerSettings(**changes))


kinds = st.lists(st.booleans(), max_size=30)


@given(kinds, st.integers(1, 5), st.floats(0, 3), st.lists(st.floats(0, 2), min_size=30, max_size=30))
def test_everything_comes_out_once_in_order_and_no_micro_batch_is_too_large(trains: list, most: int, wait_s: float, gaps: list) -> None:
    waiting, now, out = queue(micro_batch_max=most, micro_batch_wait_s=wait_s), 0.0, []
    jobs = [job(number, kind) for number, kind in enumerate(trains)]
    for one, gap in zip(jobs, gaps, strict=False):
        waiting.add(one, now)
        now += gap
        parts = parts_of(waiting.take(now))
        assert len(parts) <= most and (len(parts) <= 1 or all(isinstance(part, Backward) for part in parts))
        out += parts
    for _ in range(2 * len(waiting)):
        due_s = waiting.due_in_s(now)
        taken = waiting.take(now)
        if taken is None and len(waiting):
            assert due_s is not None and due_s <= wait_s + 1e-6, "nobody waits longer than that for company"
            now += due_s
            waiting.ripen()
        out += parts_of(taken)
    assert out == jobs and waiting.due_in_s(now) is None
    assert not waiting.full(10**12), "an empty queue takes anything"


@given(kinds)
def test_a_maximum_of_one_hands_out_every_job_alone_and_at_once(trains: list) -> None:
    waiting = queue(micro_batch_wait_s=5.0)
    for number, kind in enumerate(trains):
        waiting.add(job(number, kind), 0.0)
    for number, kind in enumerate(trains):
        assert waiting.take(0.0) == job(number, kind)


def test_a_micro_batch_goes_when_it_is_full_or_closed_or_has_waited() -> None:
    waiting = queue(micro_batch_max=3, micro_batch_wait_s=1.0)
    waiting.add(job(1), 0.0)
    waiting.add(job(2), 0.5)
    assert waiting.take(0.9) is None and waiting.due_in_s(0.9) == 1.0 - 0.9
    waiting.add(job(3), 0.9)
    assert waiting.take(0.9) == BackwardTogether((job(1), job(2), job(3))), "full"
    waiting.add(job(4), 1.0)
    waiting.add(job(5, False), 1.0)
    assert waiting.take(1.0) == job(4), "closed by a job of another kind"
    assert waiting.take(1.0) == job(5, False), "which waits for nobody itself"
    waiting.add(job(6), 2.0)
    waiting.add(job(7), 2.5)
    assert waiting.take(3.0) == BackwardTogether((job(6), job(7))), "waited"


def test_the_parts_of_a_failed_micro_batch_go_first_and_alone() -> None:
    waiting = queue(micro_batch_max=3, micro_batch_wait_s=9.0)
    for number in (1, 2, 3):
        waiting.add(job(number), 0.0)
    failed = waiting.take(0.0)
    waiting.add(job(4), 0.0)
    waiting.take_apart(failed.parts)
    assert len(waiting) == 4 and list(waiting) == [job(1), job(2), job(3), job(4)]
    assert [waiting.take(0.0) for _ in range(4)] == [job(1), job(2), job(3), None]
    waiting.take_apart(failed.parts)
    waiting.clear()
    assert len(waiting) == 0 and waiting.take(99.0) is None


def test_bytes_are_given_back() -> None:
    size = len(numbers("a").data)
    waiting = queue(micro_batch_max=2, queue_bytes_max=2 * size)
    waiting.add(job(1), 0.0)
    assert not waiting.full(size) and waiting.full(size + 1)
    waiting.add(job(2), 0.0)
    assert waiting.full(1)
    waiting.take(0.0)
    assert not waiting.full(10**9), "an empty queue takes any"
