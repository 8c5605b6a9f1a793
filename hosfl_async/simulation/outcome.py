"""What a simulated run comes to: how it ended, when, and everything that was counted on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hosfl_async.codec import TENSOR_KINDS, WHOLE_KINDS

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


class Line:
    """What was sent of one type of message."""

    __slots__ = ("kind", "messages", "names_step", "payload_bytes", "tensor_bytes", "tensors", "whole")

    def __init__(self, message_type: type) -> None:
        self.kind = message_type.__name__
        self.names_step = hasattr(message_type, "step")
        """Whether it is about a ``step``."""
        self.messages = 0
        self.payload_bytes = 0
        self.whole = WHOLE_KINDS.get(message_type, "control")
        self.tensors = TENSOR_KINDS.get(message_type, ())
        self.tensor_bytes = dict.fromkeys((of for _, of in self.tensors), 0)

    def sent(self, message: Any, payload_bytes: int) -> None:
        """One copy of ``message`` leaves."""
        self.messages += 1
        self.payload_bytes += payload_bytes
        if self.tensors:
            for field, of in self.tensors:
                self.tensor_bytes[of] += getattr(message, field).bytes_sent


class Tally:
    """Counts while the run goes on; ``counts`` is the host's to increment, and ``lines`` has what was sent, by type of message."""

    __slots__ = ("counts", "lines")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTS, 0)
        self.lines: dict[type, Line] = {}

    def line(self, message_type: type) -> Line:
        line = self.lines.get(message_type)
        if line is None:
            line = self.lines[message_type] = Line(message_type)
        return line

    def bytes_sent(self) -> dict[str, int]:
        """By kind (``codec.bytes_by_kind``), until now."""
        total: dict[str, int] = {}
        for line in self.lines.values():
            for of, number in line.tensor_bytes.items():
                total[of] = total.get(of, 0) + number
            total[line.whole] = total.get(line.whole, 0) + line.payload_bytes - sum(line.tensor_bytes.values())
        return total

    def outcome(self, fates: dict[str, int], **others: Any) -> SimulationOutcome:
        """All that was counted, with the network's ``fates`` and what the host knows."""
        messages = {line.kind: line.messages for line in self.lines.values()}
        counts = self.counts | fates | {"sent": sum(messages.values())}
        arrived = sum(counts[what] for what in ("delivered", "lost", "missed", "refused"))
        counts["in_flight"] = counts["sent"] + counts["duplicated"] - arrived
        return SimulationOutcome(
            messages=dict(sorted(messages.items())), bytes=dict(sorted(self.bytes_sent().items())), counts=counts, **others
        )
