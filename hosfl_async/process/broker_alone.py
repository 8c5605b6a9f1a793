"""The embedded broker as a process of its own, for agents on the same machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from hosfl_async.broker.embedded import BrokerKind, start_broker
from hosfl_async.errors import TransportError
from hosfl_async.live.fleet import signals_caught


async def run_broker(kind: BrokerKind, port: int | None, opened: Callable[[str, str], None]) -> None:
    """Start a broker, tell ``opened`` its kind and URL, and keep it until a signal. Raises ``TransportError`` if it ends by itself."""
    broker = await start_broker(kind, port=port)
    asked = asyncio.Event()
    try:
        with signals_caught(lambda _: asked.set()):
            opened(broker.kind, broker.url)
            sys.stdout.flush()
            ended = asyncio.create_task(broker.ended())
            asking = asyncio.create_task(asked.wait())
            await asyncio.wait([ended, asking], return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            if ended.done() and not asked.is_set():
                raise TransportError(f"the broker {broker.kind} ended by itself, with code {ended.result()}")
            ended.cancel()
    finally:
        await broker.stop()
