"""Bounds on single projected gradients: one wild scalar must not throw the client half away.

A scalar v is clipped to [-b, b] on admission. ``fixed``: b is a setting. ``median``: b is a multiple of the median of recent absolute
scalars, so that it follows the gradient as it shrinks; up to half of the window may be arbitrary without moving it far. Clipping in place
of a limit on staleness: Clipped ASGD (arXiv:2606.13287).

Before the window is full enough there is no scale to go by, and an entry in which liars happen to be the most can throw the client half
away at the very start. With ``held_devices`` nothing counts until one contribution of so many devices is in the window, which then
bounds what comes; a median of them holds while fewer than half of these devices lie.

The window learns at commits only, in the entry's canonical order, and from the clipped values: the order of arrival within an entry leaves
no trace, and the bound grows by at most its factor while the window turns over once. It is soft state: after a restart nothing is clipped
until ``window_min`` scalars are in the log anew, and with ``held_devices`` nothing counts until so many devices were heard again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from math import inf

from hosfl_async.agents.settings import ClippingSettings


class Clipping:
    """The bound in force, and the window it follows from."""

    __slots__ = ("_recent", "_seen", "_settings", "_sorted")

    def __init__(self, settings: ClippingSettings) -> None:
        self._settings = settings
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._seen: set[str] = set()
        """Devices of which anything is in the log, until they are ``held_devices``."""

    @property
    def bound(self) -> float:
        """b, infinite where nothing is clipped. The median of an even number of scalars is the upper one of the two in the middle."""
        settings = self._settings
        if settings.rule == "fixed":
            return settings.bound
        enough = not self.holds if settings.held_devices else len(self._sorted) >= settings.window_min
        if settings.rule == "none" or not enough or not self._sorted:
            return inf
        median = self._sorted[len(self._sorted) // 2]
        return settings.factor * median or inf  # where most scalars are zero there is no scale to go by

    @property
    def holds(self) -> bool:
        """Whether what comes now weighs nothing, because too few have been heard to know a scale."""
        return self._settings.rule == "median" and len(self._seen) < self._settings.held_devices

    def learn(self, device: str, projected_gradients: Iterable[float]) -> None:
        """Scalars of a device that are in the log now, in canonical order."""
        if self._settings.rule != "median":
            return
        if self.holds:
            if device in self._seen:
                return  # who is fast has no more say in the first scale
            self._seen.add(device)
        for value in map(abs, projected_gradients):
            self._recent.append(value)
            insort(self._sorted, value)
            if len(self._recent) > self._settings.window:
                del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
