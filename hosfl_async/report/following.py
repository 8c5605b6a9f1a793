"""A run while it goes on: its growing journal folded into how things stand now.

``hosfl watch`` and ``hosfl dashboard`` show one ``Look`` after another. Memory grows with the clients, not with the events: of every
client its state and a few numbers are kept, of the whole run counts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable

import msgspec

from hosfl_async.report.client_states import STATES, ClientCourse
from hosfl_async.trace import TraceRecord

RATE_COMMITS = 50
"""Throughput is that of so many latest commits."""

_REFUSALS = {"Refused", "DualRefused"}


class ClientLook(msgspec.Struct, frozen=True):
    """One client now."""

    name: str
    state: str
    lag_versions: int
    """From a journal: versions committed since the aggregator last sent it the log's newest page or a snapshot. By telemetry: versions that
    its own copy of the client half is behind the log."""
    steps: int
    """Its contributions that are in the log."""
    refused: int
    step: str
    """The latest step that it worked on; ``hosfl story`` tells more about it."""


class Look(msgspec.Struct, frozen=True):
    """A run now. Times are modelled seconds."""

    time_s: float = 0.0
    version: int = 0
    client_steps: int = 0
    server_steps: int = 0
    steps_per_s: float = 0.0
    staleness_mean_versions: float = 0.0
    staleness_max_versions: int = 0
    duals_in_flight: int = 0
    refusals: int = 0
    lost: int = 0
    states: dict[str, int] = {}
    clients: tuple[ClientLook, ...] = ()
    digests_compared: int | None = None
    """Digests of the client half held against another one of the same version until now; None where the journal does not tell."""
    digests_differ: int = 0


class Following:
    """``meet`` every record in the journal's order; ``look`` at any time."""

    def __init__(self, names: Collection[str]) -> None:
        self._courses = {name: ClientCourse(name) for name in names}
        self._paged = dict.fromkeys(names, 0)
        self._steps: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._latest: dict[str, str] = {}
        self._commits: deque[tuple[float, int]] = deque(maxlen=RATE_COMMITS)
        self._staleness = [0, 0, 0]  # sum, count, highest
        self._time_s = 0.0
        self._version = self._server_steps = self._lost = self._differ = 0

    def meet(self, records: Iterable[TraceRecord]) -> None:
        """Take in what the journal has grown by."""
        for record in records:
            self._time_s = record.time_s
            course = self._courses.get(record.agent)
            if course is None:
                self._of_a_server(record)
                continue
            course.meet(record, keep=False)
            if record.step and record.what in ("job_started", "sent"):
                self._latest[record.agent] = record.step
            if record.what == "delivered" and record.kind in _REFUSALS:
                self._refused[record.agent] += 1
            self._lost += record.what == "lost"
            self._differ += record.what == "delivered" and record.kind == "DigestDiffers"

    def _of_a_server(self, record: TraceRecord) -> None:
        values = record.values or {}
        match record.what, record.kind:
            case "recorded", "admitted":
                stale = int(values["staleness_versions"])
                self._staleness = [self._staleness[0] + stale, self._staleness[1] + 1, max(self._staleness[2], stale)]
            case "persisted", "EntryCommitted":
                self._steps.update(step.partition("/")[0].partition("#")[0] for step in record.step.split(" "))
            case "recorded", "commit":
                self._version = int(values["version"])
                self._commits.append((record.time_s, int(values["client_steps"])))
            case "recorded", "server_step":
                self._server_steps += 1
            case "sent", ("LogPage" | "Snapshot") if record.peer in self._paged:
                self._paged[record.peer] = self._version
            case "lost", _:
                self._lost += 1
            case _:
                pass

    def look(self) -> Look:
        """How things stand after what was met."""
        clients = tuple(self._client(course) for course in self._courses.values())
        states = Counter(client.state for client in clients)
        total, count, highest = self._staleness
        return Look(
            time_s=self._time_s,
            version=self._version,
            client_steps=self._commits[-1][1] if self._commits else 0,
            server_steps=self._server_steps,
            steps_per_s=self._rate(),
            staleness_mean_versions=total / count if count else 0.0,
            staleness_max_versions=highest,
            duals_in_flight=sum(course.awaits_dual for course in self._courses.values()),
            refusals=sum(self._refused.values()),
            lost=self._lost,
            states={state: states[state] for state in STATES},
            clients=clients,
            digests_differ=self._differ,
        )

    def _client(self, course: ClientCourse) -> ClientLook:
        name = course.name
        lag = self._version - self._paged[name]
        return ClientLook(name, course.state, lag, self._steps[name], self._refused[name], self._latest.get(name, ""))

    def _rate(self) -> float:
        if len(self._commits) < 2:
            return 0.0
        (begin_s, before), (end_s, after) = self._commits[0], self._commits[-1]
        return (after - before) / (end_s - begin_s) if end_s > begin_s else 0.0
