"""The contract is worth something only if it refuses transports that break a promise: here are seven, one for each kind of break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

import pytest

from hosfl_async.broker import contract
from hosfl_async.broker.contract import Check
from hosfl_async.broker.memory import MemoryExchange, MemoryTransport
from hosfl_async.broker.settings import BrokerSettings, MemoryFaults
from hosfl_async.broker.transport import Station
from hosfl_async.errors import TransportError

SETTINGS = BrokerSettings(payload_bytes_max=2048, inbox_frames_max=8, inflight_max=2)


class NeverSaysFarewell(MemoryTransport):
    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.abort()


class CrashesQuietly(MemoryTransport):
    async def abort(self) -> None:
        await self.__aexit__(None, None, None)


class CutsLongPayloads(MemoryTransport):
    async def send(self, recipient: str, payload: bytes) -> None:
        await super().send(recipient, payload[: self.payload_bytes_max])


def lossy() -> Callable[[Station], MemoryTransport]:
    return MemoryExchange(SETTINGS, MemoryFaults(seed=1, loss=0.05)).transport


def unbounded() -> Callable[[Station], MemoryTransport]:
    return MemoryExchange(BrokerSettings(payload_bytes_max=2048, inbox_frames_max=10_000)).transport


def forgetful() -> Callable[[Station], MemoryTransport]:
    return MemoryExchange(BrokerSettings(payload_bytes_max=2048, inbox_frames_max=8, broker_queue_bytes_max=10_000)).transport


def one_run_for_all() -> Callable[[Station], MemoryTransport]:
    exchange = MemoryExchange(SETTINGS)
    return lambda station: exchange.transport(Station(run="all", name=station.name, groups=station.groups, watches=station.watches))


def of(kind: type[MemoryTransport]) -> Callable[[], Callable[[Station], MemoryTransport]]:
    def make() -> Callable[[Station], MemoryTransport]:
        exchange = MemoryExchange(SETTINGS)
        return lambda station: kind(exchange, station)

    return make


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (lossy, contract.ends_cleanly),
        (unbounded, contract.keeps_all_for_a_slow_consumer),
        (forgetful, contract.keeps_all_for_a_slow_consumer),
        (one_run_for_all, contract.keeps_runs_apart),
        (of(NeverSaysFarewell), contract.announces_an_abrupt_end),
        (of(CrashesQuietly), contract.announces_an_abrupt_end),
        (of(CutsLongPayloads), contract.refuses_oversize_and_lives_on),
    ],
)
def test_a_broken_promise_is_found(
    broken: Callable[[], Callable[[Station], MemoryTransport]], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "PATIENCE_S", 0.3)
    with pytest.raises((AssertionError, TransportError)):
        asyncio.run(check(broken(), SETTINGS))


def test_every_check_is_in_the_list() -> None:
    public = {name for name, what in vars(contract).items() if asyncio.iscoroutinefunction(what) and not name.startswith("_")}
    assert public - {"check_transport"} == {check.__name__ for check in contract.CHECKS}  # type: ignore[attr-defined]
