"""The timeline: what is still to happen, in the order of (time, serial number). Ties go to what was scheduled first.

One heap of everything would miss the processor's caches at each of its levels with 100,000 clients. So time is cut into *windows* (a
calendar queue: Brown, CACM 31(10), 1988). A later window is a dictionary by serial number, from which a cancelled entry is simply taken
out. When its time comes it is sorted once and then read off; what is scheduled into the present window waits in a small heap beside it.
There a cancelled entry stays where it lies, and its serial number is remembered.

Most timers guard an answer and are cancelled long before their time. They stay with their node, and only one *alarm* of a node lies on the
timeline, never later than the node's earliest timer. An alarm whose timer is gone moves to the earliest that is left; alarms never
count and never move time, nor does anything that is cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from hosfl_async.simulation.node import Act, Entry, Node

WINDOWS_PER_S = 8
"""Windows in a modelled second; a power of two, so that finding an entry's window is exact."""
FARTHEST_S = 2.0**60
"""All that is later shares one window."""
_FARTHEST_WINDOW = int(FARTHEST_S * WINDOWS_PER_S)
SWEEP_MIN = 1024
"""Cancelled entries that may lie in the present window before it is ever swept."""


class Timeline:
    """``now_s`` is the time of the entry taken last; ``len`` counts the entries and timers that are still to come."""

    __slots__ = ("_cancelled", "_fresh", "_later", "_sorted", "_window", "_window_ends_s", "_windows", "now_s", "serial", "to_come")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.to_come = 0
        """Entries and timers that are neither taken nor cancelled."""
        self.serial = 0
        self._sorted: list[Entry] = []
        """What the present window held when it was opened, the latest first."""
        self._fresh: list[Entry] = []
        """A heap: what was scheduled since then into the present window, or earlier."""
        self._cancelled: set[int] = set()
        """Of these two, by serial number."""
        self._window = 0
        self._window_ends_s = 1 / WINDOWS_PER_S
        self._later: dict[int, dict[int, Entry]] = {}
        self._windows: list[int] = []
        """The numbers of the later windows, as a heap."""

    def __len__(self) -> int:
        return self.to_come

    # -- entries ------------------------------------------------------------------------------------------

    def schedule(self, time_s: float, act: Act, node: Node, detail: Any) -> Entry:
        self.serial = serial = self.serial + 1
        self.to_come += 1
        entry = (time_s, serial, act, node, detail)
        if time_s < self._window_ends_s:
            heappush(self._fresh, entry)
        else:
            self._put(entry)
        return entry

    def _put(self, entry: Entry) -> None:
        """Into a later window."""
        window = _window(entry[0])
        later = self._later.get(window)
        if later is None:
            later = self._later[window] = {}
            heappush(self._windows, window)
        later[entry[1]] = entry

    def cancel(self, entry: Entry) -> None:
        """Take back an entry that has not come up yet."""
        self.to_come -= 1
        self._take_out(entry)

    def _take_out(self, entry: Entry) -> None:
        if entry[0] >= self._window_ends_s:
            del self._later[_window(entry[0])][entry[1]]
            return
        cancelled = self._cancelled
        cancelled.add(entry[1])
        if len(cancelled) > SWEEP_MIN and 2 * len(cancelled) > len(self._sorted) + len(self._fresh):
            self._sorted = [one for one in self._sorted if one[1] not in cancelled]
            self._fresh = [one for one in self._fresh if one[1] not in cancelled]
            heapify(self._fresh)
            cancelled.clear()

    def withdraw(self, act: Act) -> int:
        """Take back every entry that would do ``act``; how many there were. Costs a pass over everything."""
        gone = [entry for entry in self._entries() if entry[2] == act]
        for entry in gone:
            self.cancel(entry)
        return len(gone)

    def count(self, *acts: Act) -> int:
        """How many entries still to come would do one of ``acts``. Costs a pass over everything."""
        return sum(entry[2] in acts for entry in self._entries())

    def _entries(self) -> Iterator[Entry]:
        """All that is still to come, timers excepted, in no order."""
        for present in (self._sorted, self._fresh):
            yield from (entry for entry in present if entry[1] not in self._cancelled)
        for later in self._later.values():
            yield from later.values()

    def take(self, until_s: float) -> Entry | None:
        """The next entry or timer if it is not later than ``until_s``; time moves to it."""
        while True:
            fresh = self._fresh
            if self._sorted:
                entry = self._sorted[-1]
                if fresh and fresh[0] < entry:
                    entry = fresh[0]
            elif fresh:
                entry = fresh[0]
            elif self._open_window():
                continue
            else:
                return None
            if entry[0] > until_s:
                return None
            if fresh and entry is fresh[0]:
                heappop(fresh)
            else:
                self._sorted.pop()
            if self._cancelled and entry[1] in self._cancelled:
                self._cancelled.remove(entry[1])
                continue
            if entry[2] is ring:
                timer = self._due(entry)
                if timer is None:
                    continue
                entry = timer
            self.to_come -= 1
            self.now_s = entry[0]
            return entry

    def _open_window(self) -> bool:
        """The next window becomes the present one, of which nothing is left. False if there is none."""
        if not self._windows:
            return False
        self._window = heappop(self._windows)
        self._window_ends_s = (self._window + 1) / WINDOWS_PER_S if self._window < _FARTHEST_WINDOW else inf
        self._sorted = sorted(self._later.pop(self._window).values(), reverse=True)
        return True

    # -- timers -------------------------------------------------------------------------------------------

    def set_timer(self, time_s: float, act: Act, node: Node, name: str) -> None:
        """The node's timer of this name, in place of the one that it has, if any."""
        self.serial = serial = self.serial + 1
        timer = (time_s, serial, act, node, name)
        timers = node.timers
        if timers is None:
            timers = node.timers = {}
        if name not in timers:
            self.to_come += 1
        timers[name] = timer
        alarm = node.alarm
        if alarm is None or time_s < alarm[0]:
            self._set_alarm(node, timer)

    def cancel_timer(self, node: Node, name: str) -> bool:
        """Take the timer of this name back, if there is one."""
        if node.timers is None or node.timers.pop(name, None) is None:
            return False
        self.to_come -= 1
        return True

    def cancel_timers(self, node: Node) -> list[Entry]:
        """Take all timers of a node back; what they were, the earliest first."""
        timers = sorted((node.timers or {}).values())
        self.to_come -= len(timers)
        node.timers = None
        return timers

    def _set_alarm(self, node: Node, timer: Entry) -> None:
        """At this timer, the node's earliest. An alarm that lies in the present window stays there, and is known not to be the node's."""
        if node.alarm is not None and node.alarm[0] >= self._window_ends_s:
            self._take_out(node.alarm)
        node.alarm = alarm = (timer[0], timer[1], ring, node, None)
        if timer[0] < self._window_ends_s:
            heappush(self._fresh, alarm)
        else:
            self._put(alarm)

    def _due(self, alarm: Entry) -> Entry | None:
        """The timer that this alarm is for, if it is still set; the alarm moves to the node's next."""
        node = alarm[3]
        if node.alarm is not alarm:
            return None
        node.alarm = None
        timers = node.timers
        if not timers:
            return None
        timer = min(timers.values())
        due = timer[1] == alarm[1]
        if due:
            del timers[timer[4]]
            if not timers:
                return timer
        self._set_alarm(node, min(timers.values()) if due else timer)
        return timer if due else None


def _window(time_s: float) -> int:
    return int(time_s * WINDOWS_PER_S) if time_s < FARTHEST_S else _FARTHEST_WINDOW


def ring(node: Node, detail: Any) -> None:
    """What alarms have for an act, so that the timeline knows them; it is never done."""
    raise AssertionError(node.name)
