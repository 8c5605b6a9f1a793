"""The fault plan: what goes wrong on purpose, when, and for how long. A plan, drawn from the seed; nothing in the run changes it.

============  =======================================================================================================================
kind          while it lasts
============  =======================================================================================================================
crash         memory is lost; the agents restart with what they had persisted (see ``absences``)
pause         suspended, memory kept
partition     nothing passes between these agents and the others, in both directions or one
clog          their links are slower and longer
broker_crash  every link is down; what was under way when it began is lost
slow_disk     what they persist takes time, and what they send after it waits
clock_skew    their clocks run fast or slow, after a leap ahead (see ``clocks``)
byzantine     these clients lie in what they contribute (:class:`Liars`); everything else they do is honest
============  =======================================================================================================================

A fault with ``mean_between_s`` strikes again at exponential times until ``until_s``, each time at other agents if it takes a share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, nan
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from annotated_types import Ge, Gt, Le, MaxLen

from hosfl_async.errors import SettingsError
from hosfl_async.messages import CLIENTS, ProjectedGradients
from hosfl_async.simulation.clocks import Clocks
from hosfl_async.simulation.draws import exponential, stream_key, uniform

STRIKES_MAX = 100_000
"""Strikes of one fault; a plan with more is refused."""

FaultKind = Literal["crash", "pause", "partition", "clog", "broker_crash", "slow_disk", "clock_skew", "byzantine"]
Lie = Literal["huge", "sign_flip", "random", "nan", "replayed", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, once or again and again. Faults are imitated in virtual time only."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    kind: FaultKind
    """crash, pause, partition, clog, broker_crash, slow_disk, clock_skew or byzantine: see docs/fleets.md."""
    agents: Annotated[tuple[str, ...], MaxLen(10_000)] = (CLIENTS,)
    """Whom it strikes, by name; ``clients`` means all of them. A broker crash strikes everybody."""
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of ``agents`` that it strikes, drawn anew for each strike; at least one."""
    at_s: Annotated[float, Ge(0)] = 0.0
    """When it strikes first; with ``mean_between_s``, when it begins to threaten."""
    for_s: Annotated[float, Ge(0)] = 10.0
    """How long each strike lasts. 0: to the end of the run, for byzantine clients only."""
    mean_between_s: Annotated[float, Ge(0)] = 0.0
    """Mean of the exponential time between two strikes. 0: it strikes once, at ``at_s``."""
    until_s: Annotated[float, Ge(0)] = 0.0
    """After this nothing strikes any more; needed with ``mean_between_s``."""
    direction: Literal["both", "out", "in"] = "both"
    """Of a partition: which way nothing passes, seen from ``agents``."""
    bandwidth_factor: Annotated[float, Ge(1)] = 1.0
    """How many times slower a clogged link transmits."""
    latency_factor: Annotated[float, Ge(1)] = 1.0
    """How many times longer a clogged link's latency is."""
    persist_s: Annotated[float, Gt(0)] = 0.1
    """What a slow disk needs for a record."""
    clock_rate: Annotated[float, Ge(0.01), Le(100)] = 1.0
    """How fast a skewed clock runs: at 2, its timers take half the time."""
    clock_ahead_s: Annotated[float, Ge(0)] = 0.0
    """How far a skewed clock leaps ahead when it strikes, and stays ahead. No clock leaps back."""
    lie: Lie = "huge"
    """huge: times ``magnitude``. sign_flip: times -1. random: uniform within +-``magnitude``. nan: no numbers. replayed: an earlier
    contribution again. silent: nothing."""
    magnitude: Annotated[float, Gt(0)] = 1e6
    """Of a huge or random lie."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One occurrence: of which fault, at whom, from when to when (infinite: to the end)."""

    fault: Fault
    members: frozenset[str]
    begins_s: float
    ends_s: float


def strikes(faults: Iterable[Fault], seed: int, clients: tuple[str, ...]) -> Iterator[Strike]:
    """Every strike of the plan. ``clients`` are the names that ``clients`` stands for. Raises ``SettingsError`` above ``STRIKES_MAX``."""
    for index, fault in enumerate(faults):
        names = tuple(dict.fromkeys(name for agent in fault.agents for name in (clients if agent == CLIENTS else (agent,))))
        for number, begins_s in enumerate(_times(fault, stream_key(seed, "fault", str(index)))):
            if number == STRIKES_MAX:
                raise SettingsError(f"fault[{index}]", "strikes too often", expected=f"at most {STRIKES_MAX} times")
            ends_s = begins_s + fault.for_s if fault.for_s else inf
            yield Strike(fault, _drawn(names, fault.share, stream_key(seed, "struck", str(index), str(number))), begins_s, ends_s)


def _times(fault: Fault, key: int) -> Iterator[float]:
    if not fault.mean_between_s:
        yield fault.at_s
        return
    time_s, number = fault.at_s, 0
    while (time_s := time_s + exponential(key, number, fault.mean_between_s)) < fault.until_s:
        number += 1
        yield time_s


