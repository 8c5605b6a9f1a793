"""The timeline: what is still to happen, in the order of (time, serial number). Ties go to what was scheduled first.

Most of what a fleet schedules is cancelled long before its time: a timer that guards an answer, a pause that nobody needs. One heap of
everything would carry all of that along, and with 100,000 clients each step of the heap is a miss of the processor's caches. So time is
cut into *windows*: only the present window is a heap, each later one is a dictionary by serial number, from which a cancelled entry is
simply taken out, and which becomes the heap when its time comes (a calendar queue: Brown, CACM 31(10), 1988). In the present window a
cancelled entry stays where it lies and its serial number is remembered; when more than half of a large heap is cancelled, it is swept.
What is cancelled never counts and never moves time.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from hosfl_async.simulation.node import Act, Entry, Node

WINDOWS_PER_S = 8
"""Windows in a modelled second; a power of two, so that finding an entry's window is exact."""
FARTHEST_S = 2.0**60
"""All that is later shares one window."""
SWEEP_MIN = 1024
"""Cancelled entries that may lie in the heap before it is ever swept."""


class Timeline:
    """``now_s`` is the time of the entry taken last; ``len`` counts the entries that are still to come."""

    __slots__ = ("_cancelled", "_heap", "_later", "_serial", "_window", "_windows", "now_s", "to_come")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.to_come = 0
        """Entries that are neither taken nor cancelled."""
        self._heap: list[Entry] = []
        self._cancelled: set[int] = set()
        """Of the heap, by serial number."""
        self._window = 0
        """The present window: whatever is in it or earlier lies in the heap."""
        self._later: dict[int, dict[int, Entry]] = {}
        self._windows: list[int] = []
        """The numbers of the later windows, as a heap."""
        self._serial = 0

    def __len__(self) -> int:
        return self.to_come

    def schedule(self, time_s: float, act: Act, node: Node, detail: Any) -> Entry:
        self._serial = serial = self._serial + 1
        self.to_come += 1
        entry = (time_s, serial, act, node, detail)
        window = _window(time_s)
        if window <= self._window:
            heappush(self._heap, entry)
            return entry
        later = self._later.get(window)
        if later is None:
            later = self._later[window] = {}
            heappush(self._windows, window)
        later[serial] = entry
        return entry

    def cancel(self, entry: Entry) -> None:
        """Take back an entry that has not come up yet."""
        self.to_come -= 1
        window = _window(entry[0])
        if window > self._window:
            del self._later[window][entry[1]]
            return
        cancelled = self._cancelled
        cancelled.add(entry[1])
        if len(cancelled) > SWEEP_MIN and 2 * len(cancelled) > len(self._heap):
            self._heap = [one for one in self._heap if one[1] not in cancelled]
            heapify(self._heap)
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
        """All that is still to come, in no order."""
        yield from (entry for entry in self._heap if entry[1] not in self._cancelled)
        for later in self._later.values():
            yield from later.values()

    def take(self, until_s: float) -> Entry | None:
        """The next entry if it is not later than ``until_s``; time moves to it."""
        cancelled = self._cancelled
        while self._heap or self._open_window():
            heap = self._heap
            if heap[0][0] > until_s:
                return None
            entry = heappop(heap)
            if cancelled and entry[1] in cancelled:
                cancelled.remove(entry[1])
                continue
            self.to_come -= 1
            self.now_s = entry[0]
            return entry
        return None

    def _open_window(self) -> bool:
        """The next window in which something happens becomes the heap, which is empty. False if there is none."""
        while self._windows:
            self._window = heappop(self._windows)
            self._heap = list(self._later.pop(self._window).values())
            if self._heap:
                heapify(self._heap)
                return True
        return False


def _window(time_s: float) -> int:
    return int(time_s * WINDOWS_PER_S) if time_s < FARTHEST_S else int(FARTHEST_S)
