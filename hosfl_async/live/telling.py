"""What a host says of its agent to people who watch: the latest state and counts, kept ready and told in one small record.

It hears what the host notes for the journal, whether or not there is one, and reads what agents show (``agents``: "what others may read").
Memory does not grow: of everything the latest, of commits as many as the rate needs, of evaluations as many as a record holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from hashlib import blake2b
from math import isfinite
from typing import Any

from hosfl_async.messages import SPLIT_SERVER
from hosfl_async.telemetry import (
    TELEMETRY_VERSION,
    Activity,
    Checked,
    Evaluated,
    LogTold,
    RunTold,
    Telemetry,
    encode_telemetry,
    thinned,
)

RATE_COMMITS = 50
"""Throughput is that of so many latest commits."""
TEXT_MAX = 200
NOT_FINITE = 1e300
"""Told for a loss that has gone beyond all numbers, since JSON has none for it."""

_REFUSALS = frozenset(("Refused", "DualRefused"))


class Teller:
    """``met`` everything; ``record`` whenever it is time. ``unread``: frames that were dropped so far."""

    def __init__(self, agent: Any, boot: int, every_s: float, unread: Callable[[], int], run: RunTold | None = None) -> None:
        self.every_s = every_s
        self.begins_after_s = every_s * blake2b(agent.name.encode(), digest_size=1).digest()[0] / 256
        """The first record's delay: a share of ``every_s`` that the name decides."""
        self._agent, self._boot, self._unread, self._run = agent, boot, unread, run
        self._activity = Activity()
        self._serial = self._accepted = self._refused = 0
        self._step = ""
        self._commits: deque[tuple[float, int]] = deque(maxlen=RATE_COMMITS)
        self._staleness = [0.0, 0, 0]  # sum, count, highest
        self._curve: list[Evaluated] = []

    def met(self, what: str, kind: str, step: str, now_s: float, values: Mapping[str, Any] | None) -> None:
        """The host notes it, in the words of ``trace``."""
        self._activity.met(what, kind)
        if what == "delivered":
            self._accepted += kind == "Accepted"
            self._refused += kind in _REFUSALS
        elif step and what in ("job_started", "sent"):
            self._step = step
        elif what == "recorded" and values:
            self._recorded(kind, values, now_s)

    def _recorded(self, kind: str, values: Mapping[str, Any], now_s: float) -> None:
        if kind == "admitted":
            stale = int(values["staleness_versions"])
            self._staleness = [self._staleness[0] + stale, self._staleness[1] + 1, max(self._staleness[2], stale)]
        elif kind == "commit":
            self._commits.append((now_s, int(values["client_steps"])))
        elif kind == "evaluation":
            loss = values["loss"] if isfinite(values["loss"]) else NOT_FINITE
            point = Evaluated(int(values["version"]), int(values["server_steps"]), values["accuracy"], loss, now_s)
            self._curve = thinned([*self._curve, point])

    def record(self, now_s: float) -> bytes:
        """The next record, as it travels."""
        agent = self._agent
        self._serial += 1
        checkpoint = getattr(agent, "checkpoint", None)
        has_log = hasattr(agent, "log")
        return encode_telemetry(
            Telemetry(
                schema=TELEMETRY_VERSION,
                agent=agent.name,
                boot=self._boot,
                serial=self._serial,
                time_s=round(now_s, 3),
                every_s=self.every_s,
                state=self._activity.state,
                step=self._step if not has_log and len(self._step) <= TEXT_MAX else "",
                awaits_dual=self._activity.awaits_dual,
                version=agent.log.head if has_log else getattr(agent, "version", 0),
                accepted=self._accepted,
                refused=self._refused,
                dropped=self._unread(),
                finished=bool(agent.finished),
                broken=str(getattr(agent, "broken", ""))[:TEXT_MAX],
                checked=None if checkpoint is None else Checked(checkpoint.version, checkpoint.digest.hex()),
                log=self._log() if has_log else None,
                server_steps=getattr(agent, "server_steps", None),
                curve=tuple(self._curve),
            )
        )

    def _log(self) -> LogTold:
        agent = self._agent
        total, count, highest = self._staleness
        digest = agent.final_digest
        return LogTold(
            head=agent.log.head,
            client_steps=agent.steps_in_log,
            steps_per_s=self._rate(),
            staleness_sum=total,
            staleness_count=int(count),
            staleness_max=int(highest),
            digests_compared=agent.counts["digests_compared"],
            digests_differ=agent.counts["digests_differ"],
            over=agent.over,
            digest=None if digest is None else digest.hex(),
            clients_confirmed=len(agent.confirmed - {SPLIT_SERVER}),
            run=self._run,
        )

    def _rate(self) -> float:
        if len(self._commits) < 2:
            return 0.0
        (begin_s, before), (end_s, after) = self._commits[0], self._commits[-1]
        return round((after - before) / (end_s - begin_s), 6) if end_s > begin_s else 0.0
