"""The limit on one sender: an honest one never meets it, a flooder gets no more than its share, quarantines double and are forgiven."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some
from live_toys import ToyAgent, host_of

from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.live.gate import Gate
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.settings import LiveSettings
from hosfl_async.messages import AggregatorInbox

LIMITED = LiveSettings(frames_per_s_max=10.0, frames_burst=20, refused_frame_cost=5.0, quarantine_first_s=2.0, quarantine_max_s=16.0)
pauses = some.lists(some.floats(0, 3), min_size=1, max_size=300)


@given(extra=some.lists(some.floats(0, 5), min_size=1, max_size=200), burst=some.integers(1, 20))
def test_whoever_keeps_the_limit_is_never_dropped(extra: list[float], burst: int) -> None:
    gate, now = Gate(LIMITED), 0.0
    assert all(gate.admits("a", now) for _ in range(burst))
    now += burst / 10
    for more in extra:
        now += 0.1001 + more
        assert gate.admits("a", now)
    assert gate.quarantines == 0


@given(gaps=pauses, blamed=some.booleans())
def test_nobody_gets_more_than_its_share_and_others_do_not_notice(gaps: list[float], blamed: bool) -> None:
    gate, now, admitted, refilled = Gate(LIMITED), 0.0, 0, 20.0
    for number, gap in enumerate(gaps):
        now += gap / 30
        before = gate.quarantines
        if gate.admits("flooder", now):
            admitted += 1
            if blamed:
                gate.blame("flooder", now)
        if gate.quarantines > before:
            refilled += 20.0  # a full bucket waits behind each quarantine
        assert gate.admits(f"honest{number}", now)  # each says one thing
    assert admitted <= refilled + 10 * now + 1


def test_each_quarantine_is_twice_as_long_up_to_the_bound_and_forgiven_after_it() -> None:
    gate, now, lengths = Gate(LIMITED), 0.0, []
    for _ in range(6):
        while gate.admits("a", now):
            pass
        began = now
        while not gate.admits("a", now):
            now += 0.01
        lengths.append(now - began)
    assert lengths == pytest.approx([2, 4, 8, 16, 16, 16], abs=0.02)
    now += 17
    while gate.admits("a", now):
        pass
    assert not gate.admits("a", now + 1.98) and gate.admits("a", now + 2.01)


def test_a_refused_frame_costs_more_and_memory_is_bounded() -> None:
    gate = Gate(replace(LIMITED, senders_known_max=3))
    sent = 0
    while gate.admits("broken", 0.0):
        gate.blame("broken", 0.0)
        sent += 1
    assert sent == 4
    for name in "abcd":
        assert gate.admits(name, 0.0)
    assert len(gate) == 3


def test_a_host_drops_what_a_flooder_sends_unread_and_hears_the_others() -> None:
    agent = ToyAgent("aggregator")
    with JobWorker() as worker:
        host = host_of(agent, MemoryExchange(), AggregatorInbox, worker, settings=LIMITED)
        for _ in range(1000):
            host._on_frame("flooder", b"noise")
        host._on_frame("other", b"noise")
    counts = host.tally.counts
    assert counts["refused"] <= 6 and counts["rate_limited"] == 1001 - counts["refused"]
