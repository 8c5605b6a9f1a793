"""Arrivals that wait for their agent: one deque, one consumer, no task per frame.

Both transports hand frames over in the same way, and the order of events matters. The agent has *taken* an arrival when it asks for the
next one, and only then may the frame be acknowledged (so a crash in between costs nothing). Acknowledgements must leave in the order in
which the frames came (MQTT 5, section 4.6; iotcore closes the connection otherwise), hence frames without meaning for the agent pass
through as well. The receipt that came with a frame tells the transport which one it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from hosfl_async.broker.transport import Arrival
from hosfl_async.errors import TransportError

Receipt = TypeVar("Receipt")


class Inbox(Generic[Receipt]):
    """A queue of (arrival, receipt). The bound is kept by the transport, which alone can stop the flow."""

    def __init__(self, on_taken: Callable[[Receipt], None]) -> None:
        self._on_taken = on_taken
        self._waiting: deque[tuple[Arrival | None, Receipt]] = deque()
        self._in_hand: list[Receipt] = []
        self._wake: asyncio.Future[None] | None = None
        self._closed = False
        self._failure: TransportError | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, arrival: Arrival | None, receipt: Receipt) -> None:
        """Queue an arrival, or with ``None`` a frame that is only to be acknowledged in its turn."""
        if arrival is None and not self._waiting and not self._in_hand:
            self._on_taken(receipt)
            return
        self._waiting.append((arrival, receipt))
        self._stir()

    def close(self, failure: TransportError | None = None) -> None:
        """End the iteration: with ``failure`` once what waits has been taken, or at once, dropping what waits (it is not acknowledged)."""
        self._closed, self._failure = True, failure
        if failure is None:
            self._waiting.clear()
            self._in_hand.clear()
        self._stir()

    async def received(self) -> AsyncIterator[Arrival]:
        """Yield arrivals as they come. The one before counts as taken when the next is asked for, be it by a new iterator."""
        while True:
            if self._in_hand:
                self._on_taken(self._in_hand.pop())
            if self._waiting:
                arrival, receipt = self._waiting.popleft()
                self._in_hand.append(receipt)
                if arrival is not None:
                    yield arrival
            elif self._failure is not None:
                raise self._failure
            elif self._closed:
                return
            else:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
