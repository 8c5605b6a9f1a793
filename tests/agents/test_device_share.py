"""A device's share of the server half's training: it holds in every window, and whoever is below it is never turned away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from solo import Solo, smashed
from toy import RETRY

from hosfl_async.agents import SplitServer, SplitServerSettings
from hosfl_async.agents.device_share import DeviceShare
from hosfl_async.jobs import Backward, BackwardDone, Evaluated, EvaluateDual
from hosfl_async.messages import AGGREGATOR, DualVariable, LogPage, StepId

devices = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=80)


@given(devices, st.floats(0.2, 1.0), st.integers(1, 12))
def test_the_share_holds_in_every_window_and_nobody_below_it_is_turned_away(came: list[str], share: float, window: int) -> None:
    shares, most = DeviceShare(share, window), ceil(share * window)
    taken: list[str] = []
    for device in came:
        had = taken[-window:].count(device)
        granted = shares.takes(device)
        assert granted == (most >= window or had < most)
        taken += [device] * granted
    for start in range(len(taken)):
        assert most >= window or max(Counter(taken[start : start + window]).values()) <= most


def test_what_a_device_sends_beyond_its_share_gets_its_dual_and_trains_nothing() -> None:
    settings = replace(SplitServerSettings(evaluate_every_steps=0, retry=RETRY), device_share_max=0.5, device_share_window=4)
    solo = Solo(SplitServer(settings))
    solo.start()
    solo.receive(AGGREGATOR, LogPage(0, (), 0))
    solo.done(Evaluated(0, 0.1, 2.3, 10))
    kinds = []
    for name, number in (
        ("client-1", 1),
        ("client-1", 2),
        ("client-1", 3),
        ("client-2", 1),
        ("client-3", 1),
        ("client-2", 2),
        ("client-1", 4),
    ):
        step = StepId(name, 1, number)
        solo.receive(name, smashed(step))
        kinds.append(type(solo.job))
        solo.done(BackwardDone(step, solo.job.activations, 1.0))
        assert [message.step for message in solo.sent(DualVariable)][-1] == step
    assert kinds == [Backward, Backward, EvaluateDual, Backward, Backward, Backward, Backward]
    assert solo.agent.counts["over_share"] == 1 and solo.agent.counts["trained"] == 6
