"""What each client was doing, and when: the journal of a run folded into a few states.

A client is, in this order of precedence: *offline* (not there yet, crashed, stopped, suspended, or gone for ever), *computing* (a job of
its learner runs), *catching up* (it replays log entries, has asked for some, or installs a snapshot), *waiting for the dual* (its
activations are out and nothing else is to be done), or *waiting otherwise* (for an answer, a place, a delay to pass).

One pass over the journal, in memory that grows with the clients that are followed and with the segments kept, never with the fleet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from hosfl_async.trace import TraceRecord

State = Literal["computing", "waiting for the dual", "catching up", "offline", "waiting otherwise"]
STATES: tuple[State, ...] = ("computing", "waiting for the dual", "catching up", "waiting otherwise", "offline")

FOLLOWED_MAX = 24
"""Clients that a report follows; of a larger fleet, so many at equal distances."""

SEGMENTS_MAX = 200_000
"""Segments kept of all followed clients together; the closer look ends where they do."""

_CATCHING_UP = {"Replay", "InstallSnapshot"}
_AWAY = {"crashed", "stopped", "departed", "paused"}
_BACK = {"started", "resumed"}


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
    _away: bool = True
    _job: str = ""
    _asked: bool = False
    _dual: bool = False

    @property
    def state(self) -> State:
        if self._away:
            return "offline"
        if self._job:
            return "catching up" if self._job in _CATCHING_UP else "computing"
        if self._asked:
            return "catching up"
        return "waiting for the dual" if self._dual else "waiting otherwise"

    @property
    def awaits_dual(self) -> bool:
        return self._dual

    def meet(self, record: TraceRecord, keep: bool) -> None:
        """Take in one record of this client."""
        before = self.state
        self._change(record)
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

    def _change(self, record: TraceRecord) -> None:
        match record.what, record.kind:
            case what, _ if what in _AWAY:
                self._away = True
                if what != "paused":  # a suspended device keeps its memory
                    self._job, self._asked, self._dual = "", False, False
            case what, _ if what in _BACK:
                self._away = False
            case "job_started", job:
                self._job = job
            case (("job_done" | "job_failed"), _):
                self._job = ""
            case "sent", "CatchUp":
                self._asked = True
            case "delivered", ("LogPage" | "Snapshot"):
                self._asked = False
            case "sent", "SmashedData":
                self._dual = True
            case "delivered", ("DualVariable" | "DualRefused"):
                self._dual = False
            case "recorded", "cut_off":
                self._dual = False
            case _:
                pass


def followed(names: Collection[str], most: int = FOLLOWED_MAX) -> list[str]:
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
