"""Every transport against every promise, and the MQTT transport over every broker that can be started here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hosfl_async.broker.contract import MakeTransport, check_transport
from hosfl_async.broker.embedded import embedded_broker
from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Station

CARRIERS = [
    "memory",
    "iotcore",
    pytest.param("mosquitto", marks=pytest.mark.mosquitto),
]


@asynccontextmanager
async def carrier(kind: str, settings: BrokerSettings) -> AsyncIterator[MakeTransport]:
    if kind == "memory":
        yield MemoryExchange(settings).transport
        return
    async with embedded_broker("mosquitto" if kind == "mosquitto" else "iotcore", settings) as url:

        def make(station: Station) -> MqttTransport:
            return MqttTransport(url, station, settings)

        yield make


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("kind", CARRIERS)
def test_all_promises_are_kept(kind: str, qos: int) -> None:
    async def story() -> None:
        settings = BrokerSettings(qos=1 if qos else 0)
        async with carrier(kind, settings) as make:
            await check_transport(make, settings)

    asyncio.run(story())
