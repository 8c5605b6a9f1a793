"""What a simulated run comes to: how it ended, when, and everything that was counted on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hosfl_async.codec import bytes_by_kind

Ending = Literal["finished", "quiescent", "stopped", "until"]
"""finished: every agent said so. quiescent: nothing left to happen, although somebody is not finished. stopped: ``stop_when`` said
so. until: the requested time was reached."""

COUNTS = (
    "sent",
    "delivered",
    "lost",
    "duplicated",
    "reordered",
    "missed",
    "refused",
    "in_flight",
    "timers_fired",
    "jobs_started",
    "jobs_done",
    "jobs_failed",
    "jobs_lost",
    "persisted",
    "pauses",
    "crashes",
    "departed",
    "cut",
    "silenced",
    "clogs_capped",
    "strikes",
    "peers_gone",
)
"""``sent`` counts copies: a message to a group once per recipient. ``missed``: arrived at an agent that was away. ``refused``: by the
codec. ``cut``: lost to a partition or to the broker's crash; they are among the lost. ``silenced``: never sent, by a byzantine client.
``jobs_lost``: under way on a device that crashed or left. ``clogs_capped``: sent while clogs together met ``clog_factor_max``.
Always sent + duplicated = delivered + lost + missed + refused + in_flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOutcome:
    """Numbers of one run. Times are modelled seconds."""

    seed: int
    ended: Ending
    events: int
    """Calls of ``handle``, over all agents."""
    modelled_time_s: float
    """When the last event happened."""
    finished_at_s: float | None
    """When the aggregator was first finished: stragglers still busy then do not prolong it."""
    last_fault_s: float
    """When the last planned outage or strike of the fault plan was over, or would have been; 0 without any. Byzantine clients to the end
    do not count, nor do habits and dropouts, which go on."""
    messages: dict[str, int]
    """Sent copies by kind of message."""
    bytes: dict[str, int]
    """Sent bytes by kind of payload, see ``codec.bytes_by_kind``."""
    counts: dict[str, int]
    """See ``COUNTS``."""


class Tally:
    """Counts while the run goes on; ``counts`` is the host's to increment."""

    __slots__ = ("_bytes", "_messages", "counts")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTS, 0)
        self._messages: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def sent(self, message: Any, kind: str, payload_bytes: int) -> None:
        """One copy of ``message`` leaves."""
        self.counts["sent"] += 1
        self._messages[kind] = self._messages.get(kind, 0) + 1
        for what, number in bytes_by_kind(message, payload_bytes).items():
            self._bytes[what] = self._bytes.get(what, 0) + number

    def bytes_sent(self) -> dict[str, int]:
        """By kind, until now."""
        return dict(self._bytes)

    def outcome(self, fates: dict[str, int], **others: Any) -> SimulationOutcome:
        """All that was counted, with the network's ``fates`` and what the host knows."""
        counts = self.counts | fates
        arrived = sum(counts[what] for what in ("delivered", "lost", "missed", "refused"))
        counts["in_flight"] = counts["sent"] + counts["duplicated"] - arrived
        return SimulationOutcome(
            messages=dict(sorted(self._messages.items())), bytes=dict(sorted(self._bytes.items())), counts=counts, **others
        )
