"""Pages or snapshot, by a device's own measures: the estimate, the question, the answer, and a simulated fleet that uses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import simulate
from hosfl_async.agents.catch_up_cost import CatchUpCost

times = st.floats(1e-4, 10.0)
sizes = st.integers(1, 10**6)


def measured(turn_s: float, byte_s: float, replay_s: float, *, entry_bytes: int = 1000, install_s: float | None = None) -> CatchUpCost:
    """A device whose link and replay are exactly so."""
    cost = CatchUpCost()
    cost.answered(turn_s, 0, 0)
    for _ in range(60):  # exponential means come as near as float64 lets them
        cost.answered(turn_s + 10 * entry_bytes * byte_s, 10 * entry_bytes, 10)
        cost.replayed(10 * replay_s, 10)
    if install_s is not None:
        cost.installed(install_s)
    return cost


@given(times, times, times, sizes, st.integers(1, 10**6), st.integers(1, 10**4))
def test_whoever_prefers_a_snapshot_prefers_it_further_behind_too(
    turn_s: float, byte_s: float, replay_s: float, entry_bytes: int, parameters: int, behind: int
) -> None:
    cost = measured(turn_s, byte_s, replay_s, entry_bytes=entry_bytes)
    if cost.prefers_snapshot(behind, parameters):
        assert cost.prefers_snapshot(behind + 1, parameters)
        assert cost.prefers_snapshot(behind, max(1, parameters // 2)), "and a smaller half, too"


@given(times, times, times, st.integers(1, 10**6))
def test_nobody_who_lacks_nothing_prefers_a_snapshot(turn_s: float, byte_s: float, replay_s: float, parameters: int) -> None:
    assert not measured(turn_s, byte_s, replay_s).prefers_snapshot(0, parameters)


@given(st.lists(st.tuples(times, st.integers(0, 10**6), st.integers(0, 64)), max_size=5), st.integers(0, 10**6), st.integers(1, 10**6))
def test_before_a_page_was_answered_and_replayed_nothing_is_preferred(
    answers: list[tuple[float, int, int]], behind: int, parameters: int
) -> None:
    cost = CatchUpCost()
    for took_s, payload_bytes, entries in answers:
        cost.answered(took_s, payload_bytes, entries)
    assert not cost.prefers_snapshot(behind, parameters)


@pytest.mark.parametrize(
    ("behind", "byte_s", "replay_s", "preferred"),
    [
        (100, 1e-6, 1e-4, False),  # 100 kB and 10 ms of entries, 4 MB of parameters
        (100, 1e-6, 1e-1, True),  # the same link, a device that replays slowly
        (8000, 1e-6, 1e-4, True),  # very far behind
        (8000, 1e-9, 1e-7, False),  # very far behind, but nothing costs anything except questions: 800 of them at 1 us
    ],
)
def test_the_figures_decide(behind: int, byte_s: float, replay_s: float, preferred: bool) -> None:
    turn_s = 1e-2 if byte_s > 1e-7 else 1e-6
    assert measured(turn_s, byte_s, replay_s, install_s=0.01).prefers_snapshot(behind, 1_000_000) == preferred


CHURN = {
    "aggregator.client_steps": 600,
    "aggregator.snapshot_every_versions": 5,
    "aggregator.snapshot_behind_versions": 10_000,
    "network.downlink_bytes_per_s": 20e3,
    "compute.replay_term_s": 0.02,
    "expect": {},
}


def test_slow_devices_that_come_back_take_the_whole_half_and_end_with_the_same_bits(tmp_path: Path) -> None:
    """The aggregator alone would send pages, however far behind somebody is."""
    told, own = (
        simulate("dropouts", settings={**CHURN, "client.catch_up": way}, control=False, folder=tmp_path / way)
        for way in ("told", "measured")
    )
    assert told.summary.messages.get("Snapshot", 0) == 0 < own.summary.messages["Snapshot"]
    assert told.summary.digests_agree and own.summary.digests_agree
    assert own.replay().agrees, "the log alone gives the bits that the snapshots gave"
    assert own.summary.messages["LogPage"] < told.summary.messages["LogPage"]
