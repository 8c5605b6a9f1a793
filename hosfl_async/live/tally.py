"""What a live agent counts, under the same names as the simulator's outcome, so that one report reads both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hosfl_async.codec import bytes_by_kind

COUNTS = (
    "sent",
    "delivered",
    "refused",
    "impostor",
    "dropped",
    "oversize",
    "timers_fired",
    "jobs_started",
    "jobs_done",
    "jobs_failed",
    "persisted",
    "peers_gone",
    "disk_full",
    "dropped_disk_full",
    "rate_limited",
)
"""``sent``: messages given to the transport (one to a group counts once). ``delivered``: fed to the agent. ``refused``: by the codec.
``impostor``: the envelope named another sender than the transport. ``dropped``: frames beyond ``sends_waiting_max`` or unsent at the end.
``oversize``: frames refused by the transport. ``disk_full``: times the disk had no space. ``dropped_disk_full``:
messages that came then. ``rate_limited``: frames of a sender in quarantine, unread."""


class Tally:
    """Messages by kind, bytes by kind of payload (``codec.bytes_by_kind``), and ``COUNTS``."""

    __slots__ = ("bytes", "counts", "messages")

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))

    def sent(self, message: Any, payload_bytes: int) -> None:
        """One message leaves, ``payload_bytes`` long as an envelope."""
        self.counts["sent"] += 1
        self.messages[type(message).__name__] += 1
        for kind, number in bytes_by_kind(message, payload_bytes).items():
            self.bytes[kind] += number


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum over several agents."""
    summed = Tally()
    for tally in tallies:
        summed.messages.update(tally.messages)
        summed.bytes.update(tally.bytes)
        summed.counts.update(tally.counts)
    return summed
