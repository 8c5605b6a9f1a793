"""What a journal tells of devices, links and absences: one pass, in memory that grows with the agents and is bounded otherwise.

A job's duration is the time from ``job_started`` to ``job_done``; one during which its agent was away is left out. A message's way is the
time from ``sent`` to ``delivered``, which needs one clock for both ends: the simulator's, or that of `hosfl live`. Messages are told apart
by sender, recipient, kind and step. Where two of one name are under way together, it is not known which of them arrived, and neither is
counted as a sample; a message that was sent while its link was still busy with an earlier one is not either, since it may have queued.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log
from typing import Literal

from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER
from hosfl_async.trace import TraceRecord

WAYS_KEPT_MAX = 4096
"""Samples of one direction and kind of message; of more, every second one goes, and every second one that follows."""
FREE_AFTER = 20
"""A link whose latest message never arrived is taken to be free again after so many times the slowest way in its direction."""
UNDER_WAY_MAX = 1_000_000
"""Messages remembered that have not arrived; above it the earliest are taken for lost."""
SERVICES = frozenset((AGGREGATOR, SPLIT_SERVER))

Direction = Literal["up", "down", "services"]
_AWAY = {"paused": "pause", "crashed": "crash"}


@dataclass(slots=True)
class Durations:
    """Jobs of one kind on one machine."""

    number: int = 0
    total_s: float = 0.0
    positive: int = 0
    log_mean: float = 0.0
    log_squares: float = 0.0
    """Sum of the squared deviations of the durations' logarithms."""

    def add(self, lasted_s: float) -> None:
        self.number += 1
        self.total_s += lasted_s
        if lasted_s > 0:
            self.positive += 1
            away = log(lasted_s) - self.log_mean
            self.log_mean += away / self.positive
            self.log_squares += away * (log(lasted_s) - self.log_mean)


@dataclass(slots=True)
class Ways:
    """(bytes, seconds, client) of messages of one kind in one direction that travelled alone."""

    samples: list[tuple[int, float, str]] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, payload_bytes: int, lasted_s: float, client: str) -> None:
        self._seen += 1
        if self._seen % self._stride == 0:
            self.samples.append((payload_bytes, lasted_s, client))
            if len(self.samples) > WAYS_KEPT_MAX:
                del self.samples[::2]
                self._stride *= 2


