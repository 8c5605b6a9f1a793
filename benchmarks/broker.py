"""What carrying a frame costs, per broker and quality of service: the measurement behind broker/topics.py.

``python -m benchmarks.broker [--json]`` prints, for each broker that can be started here and for QoS 0 and 1

* one way: frames of 256 bytes per second from one connection to another, and processor milliseconds of this process per frame (both ends);
* a fleet: the same among 22 connections in one process, 20 clients asking two services;
* big frames: MB/s with 256 KiB each;
* question and answer: median milliseconds of a 256-byte exchange;

and the ratios that decide: QoS 1 against QoS 0, and plain aiomqtt (its iterator, one ``publish`` awaited at a time) against our transport.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import aiomqtt

from benchmarks import new_parser
from hosfl_async.broker.address import parse_broker_url
from hosfl_async.broker.embedded import embedded_broker, find_mosquitto
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Delivery, Station

LITTLE, BIG = bytes(256), bytes(256 * 1024)


@dataclass(frozen=True)
class Size:
    """How many of everything."""

    frames: int
    big_frames: int
    exchanges: int
    clients: int
    asked_each: int
    repetitions: int


FULL, SMALL = Size(4000, 200, 60, 20, 150, 3), Size(40, 4, 4, 3, 4, 1)


async def one_way(url: str, settings: BrokerSettings, payload: bytes, frames: int) -> tuple[float, float]:
    """Frames per wall second, and processor milliseconds per frame."""
    async with (
        MqttTransport(url, Station(run="one", name="a"), settings) as a,
        MqttTransport(url, Station(run="one", name="b"), settings) as b,
    ):

        async def send() -> None:
            for _ in range(frames):
                await a.send("b", payload)

        wall_s, cpu_s = perf_counter(), process_time()
        sending = asyncio.create_task(send())
        got = 0
        async for _ in b.received():
            got += 1
            if got == frames:
                break
        await sending
        return frames / (perf_counter() - wall_s), (process_time() - cpu_s) * 1000 / frames


async def fleet(url: str, settings: BrokerSettings, size: Size) -> tuple[float, float]:
    """Two services and clients, a connection each: every client asks both services in turn and waits for the answer."""
    async with AsyncExitStack() as stack:

        async def open_station(name: str) -> MqttTransport:
            return await stack.enter_async_context(MqttTransport(url, Station(run="fleet", name=name), settings))

        async def serve(service: MqttTransport) -> None:
            async for arrival in service.received():
                assert isinstance(arrival, Delivery)
                await service.send(arrival.sender, arrival.payload)

        async def ask(client: MqttTransport) -> None:
            answers = client.received()
            for number in range(size.asked_each):
                await client.send(f"service-{number % 2}", LITTLE)
                await anext(answers)

        services = [await open_station(f"service-{number}") for number in range(2)]
        clients = [await open_station(f"client-{number}") for number in range(size.clients)]
        serving = [asyncio.create_task(serve(service)) for service in services]
        wall_s, cpu_s = perf_counter(), process_time()
        await asyncio.gather(*(ask(client) for client in clients))
        frames = 2 * size.clients * size.asked_each
        speed = frames / (perf_counter() - wall_s), (process_time() - cpu_s) * 1000 / frames
        for task in serving:
            task.cancel()
        return speed


async def exchange_ms(url: str, settings: BrokerSettings, exchanges: int) -> float:
    async with (
        MqttTransport(url, Station(run="ask", name="a"), settings) as a,
        MqttTransport(url, Station(run="ask", name="b"), settings) as b,
    ):

        async def echo() -> None:
            async for arrival in b.received():
                assert isinstance(arrival, Delivery)
                await b.send("a", arrival.payload)

        echoing, answers, took = asyncio.create_task(echo()), a.received(), []
        for _ in range(exchanges):
            begun = perf_counter()
            await a.send("b", LITTLE)
            await anext(answers)
            took.append((perf_counter() - begun) * 1000)
        echoing.cancel()
        return median(took)


async def plain_aiomqtt(url: str, qos: int, frames: int) -> tuple[float, float]:
    """The same one way with aiomqtt as its front page shows it."""
    port = parse_broker_url(url).port
    v5 = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client("127.0.0.1", port, protocol=v5) as a, aiomqtt.Client("127.0.0.1", port, protocol=v5) as b:
        await b.subscribe("plain", qos=qos)

        async def send() -> None:
            for _ in range(frames):
                await a.publish("plain", LITTLE, qos=qos)

        wall_s, cpu_s = perf_counter(), process_time()
        sending = asyncio.create_task(send())
        got = 0
        async for _ in b.messages:
            got += 1
            if got == frames:
                break
        await sending
        return frames / (perf_counter() - wall_s), (process_time() - cpu_s) * 1000 / frames


async def measure(kind: str, qos: int, size: Size) -> dict[str, Any]:
    settings, turns = BrokerSettings(qos=1 if qos else 0), range(size.repetitions)
    async with embedded_broker("mosquitto" if kind == "mosquitto" else "iotcore", settings) as url:
        small = [await one_way(url, settings, LITTLE, size.frames) for _ in turns]
        many = [await fleet(url, settings, size) for _ in turns]
        big = [await one_way(url, settings, BIG, size.big_frames) for _ in turns]
        plain = [await plain_aiomqtt(url, 0, size.frames) for _ in turns] if qos == 0 else []
        figures: dict[str, Any] = {
            "broker": kind,
            "qos": qos,
            "small_per_s": median(speed for speed, _ in small),
            "small_cpu_ms": median(cpu for _, cpu in small),
            "fleet_per_s": median(speed for speed, _ in many),
            "fleet_cpu_ms": median(cpu for _, cpu in many),
            "big_mb_per_s": median(speed for speed, _ in big) * len(BIG) / 1e6,
            "exchange_ms": await exchange_ms(url, settings, size.exchanges),
        }
        if plain:
            figures["plain_aiomqtt_cpu_ratio"] = median(cpu for _, cpu in plain) / figures["small_cpu_ms"]
        return figures


def with_ratios(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each QoS 1 row what it costs against QoS 0 of the same broker."""
    for low, high in zip(figures[::2], figures[1::2], strict=True):
        high["qos1_cpu_ratio"] = high["fleet_cpu_ms"] / low["fleet_cpu_ms"]
        high["qos1_exchange_ratio"] = high["exchange_ms"] / low["exchange_ms"]
    return figures


def main() -> None:
    options = new_parser(__doc__).parse_args()
    kinds = ["mosquitto", "iotcore"] if find_mosquitto() else ["iotcore"]
    figures = with_ratios([asyncio.run(measure(kind, qos, SMALL if options.small else FULL)) for kind in kinds for qos in (0, 1)])
    if options.json:
        print(json.dumps({"broker": figures}, indent=2))
        return
    print("broker     QoS  one way/s  CPU ms  fleet/s  CPU ms    MB/s  exchange ms  ratios")
    for row in figures:
        ratios = ", ".join(f"{name.removesuffix('_ratio')} {value:.2f}" for name, value in row.items() if name.endswith("_ratio"))
        print(
            f"{row['broker']:<10} {row['qos']:>3}  {row['small_per_s']:>9,.0f}  {row['small_cpu_ms']:>6.3f}  {row['fleet_per_s']:>7,.0f}"
            f"  {row['fleet_cpu_ms']:>6.3f}  {row['big_mb_per_s']:>6.0f}  {row['exchange_ms']:>11.2f}  {ratios}"
        )


if __name__ == "__main__":
    main()
