"""Frames on their way to the transport: each waits out its modelled link delay, none holds up another, and the agent waits for none.

``agent.Send`` is a wish, so the host may drop what exceeds its bound; it counts it. A message with a longer delay is overtaken by one
with a shorter delay, as on a real network of several links.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from hosfl_async.broker.transport import Transport
from hosfl_async.errors import OversizeError


class Outgoing:
    """The sending half of a host. ``run`` is its task; ``counts`` gets ``dropped`` and ``oversize``."""

    def __init__(self, transport: Transport, waiting_max: int, counts: Counter[str]) -> None:
        self._transport, self._waiting_max, self._counts = transport, waiting_max, counts
        self._ready: deque[tuple[str, bytes]] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """Frames that wait."""
        return self._waiting

    def put(self, recipient: str, frames: list[bytes], delay_s: float) -> None:
        """Send ``frames`` after ``delay_s`` wall seconds."""
        if self._waiting + len(frames) > self._waiting_max:
            self._counts["dropped"] += len(frames)
            return
        self._waiting += len(frames)
        self._empty.clear()
        if delay_s > 0:
            asyncio.get_running_loop().call_later(delay_s, self._release, recipient, frames)
        else:
            self._release(recipient, frames)

    async def run(self) -> None:
        """Hand over what is ready, until cancelled. Raises ``TransportError`` when the transport has given up."""
        while True:
            await self._wake.wait()
            while self._ready:
                recipient, frame = self._ready.popleft()
                try:
                    await self._transport.send(recipient, frame)
                except OversizeError:
                    self._counts["oversize"] += 1
                self._waiting -= 1
            self._wake.clear()
            if not self._waiting:
                self._empty.set()

    async def flush(self, within_s: float) -> None:
        """Wait until everything has been handed over, at most ``within_s`` wall seconds; the rest is dropped and counted."""
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            self._counts["dropped"] += self._waiting

    def _release(self, recipient: str, frames: list[bytes]) -> None:
        self._ready.extend((recipient, frame) for frame in frames)
        self._wake.set()
