"""A device's share of the server half's training and of the log: it holds in every window and entry; below it nobody is turned away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from solo import Solo, contribution, smashed
from test_aggregator import host
from toy import RETRY

from hosfl_async.agent import TimerFired
from hosfl_async.agents import SplitServer, SplitServerSettings
from hosfl_async.agents.device_share import DeviceShare
from hosfl_async.jobs import Backward, BackwardDone, Evaluated, EvaluateDual
from hosfl_async.messages import AGGREGATOR, Accepted, DualVariable, EntryCommitted, LogPage, StepId

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


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.floats(0.05, 1.0), st.integers(1, 5))
def test_no_device_has_more_than_its_share_of_an_entry_and_all_it_sent_is_in_the_log_once(
    came: list[tuple[str, bool]], share: float, k: int
) -> None:
    """Contributions in any order, deadlines between them; whoever is not answered sends the same again."""
    made, most = host(device_share_max=share, buffer_contributions=k), ceil(share * k)
    owed: list[StepId] = []
    made_by: Counter[str] = Counter()

    def say(step: StepId) -> None:
        held, before = made.agent.waiting, made.agent.counts["over_share"]
        made.say(step.client, contribution(step))
        if made.agent.counts["over_share"] > before:
            assert made.agent.waiting == held >= most and made.effects == [] and made.timers["deadline"] > 0
        if step not in owed:
            owed.append(step)

    for device, deadline in came:
        made_by[device] += 1
        say(StepId(device, 1, made_by[device]))
        if deadline:
            made.feed(TimerFired("deadline"))
            made.settle()
    for _ in came:
        for step in owed:
            say(step)
        made.feed(TimerFired("deadline"))
        made.settle()
    entries = [record.entry for record in made.records if isinstance(record, EntryCommitted)]
    assert sorted(term.step for entry in entries for term in entry.terms) == sorted(owed)
    for entry in entries:
        assert max(Counter(term.step.client for term in entry.terms).values()) <= most


def test_a_device_beyond_its_share_of_an_entry_waits_for_the_next_one() -> None:
    made = host(device_share_max=0.5, buffer_contributions=4)
    steps = [StepId("a", 1, number) for number in (1, 2, 3)]
    for step in steps:
        made.say("a", contribution(step))
    assert (made.agent.waiting, made.agent.counts["over_share"]) == (2, 1)
    made.say("b", contribution(StepId("b", 1, 1)))
    made.say("c", contribution(StepId("c", 1, 1)))
    assert made.agent.log.head == 1
    made.say("a", contribution(steps[2]))
    assert made.agent.waiting == 1
    made.feed(TimerFired("deadline"))
    assert [message.step for message in made.sent(Accepted)] == steps[2:]
