"""Pauses keep memory, crashes keep records; both cut the link, and transports tell of those who stay away."""

from __future__ import annotations

from typing import Any

import pytest
from toy_agents import PERFECT, React, Scripted, add_client, add_service, answer, at_start, forward, met, silent, world

from hosfl_async.agent import Effect, Event, JobDone, PeerGone, Persist, Received, RunJob, Send, SetTimer, Started, TimerFired
from hosfl_async.errors import SettingsError
from hosfl_async.messages import AGGREGATOR
from hosfl_async.simulation.settings import DropoutSettings, FleetGroup, NetworkSettings, Outage


def away(kind: str, at_s: float = 1.0, absence_s: float = 10.0, agent: str = "client-0") -> Outage:
    return Outage(agent=agent, at_s=at_s, absence_s=absence_s, kind=kind)  # type: ignore[arg-type]


def busy(agent: Scripted, event: Event, now: float) -> list[Effect]:
    if isinstance(event, Started):
        return [Persist(f"boot {event.boot}"), SetTimer("late", 3.0), SetTimer("early", 2.0), RunJob(forward(event.boot))]
    return []


def test_a_pause_keeps_memory_and_shifts_job_and_timers_by_its_length() -> None:
    simulation = world(forward_s=2.5, outages=[away("pause")])
    add_client(simulation, "client-0", busy)
    outcome = simulation.run()
    assert met(simulation, "client-0") == [
        (0.0, Started()),
        (12.0, TimerFired("early")),
        (12.5, JobDone(forward(), forward())),
        (13.0, TimerFired("late")),
    ]
    assert (outcome.counts["pauses"], outcome.counts["crashes"]) == (1, 0)


def test_a_timer_suspended_by_a_pause_can_be_replaced_and_suspended_again() -> None:
    def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Started):
            return [SetTimer("first", 2.0), SetTimer("second", 4.0)]
        return [SetTimer("second", None), SetTimer("third", 5.0)] if event == TimerFired("first") else []

    simulation = world(outages=[away("pause"), away("pause", at_s=13.0)])
    add_client(simulation, "client-0", react)
    simulation.run()
    assert met(simulation, "client-0")[1:] == [(12.0, TimerFired("first")), (27.0, TimerFired("third"))]


def test_what_was_due_at_one_instant_keeps_its_order_through_a_pause() -> None:
    simulation = world(forward_s=2.0, outages=[away("pause")])
    start = at_start(SetTimer("one", 2.0), RunJob(forward()), SetTimer("two", 2.0), SetTimer("zero", 1.5))
    add_client(simulation, "client-0", start)
    simulation.run()
    done = JobDone(forward(), forward())
    assert [event for _, event in met(simulation, "client-0")[1:]] == [TimerFired("zero"), TimerFired("one"), done, TimerFired("two")]


def test_a_crash_loses_memory_job_and_timers_but_not_what_was_persisted() -> None:
    simulation = world(forward_s=2.5, outages=[away("crash")])
    lives: list[Scripted] = []

    def make_agent(name: str) -> Scripted:
        lives.append(Scripted(name, busy))
        return lives[-1]

    simulation.add("client-0", make_agent=make_agent, make_learner=lambda name: Learner(), inbox=int, group=FleetGroup())
    outcome = simulation.run()
    first, second = lives
    assert first.met == [(0.0, Started(1, ()))]
    assert second.met == [
        (11.0, Started(2, ("boot 1",))),
        (13.0, TimerFired("early")),
        (13.5, JobDone(forward(2), "computed")),
        (14.0, TimerFired("late")),
    ]
    assert outcome.counts["persisted"] == 2
    assert simulation.agent_counts()["client-0"] == {"events": 5}


class Learner:
    def run(self, job: Any) -> str:
        return "computed"


def test_a_crash_makes_the_learner_anew() -> None:
    made: list[Learner] = []

    def make_learner(name: str) -> Learner:
        made.append(Learner())
        return made[-1]

    simulation = world(outages=[away("crash")])
    simulation.add("client-0", make_agent=lambda name: Scripted(name, silent), make_learner=make_learner, inbox=int, group=FleetGroup())
    simulation.run(until_s=5.0)
    assert simulation.agent("client-0") is None
    assert simulation.learner("client-0") is None
    simulation.run()
    assert len(made) == 2
    assert simulation.learner("client-0") is made[1]


@pytest.mark.parametrize("kind", ["pause", "crash"])
def test_what_arrives_during_an_absence_is_missed_and_what_arrives_later_is_delivered(kind: str) -> None:
    def speak(agent: Scripted, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Started):
            return [SetTimer("early", 1.0), SetTimer("later", 8.5)]
        assert isinstance(event, TimerFired)
        return [Send("client-0", answer(1 if event.name == "early" else 2))]

    simulation = world(network=NetworkSettings(latency_s=2.0, peer_gone_after_s=0), outages=[away(kind, at_s=0.5, absence_s=9.5)])
    add_client(simulation, "client-0")
    add_service(simulation, speak)
    outcome = simulation.run()
    assert met(simulation, "client-0")[-1] == (10.5, Received(AGGREGATOR, answer(2)))
    assert (outcome.counts["missed"], outcome.counts["delivered"], outcome.counts["in_flight"]) == (1, 1, 0)


