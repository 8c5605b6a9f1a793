"""The timeline: one heap of (time, serial number), and what is cancelled in it.

Ties go to what was scheduled first. Cancelling leaves the entry where it lies and remembers its serial number; when more than half
of a large heap is cancelled, it is swept (as asyncio does with its timers). What is cancelled never counts and never moves time.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any

from hosfl_async.simulation.node import Act, Entry, Node

SWEEP_MIN = 1024
"""Cancelled entries that may lie in the heap before it is ever swept."""


class Timeline:
    """``now_s`` is the time of the entry taken last; ``len`` counts the entries that are still to come."""

    __slots__ = ("_cancelled", "_heap", "_serial", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[Entry] = []
        self._cancelled: set[int] = set()
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap) - len(self._cancelled)

    def schedule(self, time_s: float, act: Act, node: Node, detail: Any) -> Entry:
        self._serial += 1
        entry = (time_s, self._serial, act, node, detail)
        heappush(self._heap, entry)
        return entry

    def cancel(self, entry: Entry) -> None:
        """Take back an entry that has not come up yet."""
        cancelled = self._cancelled
        cancelled.add(entry[1])
        if len(cancelled) > SWEEP_MIN and 2 * len(cancelled) > len(self._heap):
            self._heap = [one for one in self._heap if one[1] not in cancelled]
            heapify(self._heap)
            cancelled.clear()

    def withdraw(self, act: Act) -> int:
        """Take back every entry that would do ``act``; how many there were. Costs a pass over the whole heap."""
        gone = [entry for entry in self._heap if entry[2] == act and entry[1] not in self._cancelled]
        self._cancelled.update(entry[1] for entry in gone)
        return len(gone)

    def count(self, *acts: Act) -> int:
        """How many entries still to come would do one of ``acts``. Costs a pass over the whole heap."""
        return sum(entry[2] in acts and entry[1] not in self._cancelled for entry in self._heap)

    def take(self, until_s: float) -> Entry | None:
        """The next entry if it is not later than ``until_s``; time moves to it."""
        heap, cancelled = self._heap, self._cancelled
        while heap and heap[0][0] <= until_s:
            entry = heappop(heap)
            if cancelled and entry[1] in cancelled:
                cancelled.remove(entry[1])
                continue
            self.now_s = entry[0]
            return entry
        return None
