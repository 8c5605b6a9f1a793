"""Many live hosts in one process: services first, then clients; all end together.

Order matters at both ends. A client's first word is a ``Join``; spoken before the aggregator listens, it would be lost and cost the client
a retry pause. Services that linger stay until the clients are through, since the word that ends a client may be lost. And a client that
never hears of the end must not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence

from hosfl_async.live.host import LiveHost


async def run_fleet(services: Sequence[LiveHost], clients: Sequence[LiveHost]) -> bool:
    """Run all hosts until their agents are finished. Returns False if an interrupt or termination signal ended the run early.

    The first host that fails stops all others in good order, and its error is raised. Clients that are not finished ``stop_s`` wall
    seconds after the last service are stopped; ``agent.finished`` tells which.
    """
    hosts = (*services, *clients)
    failures: list[Exception] = []
    signals: list[int] = []

    def stop_all() -> None:
        for host in hosts:
            host.request_stop()

    def on_signal(number: int) -> None:
        signals.append(number)
        stop_all()

    async def live(host: LiveHost) -> None:
        try:
            await host.run()
        except Exception as error:
            failures.append(error)
            stop_all()

    with signals_caught(on_signal):
        async with asyncio.TaskGroup() as tasks:
            for host in services:
                tasks.create_task(live(host), name=f"live {host.agent.name}")
            for host in services:
                await host.settled.wait()
            if not failures and not signals:
                joining = [tasks.create_task(live(host), name=f"live {host.agent.name}") for host in clients]
                for host in services:
                    await host.done.wait()
                if joining:
                    await asyncio.wait(joining, timeout=max(host.settings.stop_s for host in clients))
            stop_all()
    if failures:
        raise failures[0]
    return not signals


@contextlib.contextmanager
def signals_caught(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in good order. Outside the main thread signals are not ours to take."""
    loop = asyncio.get_running_loop()
    caught = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, on_signal, number)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