def test_services_hear_of_a_peer_that_stays_away_but_not_of_one_that_is_soon_back() -> None:
    network = NetworkSettings(peer_gone_after_s=4.0)
    simulation = world(network=network, outages=[away("pause", absence_s=3.0), away("crash", absence_s=5.0, agent="client-1")])
    for client in ("client-0", "client-1"):
        add_client(simulation, client)
    add_service(simulation)
    add_service(simulation, name="split_server")
    outcome = simulation.run()
    for service in (AGGREGATOR, "split_server"):
        assert met(simulation, service)[1:] == [(5.0, PeerGone("client-1"))]
    assert outcome.counts["peers_gone"] == 2
    assert met(simulation, "client-0") == [(0.0, Started())]


def test_a_service_can_crash_and_the_other_one_hears_of_it() -> None:
    simulation = world(network=NetworkSettings(peer_gone_after_s=4.0), outages=[away("crash", agent=AGGREGATOR)])
    add_service(simulation, at_start(Persist("kept")))
    add_service(simulation, name="split_server")
    simulation.run()
    assert met(simulation, AGGREGATOR) == [(11.0, Started(2, ("kept",)))]
    assert met(simulation, "split_server")[1:] == [(5.0, PeerGone(AGGREGATOR))]


def test_an_outage_during_another_one_has_no_effect() -> None:
    simulation = world(outages=[away("pause"), away("crash", at_s=5.0, absence_s=100.0)])
    add_client(simulation, "client-0")
    outcome = simulation.run()
    assert (outcome.counts["pauses"], outcome.counts["crashes"], outcome.modelled_time_s) == (1, 0, 11.0)


def test_a_crash_takes_back_that_an_agent_was_finished() -> None:
    def finish_after(delay_s: float) -> React:
        def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
            agent.finished = isinstance(event, TimerFired)
            return [] if agent.finished else [SetTimer("end", delay_s)]

        return react

    simulation = world(outages=[away("crash", at_s=2.0, agent=AGGREGATOR)])
    add_service(simulation, finish_after(1.0))
    add_client(simulation, "client-0", finish_after(5.0))
    outcome = simulation.run()
    assert (outcome.ended, outcome.finished_at_s, outcome.modelled_time_s) == ("finished", 1.0, 13.0)


def test_an_outage_of_an_unknown_agent_is_refused() -> None:
    simulation = world(outages=[away("crash", agent="client-9")])
    add_client(simulation, "client-0")
    with pytest.raises(SettingsError, match="no agent is called 'client-9'"):
        simulation.run()


# -- drawn dropouts -----------------------------------------------------------------------------------

OFTEN = DropoutSettings(mean_time_between_s=5.0, mean_absence_s=2.0, kind="crash")


def restarts(clients: int, seed: int = 1, until_s: float = 200.0) -> dict[str, list[float]]:
    """When each client restarted."""
    times: dict[str, list[float]] = {}

    def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Started):
            times.setdefault(agent.name, []).append(now)
        return [SetTimer("tick", 1.0)]

    simulation = world(seed=seed)
    for number in range(clients):
        add_client(simulation, f"client-{number}", react, group=FleetGroup(dropout=OFTEN))
    simulation.run(until_s=until_s)
    return times


def test_drawn_dropouts_depend_on_seed_and_device_only() -> None:
    three, four = restarts(3), restarts(4)
    assert {name: four[name] for name in three} == three
    assert restarts(3, seed=2) != three
    assert three["client-0"] != three["client-1"]
    assert all(15 < len(times) < 45 for times in three.values())  # about 200 / (5 + 2)


@pytest.mark.parametrize("kind", ["pause", "crash"])
def test_a_device_that_is_back_drops_out_again(kind: str) -> None:
    dropout = DropoutSettings(mean_time_between_s=5.0, mean_absence_s=2.0, kind=kind)  # type: ignore[arg-type]
    simulation = world()
    add_client(simulation, "client-0", group=FleetGroup(dropout=dropout))
    add_service(simulation, lambda agent, event, now: [SetTimer("tick", 1.0)])
    counts = simulation.run(until_s=200.0).counts
    assert 15 < counts["pauses"] + counts["crashes"] < 45  # about 200 / (5 + 2)


def test_drawn_dropouts_alone_do_not_keep_a_world_alive() -> None:
    simulation = world()
    add_client(simulation, "client-0", group=FleetGroup(dropout=OFTEN))
    assert simulation.run().ended == "quiescent"
    assert simulation.events == 1


def test_a_finished_device_is_left_alone() -> None:
    def finish(agent: Scripted, event: Event, now: float) -> list[Effect]:
        agent.finished = True
        return []

    simulation = world()
    add_client(simulation, "client-0", finish, group=FleetGroup(dropout=OFTEN))
    add_service(simulation, lambda agent, event, now: [SetTimer("tick", 1.0)])
    outcome = simulation.run(until_s=100.0)
    assert outcome.counts["crashes"] == 0


def test_perfect_links_report_nobody_gone() -> None:
    simulation = world(network=PERFECT, outages=[away("crash", absence_s=1000.0)])
    add_client(simulation, "client-0")
    add_service(simulation)
    assert simulation.run().counts["peers_gone"] == 0
