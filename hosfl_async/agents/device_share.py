"""No device trains the server half alone: of the latest batches that it was trained on, one device may have only a share.

A device chooses its activations and labels, and sends as often as it is fast. What it sends beyond its share is not refused, which would
stall it and perhaps the run: it gets its dual, and the server half does not move for it. Only batches that were trained on are
counted, so the share holds in every row of ``window`` of them; a device left alone gets duals from a half that stands still.
"""

from __future__ import annotations

from collections import Counter, deque
from math import ceil


def batches_of_one(share_max: float, window: int) -> int:
    """How many of ``window`` batches may be of one device: its share, rounded up."""
    return ceil(share_max * window)


class DeviceShare:
    """Counts the devices of the latest ``window`` batches. What it knows is lost with the process: then everybody begins anew."""

    __slots__ = ("_counts", "_latest", "_most", "_window")

    def __init__(self, share_max: float, window: int) -> None:
        self._window = window
        self._most = batches_of_one(share_max, window)
        self._latest: deque[str] = deque()
        self._counts: Counter[str] = Counter()

    def takes(self, device: str) -> bool:
        """Whether the server half may be trained on a batch of this device now; if so, it is counted."""
        if self._most >= self._window:
            return True
        if self._counts[device] >= self._most:
            return False
        self._counts[device] += 1
        self._latest.append(device)
        if len(self._latest) > self._window:
            oldest = self._latest.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        return True
