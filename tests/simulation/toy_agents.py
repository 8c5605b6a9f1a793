"""Agents and learners small enough to see through, for tests of the simulation host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hosfl_async.agent import Effect, Event, Started
from hosfl_async.jobs import Forward
from hosfl_async.messages import AGGREGATOR, AggregatorInbox, CatchUp, EdgeClientInbox, HeadAnnounced, StepId
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, NetworkSettings

React = Callable[["Scripted", Event, float], list[Effect]]

PERFECT = NetworkSettings(latency_s=0.0, service_latency_s=0.0, peer_gone_after_s=0.0)
"""Links that take no time and lose nothing."""


class Scripted:
    """Remembers what it met and answers as ``react`` says."""

    def __init__(self, name: str, react: React) -> None:
        self.name = name
        self.counts: dict[str, int] = {}
        self.finished = False
        self.met: list[tuple[float, Event]] = []
        self.validated = 0
        self._react = react

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.met.append((now, event))
        self.counts["events"] = self.counts.get("events", 0) + 1
        return self._react(self, event, now)

    def validate(self) -> None:
        self.validated += 1


class Echo:
    """A learner whose result is the job itself, or what ``compute`` makes of it."""

    def __init__(self, compute: Callable[[Any], Any] = lambda job: job) -> None:
        self.run = compute


def at_start(*effects: Effect) -> React:
    """React to ``Started`` with these effects and to nothing else."""
    return lambda agent, event, now: list(effects) if isinstance(event, Started) else []


def silent(agent: Scripted, event: Event, now: float) -> list[Effect]:
    return []


def world(*, seed: int = 1, network: NetworkSettings = PERFECT, forward_s: float = 1.0, **options: Any) -> Simulation:
    return Simulation(seed=seed, network=network, compute=ComputeSettings(forward_s=forward_s), **options)


def add_client(
    simulation: Simulation,
    name: str,
    react: React = silent,
    *,
    group: FleetGroup | None = None,
    compute: Callable[[Any], Any] = lambda job: job,
    **options: Any,
) -> None:
    simulation.add(
        name,
        make_agent=lambda given: Scripted(given, react),
        make_learner=lambda given: Echo(compute),
        inbox=EdgeClientInbox,
        group=group or FleetGroup(),
        **options,
    )


def add_service(simulation: Simulation, react: React = silent, *, name: str = AGGREGATOR, **options: Any) -> None:
    simulation.add(
        name, make_agent=lambda given: Scripted(given, react), make_learner=lambda given: Echo(), inbox=AggregatorInbox, **options
    )


def met(simulation: Simulation, name: str) -> list[tuple[float, Event]]:
    agent = simulation.agent(name)
    assert isinstance(agent, Scripted)
    return agent.met


def ask(number: int) -> CatchUp:
    """A message to the aggregator that carries a number."""
    return CatchUp(number)


def answer(number: int) -> HeadAnnounced:
    """A message to a client that carries a number."""
    return HeadAnnounced(number)


def forward(number: int = 1, client: str = "client-0") -> Forward:
    return Forward(StepId(client, 1, number), 0)
