"""Habits: who is there when, joins late, leaves for ever, or drops out of a step."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_agents import PERFECT, Scripted, add_client, add_service, at_start, forward, met, silent, world

from hosfl_async.agent import Effect, Event, JobDone, Persist, RunJob, SetTimer, Started
from hosfl_async.errors import SettingsError
from hosfl_async.jobs import Probe
from hosfl_async.messages import AGGREGATOR, StepId
from hosfl_async.simulation.habits import Habits
from hosfl_async.simulation.settings import AvailabilitySettings, DropoutSettings, FleetGroup

rules = st.builds(
    AvailabilitySettings,
    rule=st.sampled_from(["duty_cycle", "diurnal"]),
    period_s=st.floats(1.0, 1e5),
    share=st.floats(0.05, 1.0),
    day_s=st.floats(1.0, 1e5),
)


def absences(habits: Habits, device: str, rule: AvailabilitySettings, count: int) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for number in range(count):
        away = habits.next_absence(device, rule, number, found[-1][1] if found else 0.0)
        if away is None or away[1] == inf:
            break
        found.append(away)
    return found


@given(rules, st.integers(0, 2**32))
def test_absences_follow_each_other_and_never_overlap(rule: AvailabilitySettings, seed: int) -> None:
    found = absences(Habits(seed), "client-1", rule, 8)
    assert all(begin < end for begin, end in found)
    assert all(early[1] < late[0] for early, late in pairwise(found))
    assert found == absences(Habits(seed), "client-1", rule, 8)


@given(rules, st.integers(0, 2**32), st.floats(0, 0.999))
def test_asking_in_the_middle_of_an_absence_gives_that_absence(rule: AvailabilitySettings, seed: int, where: float) -> None:
    habits = Habits(seed)
    for begin, end in absences(habits, "client-1", rule, 4):
        middle = max(0.0, begin) + where * (end - max(0.0, begin))
        again = habits.next_absence("client-1", rule, 0, middle)
        assert again is not None
        assert end - middle <= 1e-5 or (again[0] <= middle + 1e-6 and again[1] == pytest.approx(end))


def share_there(rule: AvailabilitySettings, at_s: float, devices: int = 2000) -> float:
    habits = Habits(3)
    away = [habits.next_absence(f"client-{number}", rule, 0, at_s) for number in range(devices)]
    return sum(interval is None or interval[0] > at_s for interval in away) / devices


def test_a_duty_cycle_has_its_share_of_the_devices_there_at_any_time() -> None:
    rule = AvailabilitySettings(rule="duty_cycle", period_s=100.0, share=0.3)
    for at_s in (0.0, 37.0, 1234.5):
        assert share_there(rule, at_s) == pytest.approx(0.3, abs=0.03)


def test_a_day_has_its_curve_in_every_hour() -> None:
    rule = AvailabilitySettings(rule="diurnal", day_s=2400.0)
    for hour in (0, 3, 10, 20, 24 + 9):
        assert share_there(rule, 100.0 * hour + 50.0) == pytest.approx(rule.curve[hour % 24], abs=0.035)


def test_markov_times_on_and_off_have_their_means() -> None:
    rule = AvailabilitySettings(rule="markov", mean_on_s=30.0, mean_off_s=10.0)
    found = absences(Habits(1), "client-1", rule, 4000)
    assert sum(end - begin for begin, end in found) / len(found) == pytest.approx(10.0, rel=0.06)
    on = [late[0] - early[1] for early, late in pairwise(found)]
    assert sum(on) / len(on) == pytest.approx(30.0, rel=0.06)


# -- in a world ---------------------------------------------------------------------------------------


def ticking(agent: Scripted, event: Event, now: float) -> list[Effect]:
    return [SetTimer("tick", 1.0)] if now < 400 else []


@pytest.mark.parametrize("kind", ["pause", "crash"])
def test_a_device_that_is_away_by_habit_meets_no_event_meanwhile(kind: Any) -> None:
    rule = AvailabilitySettings(rule="duty_cycle", period_s=50.0, share=0.4, kind=kind)
    times: list[float] = []

    def tick(agent: Scripted, event: Event, now: float) -> list[Effect]:
        times.append(now)
        return [SetTimer("tick", 1.0)]

    simulation = world()
    add_client(simulation, "client-7", tick, group=FleetGroup(availability=rule))
    outcome = simulation.run(until_s=300.0)
    gaps = absences(Habits(1), "client-7", rule, 8)
    assert times and not any(begin < now < end - 1e-6 for now in times for begin, end in gaps)
    assert outcome.events < 300 * 0.4 + 20
    assert outcome.counts["pauses" if kind == "pause" else "crashes"] in (5, 6, 7)


def test_devices_join_late_and_nobody_joins_a_run_that_is_over() -> None:
    def finish(agent: Scripted, event: Event, now: float) -> list[Effect]:
        agent.finished = now >= 100.0 or agent.name != AGGREGATOR
        return [SetTimer("end", 100.0)] if isinstance(event, Started) else []

    group = FleetGroup(availability=AvailabilitySettings(joins_after_mean_s=100.0))
    simulation = world()
    add_service(simulation, finish)
    for number in range(400):
        add_client(simulation, f"client-{number}", finish, group=group)
    outcome = simulation.run()
    starts = [agent.met[0][0] for number in range(400) if isinstance(agent := simulation.agent(f"client-{number}"), Scripted)]
    assert min(starts) > 0 and max(starts) <= 100.0
    assert len(starts) / 400 == pytest.approx(1 - 2.718281828**-1, abs=0.06)
    assert outcome.ended == "finished"
    assert outcome.finished_at_s == 100.0


def test_a_device_that_leaves_for_ever_is_not_waited_for_and_never_heard_of_again() -> None:
    def busy(agent: Scripted, event: Event, now: float) -> list[Effect]:
        return [Persist(1), RunJob(forward())] if isinstance(event, Started | JobDone) else []

    simulation = world(network=PERFECT, forward_s=1.0)
    group = FleetGroup(availability=AvailabilitySettings(leaves_after_mean_s=50.0))
    add_client(simulation, "client-0", busy, group=group)
    outcome = simulation.run()
    assert outcome.ended == "finished"
    assert outcome.counts["departed"] == 1
    assert simulation.agent("client-0") is None
    assert outcome.modelled_time_s == Habits(1).leaves_at_s("client-0", group, 0.0)
    assert simulation.agent_counts()["client-0"]["events"] == outcome.events


@pytest.mark.parametrize(("dropout", "when"), [({"per_step": 0.3}, "begin"), ({"mid_step": 0.3}, "middle")])
def test_a_device_drops_out_of_its_steps_as_often_as_it_should(dropout: dict[str, float], when: str) -> None:
    step = StepId("client-0", 1, 1)
    job = forward() if when == "begin" else Probe(step, 1)
    done: list[float] = []

    def busy(agent: Scripted, event: Event, now: float) -> list[Effect]:
        done.append(now)
        return [RunJob(job)] if len(done) < 2000 else []

    simulation = world(forward_s=1.0)
    add_client(simulation, "client-0", busy, group=FleetGroup(dropout=DropoutSettings(mean_absence_s=4.0, **dropout)))
    outcome = simulation.run()
    assert outcome.counts["pauses"] == pytest.approx(2000 * 0.3, rel=0.12)
    gaps = [late - early for early, late in pairwise(done)]
    assert min(gaps) == pytest.approx(1.0)
    assert sum(gaps) / len(gaps) == pytest.approx(1.0 + 0.3 * 4.0, rel=0.12)


# -- traces -------------------------------------------------------------------------------------------


def test_a_trace_says_when_a_device_is_there_and_after_its_end_it_has_left(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("device,begin_s,end_s\n# phones\na,10,20\na,30.5,40\n")
    simulation = world()
    rule = AvailabilitySettings(rule="trace", trace=str(path))
    add_client(simulation, "client-0", ticking, group=FleetGroup(availability=rule))
    add_client(simulation, "client-1", silent)
    simulation.run(until_s=35.0)
    assert [now for now, _ in met(simulation, "client-0")] == [*map(float, range(10, 20)), 30.5, 31.5, 32.5, 33.5, 34.5]
    outcome = simulation.run()
    assert outcome.counts["departed"] == 1
    assert simulation.agent("client-0") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read"),
        ("", "without intervals"),
        ("a,1\n", ":1: not an interval"),
        ("a,1,2\na,x,2\n", ":2: not an interval"),
        ("a,5,4\n", "0 <= begin_s < end_s"),
        ("a,0,nan\n", "0 <= begin_s < end_s"),
        ("a,0,inf\n", "both finite"),
        ("a,0,10\nb,0,1\na,5,11\n", "two intervals of a overlap"),
    ],
)
def test_a_wrong_trace_is_explained(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "trace.csv"
    if text is not None:
        path.write_text(text)
    rule = AvailabilitySettings(rule="trace", trace=str(path))
    with pytest.raises(SettingsError, match=problem):
        Habits(1).next_absence("client-0", rule, 0, 0.0)


def test_the_start_of_a_run_is_as_before_for_who_is_always_there() -> None:
    simulation = world()
    add_client(simulation, "client-0", at_start(SetTimer("one", 1.0)))
    assert simulation.run().counts["departed"] == 0
    assert [now for now, _ in met(simulation, "client-0")] == [0.0, 1.0]