@dataclass(slots=True)
class Presence:
    """When one agent was there."""

    first_s: float | None = None
    there_s: float = 0.0
    away_s: float = 0.0
    absences: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin, length, and what it was (``simulation.settings.AbsenceKind``)."""
    departed: bool = False
    starts: int = 0
    _since_s: float | None = None
    _away: tuple[float, str] | None = None

    def met(self, record: TraceRecord) -> None:
        now_s = record.time_s
        match record.what:
            case "started" | "resumed":
                if self.first_s is None:
                    self.first_s = now_s
                self.starts += record.what == "started"
                if self._away is not None:
                    begin_s, kind = self._away
                    self.absences.append((begin_s, now_s - begin_s, kind))
                    self.away_s += now_s - begin_s
                    self._away = None
                self._since_s = now_s if self._since_s is None else self._since_s
            case "paused" | "crashed" | "stopped" | "departed":
                if self._since_s is not None:
                    self.there_s += now_s - self._since_s
                    self._since_s = None
                if record.what in _AWAY:
                    self._away = now_s, _AWAY[record.what]
                self.departed |= record.what == "departed"
            case _:
                pass

    def end(self, now_s: float) -> None:
        if self._since_s is not None:
            self.there_s += now_s - self._since_s
            self._since_s = None


@dataclass(slots=True)
class _Sent:
    at_s: float
    payload_bytes: int
    alone: bool
    ambiguous: bool = False
    arrived: bool = False


@dataclass(slots=True)
class Observations:
    """Everything that ``fitting`` needs."""

    jobs: dict[str, dict[str, Durations]] = field(default_factory=dict)
    """By agent and kind of job."""
    ways: dict[tuple[Direction, str], Ways] = field(default_factory=dict)
    """By direction and kind of message."""
    presence: dict[str, Presence] = field(default_factory=dict)
    sent: Counter[Direction] = field(default_factory=Counter)
    lost: Counter[Direction] = field(default_factory=Counter)
    doubled: Counter[Direction] = field(default_factory=Counter)
    terms: int = 0
    """Terms of all log entries that became durable."""
    end_s: float = 0.0


def observe(records: Iterable[TraceRecord]) -> Observations:
    """Read a whole journal."""
    observer = _Observer()
    for record in records:
        observer.meet(record)
    return observer.end()


class _Observer:
    def __init__(self) -> None:
        self._found = Observations()
        self._running: dict[str, tuple[str, float] | None] = {}
        self._under_way: dict[tuple[str, str, str, str], deque[_Sent]] = defaultdict(deque)
        self._number_under_way = 0
        self._to_all: set[str] = set()
        """Kinds that were said to the whole group: who got them is not told by who was sent them."""
        self._latest: dict[tuple[str, Direction], _Sent] = {}
        self._slowest_s: dict[Direction, float] = defaultdict(float)

    def meet(self, record: TraceRecord) -> None:
        self._found.end_s = record.time_s
        match record.what:
            case "job_started":
                self._running[record.agent] = record.kind, record.time_s
            case "job_done" | "job_failed":
                self._job_ends(record)
            case "sent" if record.peer:
                self._sends(record)
            case "delivered" | "refused" | "missed":
                self._arrives(record)
            case "lost" | "duplicated":
                self._fate(record)
            case "persisted" if record.kind == "EntryCommitted":
                self._found.terms += record.step.count(" ") + 1
            case "started" | "resumed" | "paused" | "crashed" | "stopped" | "departed":
                self._found.presence.setdefault(record.agent, Presence()).met(record)
                self._running[record.agent] = None  # a job that was interrupted says nothing about its machine
            case _:
                pass

    def end(self) -> Observations:
        found = self._found
        for presence in found.presence.values():
            presence.end(found.end_s)
        for (sender, recipient, _, _), waiting in self._under_way.items():
            direction = direction_of(sender, recipient)
            if recipient not in found.presence or found.presence[recipient].departed:
                continue  # a group, or somebody who is not there to get it
            found.lost[direction] += sum(one.at_s + 2 * self._slowest_s[direction] < found.end_s for one in waiting)
        return found

    def _job_ends(self, record: TraceRecord) -> None:
        began = self._running.get(record.agent)
        self._running[record.agent] = None
        if began is not None and began[0] == record.kind and record.what == "job_done":
            kinds = self._found.jobs.setdefault(record.agent, {})
            kinds.setdefault(record.kind, Durations()).add(record.time_s - began[1])

    def _sends(self, record: TraceRecord) -> None:
        if record.peer == CLIENTS:
            self._to_all.add(record.kind)
            return
        direction = direction_of(record.agent, record.peer)
        link = _client(record.agent, record.peer), direction
        before = self._latest.get(link)
        patience_s = FREE_AFTER * self._slowest_s[direction]
        free = before is None or before.arrived or 0 < patience_s < record.time_s - before.at_s
        self._found.sent[direction] += 1
        waiting = self._under_way[record.agent, record.peer, record.kind, record.step]
        sent = _Sent(record.time_s, record.bytes, alone=free, ambiguous=bool(waiting))
        for other in waiting:
            other.ambiguous = True
        waiting.append(sent)
        self._latest[link] = sent
        self._number_under_way += 1
        if self._number_under_way > UNDER_WAY_MAX:
            self._forget_earliest()

    def _arrives(self, record: TraceRecord) -> None:
        key = record.peer, record.agent, record.kind, record.step
        waiting = self._under_way.get(key)
        direction = direction_of(record.peer, record.agent)
        if not waiting:
            self._found.doubled[direction] += record.what == "delivered" and record.kind not in self._to_all
            return
        sent = waiting.popleft()
        self._left(key)
        sent.arrived = True
        self._slowest_s[direction] = max(self._slowest_s[direction], 0.0 if sent.ambiguous else record.time_s - sent.at_s)
        if record.what == "delivered" and sent.alone and not sent.ambiguous:
            ways = self._found.ways.setdefault((direction, record.kind), Ways())
            ways.add(sent.payload_bytes, record.time_s - sent.at_s, _client(record.peer, record.agent))

    def _fate(self, record: TraceRecord) -> None:
        """The simulator's word about the message that was sent last under this name."""
        key = record.peer, record.agent, record.kind, record.step
        waiting = self._under_way.get(key)
        direction = direction_of(record.peer, record.agent)
        if not waiting:
            return
        if record.what == "lost":
            waiting.pop()
            self._found.lost[direction] += 1
            self._left(key)
        else:
            waiting[-1].ambiguous = True  # which of the two comes first is not told

    def _left(self, key: tuple[str, str, str, str]) -> None:
        self._number_under_way -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    def _forget_earliest(self) -> None:
        key = next(iter(self._under_way))
        self._under_way[key].popleft()
        direction = direction_of(key[0], key[1])
        self._found.lost[direction] += 1
        self._left(key)


def direction_of(sender: str, recipient: str) -> Direction:
    if sender in SERVICES:
        return "services" if recipient in SERVICES else "down"
    return "up"


def _client(sender: str, recipient: str) -> str:
    return recipient if sender in SERVICES else sender
