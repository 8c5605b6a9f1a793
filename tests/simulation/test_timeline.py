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

moves = st.one_of(
    st.tuples(st.just("schedule"), st.sampled_from([0.0, 0.5, 1.0, 3.0])),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("take"), st.sampled_from([0.0, 1.0, inf])),
)


@pytest.mark.parametrize("sweep_min", [0, 2, 1024])
@given(drawn=st.lists(moves, max_size=60))
def test_entries_come_up_by_time_then_by_order_of_scheduling_and_cancelled_ones_never(drawn: list[Any], sweep_min: int) -> None:
    timeline, model = Timeline(), []
    before, module.SWEEP_MIN = module.SWEEP_MIN, sweep_min
    try:
        for move, number in drawn:
            if move == "schedule":
                model.append(timeline.schedule(timeline.now_s + number, print, None, None))  # type: ignore[arg-type]
            elif move == "cancel" and model:
                timeline.cancel(model.pop(number % len(model)))
            elif move == "take":
                due = [entry for entry in sorted(model, key=lambda entry: entry[:2]) if entry[0] <= timeline.now_s + number][:1]
                assert timeline.take(timeline.now_s + number) == (due[0] if due else None)
                model = [entry for entry in model if entry not in due]
                assert timeline.now_s == (due[0][0] if due else timeline.now_s)
            assert len(timeline) == len(model)
    finally:
        module.SWEEP_MIN = before


def test_a_heap_of_cancelled_entries_is_swept() -> None:
    timeline = Timeline()
    for _ in range(100 * module.SWEEP_MIN):
        timeline.cancel(timeline.schedule(1.0, print, None, None))  # type: ignore[arg-type]
    assert len(timeline) == 0
    assert len(timeline._heap) <= 2 * module.SWEEP_MIN


def test_what_a_sweep_leaves_comes_up_in_order() -> None:
    timeline = Timeline()
    entries = [timeline.schedule(uniform(1, number), print, None, None) for number in range(4 * module.SWEEP_MIN)]  # type: ignore[arg-type]
    kept = {entry[1] for entry in entries if uniform(2, entry[1]) < 0.4}
    for entry in entries:
        if entry[1] not in kept:
            timeline.cancel(entry)
    assert len(timeline._heap) < len(entries)  # swept
    taken = [timeline.take(inf) for _ in kept]
    assert taken == sorted((entry for entry in entries if entry[1] in kept), key=lambda entry: entry[:2])
