"""Each agent is struck at each point of the protocol: crash before and after it, a long pause, a disconnection. Then everything must hold.

The points are what an undisturbed run of the toy world (real agents, a learner of hashes) passes through: each kind of message that an
agent sends or receives, each kind of record that it persists, each kind of job that it ends. So a new message kind is struck without
being listed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import pytest
from toy import SMALL_AGGREGATOR, SMALL_CLIENT, SMALL_SERVER, World, digest, replayed

from hosfl_async.agent import JobDone, Persist, Received, Send
from hosfl_async.checks import acknowledgement_problems, agent_problems, digest_problems, log_problems
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER

Doing = Literal["sends", "receives", "persists", "ends"]
Trouble = Literal["crash before", "crash after", "pause", "disconnect"]
TROUBLES: tuple[Trouble, ...] = ("crash before", "crash after", "pause", "disconnect")
STRUCK = {AGGREGATOR: AGGREGATOR, SPLIT_SERVER: SPLIT_SERVER, "client-1": "client"}
EVENTS_MISSED = 80
"""Events of the others while one is paused, disconnected or down: enough for several of their timers."""


class Point(NamedTuple):
    agent: str
    doing: Doing
    kind: str


class _Struck(Exception):
    pass


class StruckWorld(World):
    """A world in which one agent meets one trouble at the second time it passes one point (the first, where there is no second)."""

    def __init__(self, *, places: bool, at: Point | None = None, trouble: Trouble = "pause", time: int = 2) -> None:
        aggregator = replace(SMALL_AGGREGATOR, client_steps=14, concurrency=2 if places else 0)
        client = replace(SMALL_CLIENT, durable_outbox=True, asks_before_step=places)
        super().__init__(3, aggregator=aggregator, client=client, server=replace(SMALL_SERVER, checkpoint_every_steps=2))
        self.passed: Counter[Point] = Counter()
        self.absent = ""
        self.struck = 0
        self._at, self._trouble, self._time = at, trouble, time
        self._missed = 0

    # -- the points ---------------------------------------------------------------------------------------

    def _passes(self, agent: str, doing: Doing, thing: Any) -> bool:
        """Whether it is here and now that trouble strikes."""
        point = Point(agent, doing, type(thing).__name__)
        self.passed[point] += 1
        return point == self._at and self.passed[point] == self._time and not self.struck

    def feed(self, name: str, event: Any) -> None:
        try:
            doing: Any = {Received: ("receives", "message"), JobDone: ("ends", "result")}.get(type(event))
            if doing and self._passes(name, doing[0], getattr(event, doing[1])):
                self._strike(name, lambda: super(StruckWorld, self).feed(name, event))
            else:
                super().feed(name, event)
        except _Struck:
            self.crash(name)

    def _obey(self, node: Any, effect: Any) -> None:
        here = isinstance(effect, Send | Persist) and (
            self._passes(node.name, "sends", effect.message)
            if isinstance(effect, Send)
            else self._passes(node.name, "persists", effect.record)
        )
        if here:
            self._strike(node.name, lambda: super(StruckWorld, self)._obey(node, effect))
        elif not (self.absent == node.name and self._trouble == "disconnect" and isinstance(effect, Send)):
            super()._obey(node, effect)

    def _strike(self, name: str, act: Any) -> None:
        self.struck += 1
        if self._trouble != "crash before":
            act()
        self.absent, self._missed = name, 0
        if self._trouble.startswith("crash"):
            raise _Struck

    # -- who takes part -----------------------------------------------------------------------------------

    def step(self) -> bool:
        """One more thing happens, the absent one excepted; False if nothing can."""
        away, deaf = self.absent, self._trouble == "disconnect"
        if deaf:
            self.in_flight = [flight for flight in self.in_flight if flight.recipient != away]
        jobs = [name for name in self.jobs if name != away or deaf]
        flights = [index for index, flight in enumerate(self.in_flight) if flight.recipient != away]
        timers = [timer for timer in self.timers if timer[1] != away or deaf]
        if jobs:
            self.run_job(jobs[0])
        elif flights:
            self.deliver(flights[0])
        elif timers:
            self.fire(*timers[0][1:])
        else:
            return False
        return True

    def live(self) -> None:
        self.start_all()
        for _ in range(20_000):
            if self.absent:
                if self._missed == EVENTS_MISSED // 2 and self._trouble != "pause":
                    self._tell_it_is_gone()
                self._missed += 1
                if self._missed > EVENTS_MISSED or not self.step():
                    self.absent = ""
                    self.start_all()
            elif self.finished:
                return
            else:
                assert self.step(), f"nothing can happen any more: {self.states()}"
        raise AssertionError(f"no end: {self.states()}\n" + "\n".join(self.story[-60:]))

    def _tell_it_is_gone(self) -> None:
        for service in (AGGREGATOR, SPLIT_SERVER):
            if service != self.absent and self.nodes[service].up:
                self.report_gone(self.absent, to=service)


def points(places: bool) -> dict[Point, int]:
    world = StruckWorld(places=places)
    world.live()
    return {point: min(2, times) for point, times in world.passed.items() if point.agent in STRUCK}


CALM = {places: points(places) for places in (False, True)}
TABLE = [
    pytest.param(
        places, point, trouble, time, id=f"{STRUCK[point.agent]}-{trouble}-it {point.doing} {point.kind}{'-places' if places else ''}"
    )
    for places, passed in CALM.items()
    for point, time in sorted(passed.items())
    for trouble in TROUBLES
    if not places or point not in CALM[False]
]


@pytest.mark.parametrize(("places", "point", "trouble", "time"), TABLE)
def test_everything_holds_after(places: bool, point: Point, trouble: Trouble, time: int) -> None:
    world = StruckWorld(places=places, at=point, trouble=trouble, time=time)
    world.live()
    assert world.struck == 1
    world.check_end()
    agents = [world.agent(name) for name in world.nodes]
    truth, theta = {0: digest(world.nodes[AGGREGATOR].learner.theta * 0)}, world.nodes[AGGREGATOR].learner.theta * 0
    for entry in world.entries:
        theta = replayed(theta, entry)
        truth[entry.version] = digest(theta)
    followers = {name: (node.learner.version, digest(node.learner.theta)) for name, node in world.nodes.items()}
    assert not [
        *log_problems(world.entries),
        *acknowledgement_problems(map(str, world.acknowledged), world.entries),
        *agent_problems(agents),
        *digest_problems(followers, truth),
    ]


def test_the_table_is_as_long_as_it_should_be_and_meets_every_kind_of_point() -> None:
    kinds = {(point.doing, point.kind) for passed in CALM.values() for point in passed}
    assert len(TABLE) >= 57 * 2 and {doing for doing, _ in kinds} == {"sends", "receives", "persists", "ends"}
    for kind in (
        "Join",
        "Welcome",
        "SmashedData",
        "DualVariable",
        "ProjectedGradients",
        "Accepted",
        "CatchUp",
        "LogPage",
        "StepWanted",
        "Granted",
    ):
        assert ("receives", kind) in kinds, kind
    assert {"ClientJoined", "EntryCommitted", "ContributionMade", "ServerCheckpoint"} <= {
        kind for doing, kind in kinds if doing == "persists"
    }
