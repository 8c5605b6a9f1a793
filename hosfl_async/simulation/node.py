"""One agent's place in the simulated world: its machine, its links, what it has under way, and what outlives its crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hosfl_async.agent import Agent, Learner
from hosfl_async.codec import Decoder
from hosfl_async.simulation.devices import Device
from hosfl_async.simulation.network import Link
from hosfl_async.simulation.settings import FleetGroup


class Store(Protocol):
    """Where an agent's records outlive its crashes. ``append`` returns when the record is safe."""

    def append(self, record: Any) -> None: ...

    def records(self) -> tuple[Any, ...]: ...


class RecordList:
    """The store of an agent that was given none: a list that the simulated crash spares."""

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: list[Any] = []

    def append(self, record: Any) -> None:
        self._records.append(record)

    def records(self) -> tuple[Any, ...]:
        return tuple(self._records)


class Node:
    """There is one per agent and there may be 100,000, hence slots, and containers only once they are needed."""

    __slots__ = (
        "agent", "alarm", "away", "boot", "counts_before", "decoder", "departed", "device", "downlink", "dropout_planned", "dropouts",
        "finished", "group", "job", "learner", "make_agent", "make_learner", "name", "store", "struck_in_steps", "suspended", "timers",
        "uplink",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        make_agent: Callable[[str], Agent],
        make_learner: Callable[[str], Learner],
        decoder: Decoder,
        device: Device,
        uplink: Link,
        downlink: Link | None = None,
        group: FleetGroup | None = None,
        store: Store | None = None,
    ) -> None:
        self.name, self.make_agent, self.make_learner = name, make_agent, make_learner
        self.decoder, self.device, self.uplink, self.downlink = decoder, device, uplink, downlink
        self.group = group
        """The fleet group of a client; None for a service."""
        self.struck_in_steps = group is not None and group.dropout.strikes_steps
        self.store = store
        self.agent: Agent | None = None
        """None before the start and while crashed."""
        self.learner: Learner | None = None
        self.boot = 0
        self.away = False
        self.departed = False
        """Gone for ever."""
        self.dropouts = 0
        """Absences drawn so far; the next one may lie on the timeline already (``dropout_planned``)."""
        self.dropout_planned = False
        self.finished = False
        self.job: Entry | None = None
        """The one job in flight, as it lies on the timeline."""
        self.timers: dict[str, Entry] | None = None
        """Timers by name. They are the timeline's to set and cancel, and so is ``alarm``."""
        self.alarm: Entry | None = None
        """What lies on the timeline for the earliest timer, or for one that was earlier."""
        self.suspended: list[tuple[float, Act, Any]] | None = None
        """While paused: (seconds left, act, detail) of job and timers, in order."""
        self.counts_before: dict[str, int] | None = None
        """Counts of the agent's former lives."""

    @property
    def present(self) -> bool:
        return self.agent is not None and not self.away

    def counts(self) -> dict[str, int]:
        """The agent's own counts, summed over its lives."""
        total = dict(self.counts_before or {})
        if self.agent is not None:
            for what, number in self.agent.counts.items():
                total[what] = total.get(what, 0) + number
        return total


Act = Callable[[Node, Any], None]
Entry = tuple[float, int, Act, Node, Any]
"""(time, serial number, what is to be done, at whom, its detail). Serial numbers are unique, so the rest is never compared."""
