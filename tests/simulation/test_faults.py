"""Fault plans: what each kind does to messages, agents and time, and when it is over."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_agents import Scripted, add_client, add_service, answer, ask, at_start, met, world

from hosfl_async.agent import Effect, Event, Persist, Received, Send, SetTimer, TimerFired
from hosfl_async.checks import progress_problems
from hosfl_async.messages import AGGREGATOR, ProjectedGradients, StepId
from hosfl_async.simulation.clocks import Clocks
from hosfl_async.simulation.faults import Fault, Liars, Strike, strikes
from hosfl_async.simulation.settings import NetworkSettings, Outage, SimulationSettings

CLIENTS = tuple(f"client-{number}" for number in range(10))


def talking(agent: Scripted, event: Event, now: float) -> list[Effect]:
    """A client that says what second it is; a service that answers."""
    if agent.name == AGGREGATOR:
        return [Send(event.sender, answer(event.message.from_version))] if isinstance(event, Received) else []
    return [Send(AGGREGATOR, ask(int(now))), SetTimer("tick", 1.0)] if now < 9 and not isinstance(event, Received) else []


def heard(fault: Fault, latency_s: float = 0.25) -> tuple[list[int], list[int], Any]:
    network = NetworkSettings(latency_s=latency_s, uplink_bytes_per_s=1000.0, peer_gone_after_s=0.0)
    simulation = world(network=network, faults=[fault])
    add_service(simulation, talking)
    add_client(simulation, "client-0", talking)
    outcome = simulation.run()
    lists = [[event.message for _, event in met(simulation, name) if isinstance(event, Received)] for name in (AGGREGATOR, "client-0")]
    return [each.from_version for each in lists[0]], [each.head for each in lists[1]], outcome


@pytest.mark.parametrize(("direction", "asked", "answered"), [("both", 6, 6), ("out", 6, 6), ("in", 9, 6)])
def test_a_partition_cuts_its_direction_while_it_lasts(direction: Any, asked: int, answered: int) -> None:
    questions, answers, outcome = heard(Fault(kind="partition", agents=("client-0",), at_s=2.5, for_s=3.0, direction=direction))
    assert (len(questions), len(answers)) == (asked, answered)
    assert not set(answers) & {3, 4, 5}
    assert outcome.counts["cut"] == outcome.counts["lost"] == 3
    assert outcome.last_fault_s == 5.5


def test_a_broker_crash_loses_what_is_under_way_and_everything_until_it_is_back() -> None:
    questions, _, outcome = heard(Fault(kind="broker_crash", at_s=2.1, for_s=2.0))
    assert questions == [0, 1, 5, 6, 7, 8]
    assert outcome.counts["cut"] == 3
    assert outcome.counts["in_flight"] == 0


def test_a_clog_delays_and_loses_nothing() -> None:
    questions, _, outcome = heard(Fault(kind="clog", at_s=2.5, for_s=1.0, latency_factor=10.0, bandwidth_factor=2.0))
    assert sorted(questions) == [*range(9)]
    assert outcome.counts["lost"] == 0
    assert outcome.modelled_time_s < heard(Fault(kind="clog", at_s=0.0, for_s=20.0, latency_factor=10.0))[2].modelled_time_s


def test_clogs_that_strike_together_multiply_up_to_a_bound_and_meeting_it_is_counted() -> None:
    clogs = [Fault(kind="clog", at_s=0.0, for_s=50.0, latency_factor=10.0) for _ in range(3)]
    free = world(faults=clogs, network=NetworkSettings(latency_s=0.01, peer_gone_after_s=0.0))
    bound = world(
        faults=clogs, network=NetworkSettings(latency_s=0.01, peer_gone_after_s=0.0), settings=SimulationSettings(clog_factor_max=20.0)
    )
    arrivals = []
    for simulation in (free, bound):
        add_service(simulation)
        add_client(simulation, "client-0", at_start(SetTimer("go", 1.0)))
        add_client(simulation, "client-1", lambda agent, event, now: [Send(AGGREGATOR, ask(1))] if isinstance(event, TimerFired) else
                   [SetTimer("go", 1.0)])  # fmt: skip
        outcome = simulation.run()
        arrivals.append(next(now for now, event in met(simulation, AGGREGATOR) if isinstance(event, Received)))
        capped = outcome.counts["clogs_capped"]
    assert arrivals == [pytest.approx(11.0), pytest.approx(1.2)]
    assert capped == 1


def test_a_skewed_clock_runs_at_its_own_pace_and_leaps_ahead_but_never_back() -> None:
    fault = Fault(kind="clock_skew", agents=("client-0",), at_s=2.0, for_s=4.0, clock_rate=2.0, clock_ahead_s=100.0)
    simulation = world(faults=[fault])

    def tick(agent: Scripted, event: Event, now: float) -> list[Effect]:
        return [SetTimer("tick", 1.0)] if len(agent.met) < 14 else []

    for name in ("client-0", "client-1"):
        add_client(simulation, name, tick)
    outcome = simulation.run()
    shown = [now for now, _ in met(simulation, "client-0")]
    assert shown[:3] == [0.0, 1.0, 102.0], "the timer that ran when the clock leapt keeps its pace"
    assert shown == sorted(shown)
    assert shown[3:] == [103.0 + number for number in range(len(shown) - 3)], "a second of its own for each tick"
    assert [now for now, _ in met(simulation, "client-1")] == [float(number) for number in range(14)], "nobody else's clock is touched"
    assert outcome.last_fault_s == 6.0 and outcome.modelled_time_s == 13.0


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.1, 50.0), st.floats(0.01, 100.0), st.floats(0.0, 1e6)), max_size=5))
def test_no_clock_ever_runs_backwards_and_all_are_right_in_pace_when_the_faults_are_over(skews: list) -> None:
    clocks, moments = Clocks(), []
    for at_s, for_s, rate, ahead_s in skews:
        fault = Fault(kind="clock_skew", at_s=at_s, for_s=for_s, clock_rate=rate, clock_ahead_s=ahead_s)
        strike = Strike(fault, frozenset({"client-0"}), at_s, at_s + for_s)
        moments += [(at_s, 0, len(moments), clocks.begin, strike), (at_s + for_s, 1, len(moments), clocks.end, strike)]
    latest = 0.0
    for now_s, _, _, act, strike in sorted(moments, key=lambda moment: moment[:3]):
        assert clocks.shows_s("client-0", now_s) >= latest
        act(strike)
        latest = clocks.shows_s("client-0", now_s)
    assert clocks.really_s("client-0", 3.0) == 3.0
    assert clocks.shows_s("client-0", 110.0) - clocks.shows_s("client-0", 100.0) == pytest.approx(10.0, abs=1e-6)
    assert clocks.shows_s("client-1", 7.0) == 7.0


def test_a_slow_disk_holds_back_what_is_sent_after_a_record() -> None:
    simulation = world(faults=[Fault(kind="slow_disk", agents=(AGGREGATOR,), persist_s=2.0, for_s=5.0)])

    def keep(agent: Scripted, event: Event, now: float) -> list[Effect]:
        if isinstance(event, TimerFired):
            return [Persist(1), Send("client-0", answer(1)), Persist(2), Send("client-0", answer(2))]
        return [SetTimer("go", 1.0)]

    add_service(simulation, keep)
    add_client(simulation, "client-0")
    simulation.run()
    assert [now for now, event in met(simulation, "client-0") if isinstance(event, Received)] == [3.0, 5.0]


def test_crashes_at_random_strike_a_share_anew_each_time_until_the_end() -> None:
    fault = Fault(kind="crash", share=0.3, at_s=10.0, mean_between_s=2.0, until_s=110.0, for_s=1.0)
    plan = list(strikes([fault], 5, CLIENTS))
    assert len(plan) == pytest.approx(50, abs=22)
    assert all(10.0 < strike.begins_s < 110.0 and len(strike.members) == 3 for strike in plan)
    assert len({strike.members for strike in plan}) > 10
    assert plan == list(strikes([fault], 5, CLIENTS)) != list(strikes([fault], 6, CLIENTS))


def test_a_crash_of_the_plan_is_one_of_the_absences() -> None:
    simulation = world(faults=[Fault(kind="crash", agents=("client-0",), at_s=1.0, for_s=2.0)])
    add_client(simulation, "client-0", at_start(SetTimer("late", 5.0)))
    outcome = simulation.run()
    assert outcome.counts["crashes"] == outcome.counts["strikes"] == 1
    assert met(simulation, "client-0")[-1] == (8.0, TimerFired("late"))


@pytest.mark.parametrize("lie", ["huge", "sign_flip", "random", "nan", "replayed", "silent"])
def test_a_liar_lies_alike_about_one_step_and_only_in_what_it_contributes(lie: Any) -> None:
    liars = Liars(3)
    strike = Strike(Fault(kind="byzantine", lie=lie, magnitude=100.0), frozenset({"client-0"}), 0.0, 9.0)
    first, second = (ProjectedGradients(StepId("client-0", 1, number), 0, (0.5, -2.0)) for number in (1, 2))
    assert liars.twisted("client-0", first) is first
    liars.begin(strike)
    assert liars.twisted("client-1", first) is first
    assert liars.twisted("client-0", ask(1)) == ask(1)
    told = [liars.twisted("client-0", message) for message in (first, first, second)]
    assert repr(told[0]) == repr(told[1])
    if lie == "silent":
        assert told == [None, None, None]
    elif lie == "replayed":
        assert told[2] == first
    else:
        numbers = told[2].projected_gradients
        assert told[2].step == second.step and len(numbers) == 2
        expected = {"huge": (50.0, -200.0), "sign_flip": (-0.5, 2.0)}.get(lie, numbers)
        assert lie == "nan" or numbers == expected
        assert all(isnan(number) for number in numbers) == (lie == "nan")
        assert lie != "random" or (numbers != told[0].projected_gradients and all(abs(number) <= 100 for number in numbers))
    liars.end(strike)
    assert liars.twisted("client-0", second) is second and not liars


def test_a_system_that_came_to_rest_before_its_end_made_no_progress() -> None:
    assert progress_problems("finished", 5.0, 3.0) == []
    for ended, finished_at_s in (("quiescent", None), ("finished", None)):
        [told] = progress_problems(ended, finished_at_s, 3.0)
        assert "over at 3 s" in told


def test_planned_outages_are_faults_too_when_the_last_one_is_asked_for() -> None:
    simulation = world(outages=[Outage(agent=AGGREGATOR, at_s=3.0, absence_s=4.0)], faults=[Fault(kind="clog", at_s=1.0, for_s=2.0)])
    add_service(simulation)
    add_client(simulation, "client-0")
    assert simulation.run().last_fault_s == 7.0
