"""The broker that we start ourselves: it listens on this machine only, and it never outlives us."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from hosfl_async.broker import embedded
from hosfl_async.broker.address import parse_broker_url
from hosfl_async.broker.embedded import embedded_broker, free_port, launch, start_broker
from hosfl_async.errors import TransportError

BROKERS = ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def own_address() -> str | None:
    """An address of this machine that is not the loopback, if it has one. Connecting a datagram socket sends nothing."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        address = str(probe.getsockname()[0])
        return None if address.startswith("127.") else address
    return None


@pytest.mark.parametrize("kind", BROKERS)
def test_it_runs_on_the_loopback_and_is_gone_afterwards(kind: str) -> None:
    async def story() -> int:
        async with embedded_broker("mosquitto" if kind == "mosquitto" else "iotcore") as url:
            address = parse_broker_url(url)
            assert address.host == "127.0.0.1"
            assert listens(address.port)
            outside = own_address()
            assert outside is None or not listens(address.port, outside)
            return address.port

    assert not listens(asyncio.run(story()))


def test_an_exception_or_cancellation_inside_ends_it_too() -> None:
    ports: list[int] = []

    async def failing() -> None:
        async with embedded_broker() as url:
            ports.append(parse_broker_url(url).port)
            raise ValueError("inside")

    async def cancelled() -> None:
        async with embedded_broker() as url:
            ports.append(parse_broker_url(url).port)
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(60)

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(failing())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert [listens(port) for port in ports] == [False, False]


_OWNER = """
import asyncio
from hosfl_async.broker.embedded import embedded_broker
async def main():
    async with embedded_broker("{kind}") as url:
        print(url, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", BROKERS)
def test_it_does_not_outlive_an_owner_that_is_interrupted_or_killed(kind: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER.format(kind=kind)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        try:
            port = parse_broker_url(owner.stdout.readline()).port
            assert listens(port)
            owner.send_signal(number)
            owner.wait(timeout=30)
        finally:
            owner.kill()
    for _ in range(600):
        if not listens(port):
            return
        time.sleep(0.05)
    raise AssertionError("the broker outlived its owner")


def test_a_broker_that_does_not_start_says_why() -> None:
    async def taken() -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            await start_broker("iotcore", port=holder.getsockname()[1])

    with pytest.raises(TransportError, match=r"iotcore did not start: port \d+ of 127.0.0.1 is taken"):
        asyncio.run(taken())


def test_a_program_that_ends_at_once_is_told_with_its_words(tmp_path: object) -> None:
    async def story() -> None:
        await launch("broken", ["/bin/sh", "-c", "echo no such luck; exit 3"], free_port(), tmp_path)  # type: ignore[arg-type]

    with pytest.raises(TransportError, match="broken did not start: no such luck"):
        asyncio.run(story())


def test_without_mosquitto_auto_takes_iotcore_and_asking_for_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_mosquitto", lambda: None)

    async def story() -> None:
        broker = await start_broker("auto")
        assert broker.kind == "iotcore"
        await broker.stop()
        with pytest.raises(TransportError, match="no mosquitto on PATH"):
            await start_broker("mosquitto")

    asyncio.run(story())
