"""How fast the modelled world is. The live host asks here how long a job or a message *should* take, and waits the rest."""

from __future__ import annotations

import time
from typing import Any, Protocol


class Pace(Protocol):
    """Modelled durations in modelled seconds. The simulation room's devices and network provide one."""

    def duration_s(self, agent: str, job: Any) -> float:
        """What ``job`` takes on the agent's modelled device. Asked once per job, in the order of starting."""

    def delay_s(self, sender: str, recipient: str, payload_bytes: int) -> float:
        """What a message takes on the modelled link. Asked once per message, in the order of sending."""


class RealPace:
    """Nothing is modelled: jobs take what they take, messages leave at once. For real devices."""

    def duration_s(self, agent: str, job: Any) -> float:
        return 0.0

    def delay_s(self, sender: str, recipient: str, payload_bytes: int) -> float:
        return 0.0


class WallClock:
    """Modelled time on the wall clock: ``time_scale`` wall seconds are one modelled second. All hosts of a process share one."""

    def __init__(self, time_scale: float = 1.0, begins_s: float = 0.0) -> None:
        self.time_scale = time_scale
        self._origin_s = time.monotonic() - begins_s * time_scale

    def now_s(self) -> float:
        """Modelled seconds since this clock was made, and ``begins_s`` before that; never runs backwards."""
        return (time.monotonic() - self._origin_s) / self.time_scale

    def wall_s(self, modelled_s: float) -> float:
        return modelled_s * self.time_scale
