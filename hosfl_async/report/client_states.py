"""What each client was doing, and when: the journal of a run folded into a few states.

What the states mean, ``telemetry.Activity`` says. One pass over the journal, in memory that grows with the clients that are followed and
with the segments kept, never with the fleet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from hosfl_async.telemetry import STATES, Activity, State
from hosfl_async.trace import TraceRecord

__all__ = ["FOLLOWED_MAX", "STATES", "ClientCourse", "Segment", "State", "closer_look", "courses", "followed"]

T = TypeVar("T")

FOLLOWED_MAX = 24
"""Clients that a report follows; of a larger fleet, so many at equal distances."""

SEGMENTS_MAX = 200_000
"""Segments kept of all followed clients together; the closer look ends where they do."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One client in one state, from ``begin_s`` to ``end_s``, in modelled seconds."""

    state: State
    begin_s: float
    end_s: float


@dataclass(slots=True)
class ClientCourse:
    """One client's time: seconds in each state, and the segments themselves as far as they were kept."""

    name: str
    seconds: Counter[State] = field(default_factory=Counter)
    segments: list[Segment] = field(default_factory=list)
    _since_s: float = 0.0
    _activity: Activity = field(default_factory=Activity)

    @property
    def state(self) -> State:
        return self._activity.state

    @property
    def awaits_dual(self) -> bool:
        return self._activity.awaits_dual

    def meet(self, record: TraceRecord, keep: bool) -> None:
        """Take in one record of this client."""
        before = self.state
        self._activity.met(record.what, record.kind)
        if self.state != before:
            self._end(before, record.time_s, keep)

    def end(self, time_s: float, keep: bool) -> None:
        self._end(self.state, time_s, keep)

    def _end(self, state: State, time_s: float, keep: bool) -> None:
        if time_s > self._since_s:
            self.seconds[state] += time_s - self._since_s  # type: ignore[assignment]
            if self.segments and self.segments[-1].state == state and self.segments[-1].end_s == self._since_s:
                self.segments[-1] = Segment(state, self.segments[-1].begin_s, time_s)
            elif keep:
                self.segments.append(Segment(state, self._since_s, time_s))
        self._since_s = time_s


def followed(names: Collection[T], most: int = FOLLOWED_MAX) -> list[T]:
    """All names, or ``most`` of them at equal distances, in their order."""
    ordered = list(names)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(place * (len(ordered) - 1) / (most - 1))] for place in range(most)]


def courses(records: Iterable[TraceRecord], names: Collection[str]) -> list[ClientCourse]:
    """The course of each named client, in that order; empty courses for clients that never appear."""
    found = {name: ClientCourse(name) for name in names}
    kept, now_s = 0, 0.0
    for record in records:
        now_s = record.time_s
        course = found.get(record.agent)
        if course is not None:
            before = len(course.segments)
            course.meet(record, kept < SEGMENTS_MAX)
            kept += len(course.segments) - before
    for course in found.values():
        course.end(now_s, kept < SEGMENTS_MAX)
    return list(found.values())


def closer_look(found: Collection[ClientCourse], segments_wanted: int = 600) -> tuple[float, float]:
    """A window in the middle of what was kept, wide enough for about so many segments. (0, 0) where nothing was kept."""
    begins = sorted(segment.begin_s for course in found for segment in course.segments)
    if not begins:
        return 0.0, 0.0
    first = max(0, len(begins) // 2 - segments_wanted // 2)
    last = min(len(begins) - 1, first + segments_wanted)
    end = max(segment.end_s for course in found for segment in course.segments) if last == len(begins) - 1 else begins[last]
    return begins[first], max(end, begins[first])
