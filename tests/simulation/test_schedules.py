"""Random worlds of toy agents: whatever they do, time goes forward, nothing is lost uncounted, and a seed tells everything."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from toy_agents import Scripted, add_client, add_service, answer, ask, forward, silent, world

from hosfl_async.agent import Effect, Event, JobDone, Persist, RunJob, Send, SetTimer, Started
from hosfl_async.messages import AGGREGATOR, CLIENTS
from hosfl_async.simulation.settings import FleetGroup, NetworkSettings, Outage

CLIENT_NAMES = ("client-0", "client-1", "client-2")
NAMES = (AGGREGATOR, *CLIENT_NAMES)

networks = st.builds(
    NetworkSettings,
    latency_s=st.sampled_from([0.0, 0.5, 1.0]),
    latency_jitter_s=st.sampled_from([0.0, 2.0]),
    uplink_bytes_per_s=st.sampled_from([0.0, 50.0]),
    loss=st.sampled_from([0.0, 0.3]),
    duplication=st.sampled_from([0.0, 0.3]),
    reordering=st.sampled_from([0.0, 0.3]),
    service_faults=st.booleans(),
    peer_gone_after_s=st.sampled_from([0.0, 1.0]),
)
outages = st.builds(
    Outage,
    agent=st.sampled_from(NAMES),
    at_s=st.sampled_from([0.0, 1.0, 2.5]),
    absence_s=st.sampled_from([0.5, 1.0, 4.0]),
    kind=st.sampled_from(["pause", "crash"]),
)
wishes = st.one_of(
    st.tuples(st.just("send"), st.sampled_from([*CLIENT_NAMES, CLIENTS]), st.integers(0, 99)),
    st.tuples(st.just("timer"), st.sampled_from("ab"), st.sampled_from([None, 0.0, 1.0, 1.5])),
    st.tuples(st.just("job"), st.just(""), st.integers(1, 9)),
    st.tuples(st.just("persist"), st.just(""), st.integers(0, 99)),
)


@dataclass
class World:
    """What is drawn: per agent, what it wishes at its first, second, ... event. ``run`` plays it."""

    seed: int
    network: NetworkSettings
    outages: list[Outage]
    scripts: dict[str, list[list[Any]]]

    def run(self, *, cuts: tuple[float, ...] = (), strangers: int = 0) -> tuple[list[tuple[float, str, Event]], Any]:
        met: list[tuple[float, str, Event]] = []
        lines = {name: iter(script) for name, script in self.scripts.items()}
        idle = dict.fromkeys(NAMES, True)

        def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
            met.append((now, agent.name, event))
            idle[agent.name] = idle[agent.name] or isinstance(event, JobDone | Started)
            return [effect for wish in next(lines[agent.name], []) if (effect := self._effect(agent.name, wish, idle)) is not None]

        simulation = world(seed=self.seed, network=self.network, outages=self.outages, validate=True)
        add_service(simulation, react)
        for name in CLIENT_NAMES:
            add_client(simulation, name, react, group=FleetGroup(jitter_sigma=0.3))
        for number in range(strangers):
            add_client(simulation, f"stranger-{number}", silent)
        for until_s in cuts:
            simulation.run(until_s=until_s)
        return met, simulation.run()

    def _effect(self, name: str, wish: tuple[str, str, Any], idle: dict[str, bool]) -> Effect | None:
        match wish:
            case ("send", whom, number):
                return Send(whom, answer(number)) if name == AGGREGATOR else Send(AGGREGATOR, ask(number))
            case ("timer", timer, delay_s):
                return SetTimer(timer, delay_s)
            case ("persist", _, number):
                return Persist(number)
            case _ if idle[name]:
                idle[name] = False
                return RunJob(forward(wish[2], name))
        return None


worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    network=networks,
    outages=st.lists(outages, max_size=3),
    scripts=st.fixed_dictionaries({name: st.lists(st.lists(wishes, max_size=4), max_size=6) for name in NAMES}),
)


@given(worlds)
def test_time_goes_forward_and_every_message_is_accounted_for(drawn: World) -> None:
    met, outcome = drawn.run()
    assert all(earlier[0] <= later[0] for earlier, later in pairwise(met))
    assert outcome.ended == "quiescent"
    counts = outcome.counts
    assert counts["in_flight"] == 0
    assert counts["sent"] + counts["duplicated"] == counts["delivered"] + counts["lost"] + counts["missed"]
    assert counts["sent"] == sum(outcome.messages.values())
    assert counts["jobs_started"] >= counts["jobs_done"]
    assert outcome.events == len(met)


@given(worlds, st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 3.0]), max_size=3).map(sorted))
def test_a_seed_tells_everything_in_one_go_or_in_parts(drawn: World, cuts: list[float]) -> None:
    assert drawn.run() == drawn.run(cuts=tuple(cuts))


@given(worlds)
def test_a_silent_client_more_changes_nothing_for_the_others(drawn: World) -> None:
    assert drawn.run(strangers=2)[0] == drawn.run()[0]


@given(worlds)
def test_restarted_agents_get_all_they_persisted_under_a_higher_boot(drawn: World) -> None:
    kept: dict[str, list[int]] = {name: [] for name in NAMES}
    boots = dict.fromkeys(NAMES, 0)
    met, outcome = drawn.run()
    lines = {name: iter(script) for name, script in drawn.scripts.items()}
    for _, name, event in met:
        if isinstance(event, Started):
            assert event.records == tuple(kept[name])
            boots[name] += 1
            assert event.boot == boots[name]
        kept[name] += [number for what, _, number in next(lines[name], []) if what == "persist"]
    assert sum(boots.values()) == len(NAMES) + outcome.counts["crashes"]
