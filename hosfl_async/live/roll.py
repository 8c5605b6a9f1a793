"""The roll of a fleet as the aggregator's host sees it: who has been heard, when, how far each is, and what was refused to whom.

It looks at what passes and changes nothing; it begins anew with the process. ``devices_max`` bounds it: others are counted, not listed.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from hosfl_async.agent import Effect, Event, PeerGone, Received, Send
from hosfl_async.messages import Accepted, JoinRefused, Refused, Welcome

DEVICES_MAX = 10_000
WINDOW_S = 300.0
"""Throughput is that of the latest so many seconds."""
SAMPLES_MAX = 100


class _Entry:
    __slots__ = ("accepted", "heard_s", "incarnation", "present", "refused", "version")

    def __init__(self) -> None:
        self.heard_s = 0.0
        self.present = True
        self.version: int | None = None
        self.incarnation: int | None = None
        self.accepted = 0
        self.refused: Counter[str] = Counter()


class Roll:
    """``clock`` gives the seconds that ``told`` speaks in: the wall clock's, but for tests."""

    def __init__(self, clock: Callable[[], float] = time.time, devices_max: int = DEVICES_MAX) -> None:
        self._clock, self._devices_max = clock, devices_max
        self._entries: dict[str, _Entry] = {}
        self._unlisted = 0
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES_MAX)

    def decided(self, event: Event, effects: Iterable[Effect]) -> None:
        """The agent has handled ``event``."""
        if isinstance(event, Received):
            entry = self._heard(event.sender)
            version = getattr(event.message, "base_version", getattr(event.message, "from_version", None))
            if entry is not None and version is not None:
                entry.version = version
        elif isinstance(event, PeerGone):
            gone = self._entries.get(event.name)
            if gone is not None:
                gone.present = False
        for effect in effects:
            if isinstance(effect, Send):
                self._answered(effect.recipient, effect.message)

    def turned_away(self, sender: str, why: str) -> None:
        """A frame of ``sender`` did not reach the agent."""
        entry = self._heard(sender)
        if entry is not None:
            entry.refused[why] += 1

    def told(self, head: int, client_steps: int) -> dict[str, Any]:
        """The roll as plain data. ``head`` and ``client_steps``: the log's, now."""
        now = self._clock()
        self._sample(now, head, client_steps)
        first_s, first_head, first_steps = self._samples[0]
        minutes = (now - first_s) / 60
        return {
            "time_s": round(now, 3),
            "head": head,
            "client_steps": client_steps,
            "window_s": round(now - first_s, 1),
            "client_steps_per_minute": round((client_steps - first_steps) / minutes, 2) if minutes > 0 else None,
            "versions_per_minute": round((head - first_head) / minutes, 2) if minutes > 0 else None,
            "frames_of_unlisted_devices": self._unlisted,
            "devices": {name: _row(entry, head) for name, entry in sorted(self._entries.items())},
        }

    @property
    def numbers(self) -> tuple[int, int]:
        """Devices that are present, and devices whose connection was lost."""
        present = sum(entry.present for entry in self._entries.values())
        return present, len(self._entries) - present

    def _heard(self, name: str) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is None:
            if len(self._entries) >= self._devices_max:
                self._unlisted += 1
                return None
            entry = self._entries[name] = _Entry()
        entry.heard_s, entry.present = self._clock(), True
        return entry

    def _answered(self, name: str, answer: Any) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        match answer:
            case Welcome():
                entry.incarnation = answer.incarnation
            case Accepted():
                entry.accepted += 1
            case Refused() | JoinRefused():
                entry.refused[answer.reason] += 1
            case _:
                pass

    def _sample(self, now: float, head: int, client_steps: int) -> None:
        """Samples at least ``WINDOW_S / SAMPLES_MAX`` apart, so that the queue spans the window."""
        if not self._samples or now - self._samples[-1][0] >= WINDOW_S / SAMPLES_MAX:
            self._samples.append((now, head, client_steps))
        while len(self._samples) > 1 and now - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()


def _row(entry: _Entry, head: int) -> dict[str, Any]:
    return {
        "present": entry.present,
        "heard_s": round(entry.heard_s, 3),
        "version": entry.version,
        "lag": None if entry.version is None else head - entry.version,
        "incarnation": entry.incarnation,
        "accepted_answers": entry.accepted,
        "refused": dict(entry.refused),
    }
