"""The timeline against the plainest model there is: a sorted list from which things are removed."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.simulation import timeline as module
from hosfl_async.simulation.draws import uniform
from hosfl_async.simulation.timeline import Timeline

DELAYS = [0.0, 0.05, 0.1, 0.5, 1.0, 3.0]
moves = st.one_of(
    st.tuples(st.just("schedule"), st.sampled_from(DELAYS), st.just("")),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.just("")),
    st.tuples(st.just("take"), st.sampled_from([0.0, 0.1, 1.0, inf]), st.just("")),
    st.tuples(st.just("set"), st.sampled_from(DELAYS), st.sampled_from(["0 a", "0 b", "0 c", "1 a"])),
    st.tuples(st.just("unset"), st.just(0), st.sampled_from(["0 a", "0 b", "1 a"])),
)


class Timed:
    """As much of a node as the timeline sees."""

    def __init__(self) -> None:
        self.timers: dict[str, Any] | None = None
        self.alarm: Any = None
        self.name = ""


@pytest.mark.parametrize("sweep_min", [0, 2, 1024])
@given(drawn=st.lists(moves, max_size=60))
def test_entries_come_up_by_time_then_by_order_of_scheduling_and_cancelled_ones_never(drawn: list[Any], sweep_min: int) -> None:
    timeline, model, timers = Timeline(), [], {}  # type: ignore[var-annotated]
    nodes = [Timed(), Timed()]
    before, module.SWEEP_MIN = module.SWEEP_MIN, sweep_min
    try:
        for move, number, timer in drawn:
            if move == "schedule":
                model.append(timeline.schedule(timeline.now_s + number, print, None, None))  # type: ignore[arg-type]
            elif move == "cancel" and model:
                timeline.cancel(model.pop(number % len(model)))
            elif move in ("set", "unset"):
                node: Any = nodes[int(timer[0])]
                assert timeline.cancel_timer(node, timer) == (timers.pop(timer, None) is not None)
                if move == "set":
                    timeline.set_timer(timeline.now_s + number, repr, node, timer)  # type: ignore[arg-type]
                    timers[timer] = node.timers[timer]
            elif move == "take":
                to_come = sorted([*model, *timers.values()], key=lambda entry: entry[:2])
                due = [entry for entry in to_come if entry[0] <= timeline.now_s + number][:1]
                assert timeline.take(timeline.now_s + number) == (due[0] if due else None)
                model = [entry for entry in model if entry not in due]
                timers = {name: entry for name, entry in timers.items() if entry not in due}
                assert timeline.now_s == (due[0][0] if due else timeline.now_s)
            assert len(timeline) == len(model) + len(timers)
            assert sum(len(node.timers or {}) for node in nodes) == len(timers)
    finally:
        module.SWEEP_MIN = before


def test_a_heap_of_cancelled_entries_is_swept() -> None:
    timeline = Timeline()
    for _ in range(100 * module.SWEEP_MIN):
        timeline.cancel(timeline.schedule(1.0, print, None, None))  # type: ignore[arg-type]
    assert len(timeline) == 0
    assert len(timeline._sorted) + len(timeline._fresh) <= 2 * module.SWEEP_MIN


def test_what_a_sweep_leaves_comes_up_in_order() -> None:
    timeline = Timeline()
    entries = [timeline.schedule(uniform(1, number), print, None, None) for number in range(4 * module.SWEEP_MIN)]  # type: ignore[arg-type]
    kept = {entry[1] for entry in entries if uniform(2, entry[1]) < 0.4}
    for entry in entries:
        if entry[1] not in kept:
            timeline.cancel(entry)
    assert len(timeline) < sum(map(len, (timeline._sorted, timeline._fresh, *timeline._later.values()))) < len(entries)  # swept
    taken = [timeline.take(inf) for _ in kept]
    assert taken == sorted((entry for entry in entries if entry[1] in kept), key=lambda entry: entry[:2])


def test_a_timer_that_is_set_again_and_again_leaves_one_alarm() -> None:
    """As each step of a client does. What lay on the timeline for each of them would stay there until its time came."""
    timeline, node = Timeline(), Timed()
    for number in range(1000):
        timeline.cancel_timer(node, "answer")  # type: ignore[arg-type]
        timeline.set_timer(number / 100 + 30.0, print, node, "answer")  # type: ignore[arg-type]
    assert len(timeline) == 1
    assert sum(map(len, (timeline._sorted, timeline._fresh, *timeline._later.values()))) == 1
    taken = timeline.take(inf)
    assert taken is not None and taken[0] == 39.99 and timeline.now_s == 39.99
    assert timeline.take(inf) is None and node.alarm is None