def _drawn(names: tuple[str, ...], share: float, key: int) -> frozenset[str]:
    if share == 1.0:
        return frozenset(names)
    order = sorted(range(len(names)), key=lambda index: uniform(key, index))
    return frozenset(names[index] for index in order[: max(1, round(share * len(names)))])


class Liars:
    """Byzantine clients: twists what they contribute. The same step is twisted alike every time it is sent."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lies: dict[str, Fault] = {}
        self._former: dict[str, ProjectedGradients] = {}

    def begin(self, strike: Strike) -> None:
        self._lies.update(dict.fromkeys(strike.members, strike.fault))

    def end(self, strike: Strike) -> None:
        for name in strike.members:
            if self._lies.get(name) is strike.fault:
                del self._lies[name]

    def __bool__(self) -> bool:
        return bool(self._lies)

    def twisted(self, sender: str, message: Any) -> Any:
        """What ``sender`` sends instead; None for nothing."""
        fault = self._lies.get(sender)
        if fault is None or not isinstance(message, ProjectedGradients):
            return message
        if fault.lie == "silent":
            return None
        if fault.lie == "replayed":
            return self._former.setdefault(sender, message)
        numbers = tuple(self._lie(fault, message, probe, number) for probe, number in enumerate(message.projected_gradients))
        return msgspec.structs.replace(message, projected_gradients=numbers)

    def _lie(self, fault: Fault, message: ProjectedGradients, probe: int, number: float) -> float:
        match fault.lie:
            case "huge":
                return number * fault.magnitude
            case "sign_flip":
                return -number
            case "nan":
                return nan
        return fault.magnitude * (2 * uniform(stream_key(self._seed, "lie", str(message.step)), probe) - 1)


class Weather:
    """What is wrong with the links, disks, clocks and clients just now.

    ``clog_factor_max``: see ``SimulationSettings``; each message that meets it is counted in ``counts``, as ``clogs_capped``.
    """

    __slots__ = ("_clog_factor_max", "_clogs", "_counts", "_down", "_partitions", "calm", "clocks", "disks", "fair", "liars")

    def __init__(self, seed: int, clog_factor_max: float, counts: dict[str, int]) -> None:
        self._clog_factor_max, self._counts = clog_factor_max, counts
        self._clogs: list[Strike] = []
        self._partitions: list[Strike] = []
        self._down = 0
        self.disks: dict[str, float] = {}
        """Agents with a slow disk -> seconds for a record."""
        self.liars = Liars(seed)
        self.clocks = Clocks()
        self.fair = True
        """Nothing is wrong with any link."""
        self.calm = True
        """Nothing is wrong at all, and no clock is ahead."""

    def _look_around(self) -> None:
        self.fair = not (self._down or self._partitions or self._clogs)
        self.calm = self.fair and not (self.disks or self.liars or self.clocks)

    def begin(self, strike: Strike) -> None:
        match strike.fault.kind:
            case "partition":
                self._partitions.append(strike)
            case "clog":
                self._clogs.append(strike)
            case "broker_crash":
                self._down += 1
            case "slow_disk":
                self.disks.update(dict.fromkeys(strike.members, strike.fault.persist_s))
            case "clock_skew":
                self.clocks.begin(strike)
            case "byzantine":
                self.liars.begin(strike)
        self._look_around()

    def end(self, strike: Strike) -> None:
        match strike.fault.kind:
            case "partition":
                self._partitions.remove(strike)
            case "clog":
                self._clogs.remove(strike)
            case "broker_crash":
                self._down -= 1
            case "slow_disk":
                for name in strike.members:
                    self.disks.pop(name, None)
            case "clock_skew":
                self.clocks.end(strike)
            case "byzantine":
                self.liars.end(strike)
        self._look_around()

    def cuts(self, sender: str, recipient: str) -> bool:
        """Whether a message sent now is lost to a fault."""
        return self._down > 0 or any(_divides(strike, sender, recipient) for strike in self._partitions)

    def clogs(self, sender: str, recipient: str) -> tuple[float, float]:
        """By how much a message sent now is slower, and its way longer: the factors of all clogs at either end, multiplied and bounded."""
        slower = farther = 1.0
        for strike in self._clogs:
            if sender in strike.members or recipient in strike.members:
                slower *= strike.fault.bandwidth_factor
                farther *= strike.fault.latency_factor
        if max(slower, farther) > self._clog_factor_max:
            self._counts["clogs_capped"] += 1
        return min(slower, self._clog_factor_max), min(farther, self._clog_factor_max)


def _divides(strike: Strike, sender: str, recipient: str) -> bool:
    out, into = sender in strike.members, recipient in strike.members
    if out == into:
        return False
    return strike.fault.direction == "both" or (strike.fault.direction == "out") == out
