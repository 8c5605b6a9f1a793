"""A live run as its agents tell it by telemetry: their latest records put together into how things stand now.

Between two looks at most one record of each agent waits, unread: a look costs what there are agents, not what was said. Records may come
twice, late, or never; each is whole, so the latest one counts, known by its process's boot and its serial number. An agent that has been
silent for ``SILENT_INTERVALS`` of its own intervals, while there was a connection, is shown as offline.

Digests of the client half are compared here too: two agents that name different ones for one version have broken the promise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable

from msgspec import structs

from hosfl_async.errors import CodecError
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.report.following import ClientLook, Look
from hosfl_async.report.recorder import Evaluation
from hosfl_async.telemetry import STATES, Checked, LogTold, State, Telemetry, decode_telemetry

AGENTS_HEARD_MAX = 20_000
"""Agents listened to; records of others are counted as ``unlisted``."""
SILENT_INTERVALS = 3
SILENT_AT_LEAST_S = 1.0
CHANGES_KEPT_MAX = 40
"""What is told of one client: so many of its latest changes."""
VERSIONS_KEPT_MAX = 512
"""Versions whose digest is remembered for comparison."""
EVALUATIONS_KEPT_MAX = 1000
"""Points of the curve; of more, every second one goes."""
STEPS_KNOWN_MAX = 512
"""Pairs of version and client steps, between which the client steps of an evaluation are interpolated."""

_SERVICES = (AGGREGATOR, SPLIT_SERVER)


class _Heard:
    __slots__ = ("at_s", "changes", "record")

    def __init__(self) -> None:
        self.record: Telemetry | None = None
        self.at_s = 0.0
        self.changes: deque[str] = deque(maxlen=CHANGES_KEPT_MAX)


class Hearing:
    """``hear`` whatever comes, ``look`` at any time. ``names``: clients known beforehand; they are offline until they speak.

    Times are those of one clock of the caller's, in seconds.
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self._agents: dict[str, _Heard] = {name: _Heard() for name in names}
        self._listed = set(self._agents)
        self._waiting: dict[str, tuple[bytes, float]] = {}
        self._digests: OrderedDict[int, tuple[str, str]] = OrderedDict()
        self._evaluations: dict[int, Evaluation] = {}
        self._steps: list[tuple[int, int]] = [(0, 0)]

    def hear(self, agent: str, payload: bytes, at_s: float) -> None:
        """One record came. It is read at the next look, unless another one of the agent comes first."""
        if agent not in self._listed:
            if len(self._listed) >= AGENTS_HEARD_MAX:
                self.counts["unlisted"] += 1
                return
            self._listed.add(agent)
        self.counts["heard"] += 1
        self.counts["overtaken"] += agent in self._waiting
        self._waiting[agent] = payload, at_s

    @property
    def names(self) -> list[str]:
        """Clients, in the order of their numbers."""
        return sorted((name for name in self._agents if name not in _SERVICES), key=_numbered)

    @property
    def log(self) -> LogTold | None:
        """The aggregator's latest word about the log."""
        told = self._told(AGGREGATOR)
        return None if told is None else told.log

    @property
    def ended(self) -> bool:
        """The aggregator has finished, or ended with all its steps in the log."""
        told = self._told(AGGREGATOR)
        return told is not None and told.log is not None and told.log.over and (told.finished or told.state == "offline")

    @property
    def evaluations(self) -> list[Evaluation]:
        """The curve, as far as the split server has told it; client steps are interpolated between versions that were told."""
        return [self._with_steps(point) for _, point in sorted(self._evaluations.items())]

    def look(self, now_s: float, connected_since_s: float | None) -> Look:
        """How things stand. ``connected_since_s`` None: nobody can be heard, so nobody's silence means anything."""
        waiting, self._waiting = self._waiting, {}
        for agent, (payload, at_s) in waiting.items():
            self._read(agent, payload, at_s)
        log, server = self.log, self._told(SPLIT_SERVER)
        head = log.head if log else max((each.record.version for each in self._agents.values() if each.record), default=0)
        clients = tuple(self._client(name, head, now_s, connected_since_s) for name in self.names)
        states = Counter(client.state for client in clients)
        aggregator = self._told(AGGREGATOR)
        return Look(
            time_s=aggregator.time_s if aggregator else max((one.time_s for one in self._records()), default=0.0),
            version=head,
            client_steps=log.client_steps if log else 0,
            server_steps=(server.server_steps or 0) if server else 0,
            steps_per_s=log.steps_per_s if log else 0.0,
            staleness_mean_versions=log.staleness_sum / log.staleness_count if log and log.staleness_count else 0.0,
            staleness_max_versions=log.staleness_max if log else 0,
            duals_in_flight=sum(one.awaits_dual for one in self._records() if one.agent not in _SERVICES),
            refusals=sum(one.refused for one in self._records()),
            lost=sum(one.dropped for one in self._records()),
            states={state: states[state] for state in STATES},
            clients=clients,
            digests_compared=self.counts["digests_compared"] + (log.digests_compared if log else 0),
            digests_differ=self.counts["digests_differ"] + (log.digests_differ if log else 0),
        )

    def story(self, name: str) -> list[str] | None:
        """What was heard of a client, latest last; None if it is unknown."""
        heard = self._agents.get(name)
        return None if heard is None or name in _SERVICES else list(heard.changes) or ["nothing has been heard of it yet"]

    def heard_s(self, name: str) -> float | None:
        """When it last spoke."""
        heard = self._agents.get(name)
        return None if heard is None or heard.record is None else heard.at_s

    def record(self, name: str) -> Telemetry | None:
        """Its latest record."""
        return self._told(name)

    # -- reading -----------------------------------------------------------------------------------------

    def _read(self, agent: str, payload: bytes, at_s: float) -> None:
        try:
            record = decode_telemetry(agent, payload)
        except CodecError:
            self.counts["unreadable"] += 1
            return
        heard = self._agents.setdefault(agent, _Heard())
        before = heard.record
        if before is not None and (record.boot, record.serial) <= (before.boot, before.serial):
            self.counts["late"] += 1
            return
        heard.record, heard.at_s = record, at_s
        self._note_change(heard, before, record)
        if record.checked is not None and (before is None or before.checked != record.checked):
            self._compare(agent, record.checked)
        self._note_curve(record)
        if record.log is not None:
            self._note_steps(record.log)

    def _note_change(self, heard: _Heard, before: Telemetry | None, record: Telemetry) -> None:
        parts = [record.state, f"step {record.step or '-'}", f"version {record.version}", f"{record.accepted} accepted"]
        if record.refused:
            parts.append(f"{record.refused} refused")
        if record.broken:
            parts.append(f"stopped for good: {record.broken}")
        if before is not None and before.boot != record.boot:
            parts.append("a new process")
        told = ", ".join(parts)
        if not heard.changes or not heard.changes[-1].endswith(told):
            heard.changes.append(f"{record.time_s:10.1f} s  {told}")

    def _compare(self, agent: str, checked: Checked) -> None:
        known = self._digests.get(checked.version)
        if known is None:
            self._digests[checked.version] = agent, checked.digest
            if len(self._digests) > VERSIONS_KEPT_MAX:
                self._digests.popitem(last=False)
        elif known[0] != agent:
            self.counts["digests_compared"] += 1
            self.counts["digests_differ"] += known[1] != checked.digest

    def _note_curve(self, record: Telemetry) -> None:
        for point in record.curve:
            self._evaluations[point.server_steps] = Evaluation(
                time_s=point.time_s, client_steps=0, server_steps=point.server_steps, version=point.version,
                accuracy=point.accuracy, loss=point.loss, staleness_mean_versions=0.0,
            )  # fmt: skip
        if len(self._evaluations) > EVALUATIONS_KEPT_MAX:
            for server_steps in sorted(self._evaluations)[1:-1:2]:
                del self._evaluations[server_steps]

    def _note_steps(self, log: LogTold) -> None:
        if self._steps[-1][0] < log.head:
            self._steps.append((log.head, log.client_steps))
        if len(self._steps) > STEPS_KNOWN_MAX:
            del self._steps[1:-1:2]

    def _with_steps(self, point: Evaluation) -> Evaluation:
        return structs.replace(point, client_steps=self._steps_at(point.version))

    def _steps_at(self, version: int) -> int:
        place = bisect_left(self._steps, (version, 0))
        if place == len(self._steps):
            return self._steps[-1][1]
        after, steps = self._steps[place]
        if place == 0 or after == version:
            return steps
        before, fewer = self._steps[place - 1]
        return fewer + round((steps - fewer) * (version - before) / (after - before))

    # -- what is shown -----------------------------------------------------------------------------------

    def _records(self) -> Iterable[Telemetry]:
        return (heard.record for heard in self._agents.values() if heard.record is not None)

    def _told(self, name: str) -> Telemetry | None:
        heard = self._agents.get(name)
        return None if heard is None else heard.record

    def _client(self, name: str, head: int, now_s: float, connected_since_s: float | None) -> ClientLook:
        heard = self._agents[name]
        record = heard.record
        if record is None:
            return ClientLook(name, "offline", head, 0, 0, "")
        state: State = record.state
        if connected_since_s is not None:
            patience_s = max(SILENT_AT_LEAST_S, SILENT_INTERVALS * record.every_s)
            if now_s - max(heard.at_s, connected_since_s) > patience_s:
                state = "offline"
        return ClientLook(name, state, max(0, head - record.version), record.accepted, record.refused, record.step)


def _numbered(name: str) -> tuple[str, int, str]:
    """client-2 before client-10."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number), "") if number.isdecimal() and len(number) < 19 else (name, -1, name)
