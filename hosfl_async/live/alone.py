"""One live host in a process of its own: signals, health, and a service's patience with those who have not heard of the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from hosfl_async.live.fleet import signals_caught
from hosfl_async.live.host import LiveHost

Watcher = Callable[[], Coroutine[Any, Any, None]]


async def run_alone(host: LiveHost, *, linger_s: float, watchers: tuple[Watcher, ...] = ()) -> int | None:
    """Run ``host`` to its end and return the number of the signal that ended it early, or None.

    A host that lingers goes on for ``linger_s`` wall seconds once its agent has finished. SIGINT and SIGTERM end in good order; a second
    one is what it is without us. ``watchers`` run beside the host and are cancelled with it; one that
    fails ends the host. Errors are raised.
    """
    caught: list[int] = []

    def on_signal(number: int) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        caught.append(number)
        host.request_stop()

    async def farewell() -> None:
        await host.done.wait()
        await asyncio.sleep(linger_s)
        host.request_stop()

    with signals_caught(on_signal):
        beside = [asyncio.create_task(work()) for work in (farewell, *watchers)]
        for task in beside:
            task.add_done_callback(lambda done: None if done.cancelled() or done.exception() is None else host.request_stop())
        try:
            await host.run()
        finally:
            for task in beside:
                task.cancel()
            for task in beside:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    return caught[0] if caught else None
