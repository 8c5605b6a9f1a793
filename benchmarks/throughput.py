"""What our transport reaches beside bare aiomqtt, with messages of the same sizes over one mosquitto.

``python -m benchmarks.throughput [--messages 3000] [--repetitions 5] [--json]``

Two connections in one process, both ends counted. Ours is the whole way of a client's message: typed message -> envelope -> frames ->
transport -> broker -> transport -> frames -> checked message, and for each of them the receiver's own acknowledgement (``Accepted``) all
the way back, with at most ``WINDOW`` messages unanswered. Bare aiomqtt is given the very same bytes, at quality 0, in two ways:

* one way: nobody answers, nothing is checked. That is the most that it can do.
* answered: the receiver publishes as many bytes back as our acknowledgement has, and the sender keeps to the same window.

The three take turns, size by size, and the figures are medians. ``ratio`` is ours by theirs, of messages a second.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter, process_time
from typing import Any

import aiomqtt

from benchmarks import new_parser
from hosfl_async.broker.address import parse_broker_url
from hosfl_async.broker.embedded import embedded_broker
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Delivery, Station
from hosfl_async.codec import DEFAULT_LIMITS, Decoder, Reassembler, encode, split
from hosfl_async.messages import (
    AGGREGATOR,
    Accepted,
    AggregatorInbox,
    EdgeClientInbox,
    ProjectedGradients,
    SmashedData,
    SplitServerInbox,
    StepId,
    Tensor,
)

WINDOW = 64
MESSAGES = 3000
BYTES_MAX = 64 * 2**20
"""Of one size at most so many bytes are sent."""
REPETITIONS = 5
CLIENT = "client-1"
TARGET = 0.7

Speed = tuple[float, float]
"""Messages a wall second, and processor milliseconds a message (both ends)."""


def scalars(number: int) -> ProjectedGradients:
    """What a client step contributes: 20 numbers."""
    return ProjectedGradients(StepId(CLIENT, 1, number), 7, (0.5,) * 20)


def activations(batch: int, width: int) -> Callable[[int], SmashedData]:
    """A batch at the cut."""
    tensor, labels = Tensor("float32", (batch, width), bytes(4 * batch * width)), Tensor("int64", (batch,), bytes(8 * batch))
    return lambda number: SmashedData(StepId(CLIENT, 1, number), 7, tensor, labels, True)


CASES: dict[str, tuple[Callable[[int], Any], Any]] = {
    "scalars of a step": (scalars, AggregatorInbox),
    "activations, 4 KiB": (activations(32, 30), SplitServerInbox),
    "activations, 64 KiB": (activations(32, 508), SplitServerInbox),
    "activations, 250 KiB": (activations(32, 1996), SplitServerInbox),
    "activations, 1 MiB": (activations(32, 8188), SplitServerInbox),
}
"""The last one travels in fragments; aiomqtt sends it whole."""


async def ours(url: str, settings: BrokerSettings, make: Callable[[int], Any], inbox: Any, messages: int) -> Speed:
    async with (
        MqttTransport(url, Station(run="ours", name=CLIENT), settings) as client,
        MqttTransport(url, Station(run="ours", name=AGGREGATOR), settings) as service,
    ):
        room = asyncio.Semaphore(WINDOW)

        async def send() -> None:
            for number in range(messages):
                await room.acquire()
                for frame in split(encode(CLIENT, make(number)), number, DEFAULT_LIMITS):
                    await client.send(AGGREGATOR, frame)

        async def answer() -> None:
            decoder, whole = Decoder(inbox), Reassembler(DEFAULT_LIMITS)
            async for arrival in service.received():
                assert isinstance(arrival, Delivery)
                payload = whole.offer(arrival.sender, arrival.payload)
                if payload is not None:
                    _, message = decoder.decode(payload)
                    await service.send(CLIENT, encode(AGGREGATOR, Accepted(message.step, 8, 8)))

        async def heed() -> None:
            decoder, got = Decoder(EdgeClientInbox), 0
            async for arrival in client.received():
                assert isinstance(arrival, Delivery)
                decoder.decode(arrival.payload)
                room.release()
                got += 1
                if got == messages:
                    return

        return await _timed(messages, heed, send, answer)


async def one_way(url: str, payload: bytes, messages: int) -> Speed:
    async with _plain(url) as a, _plain(url) as b:
        await b.subscribe("plain/there", qos=0)

        async def send() -> None:
            for _ in range(messages):
                await a.publish("plain/there", payload, qos=0)

        async def take() -> None:
            got = 0
            async for _ in b.messages:
                got += 1
                if got == messages:
                    return

        return await _timed(messages, take, send)


async def answered(url: str, payload: bytes, reply: bytes, messages: int) -> Speed:
    async with _plain(url) as a, _plain(url) as b:
        await b.subscribe("plain/there", qos=0)
        await a.subscribe("plain/back", qos=0)
        room = asyncio.Semaphore(WINDOW)

        async def send() -> None:
            for _ in range(messages):
                await room.acquire()
                await a.publish("plain/there", payload, qos=0)

        async def answer() -> None:
            async for _ in b.messages:
                await b.publish("plain/back", reply, qos=0)

        async def heed() -> None:
            got = 0
            async for _ in a.messages:
                room.release()
                got += 1
                if got == messages:
                    return

        return await _timed(messages, heed, send, answer)


def _plain(url: str) -> aiomqtt.Client:
    address = parse_broker_url(url)
    return aiomqtt.Client(address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5)


async def _timed(messages: int, last: Callable[[], Awaitable[None]], *beside: Callable[[], Awaitable[None]]) -> Speed:
    """Run ``last`` to its end, with the others beside it."""
    wall_s, cpu_s = perf_counter(), process_time()
    tasks = [asyncio.ensure_future(work()) for work in beside]
    try:
        await last()
        return messages / (perf_counter() - wall_s), (process_time() - cpu_s) * 1000 / messages
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def measure(case: str, messages: int = MESSAGES, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """One size: ours and both ways of theirs in turn, over one broker."""
    make, inbox = CASES[case]
    payload, reply = encode(CLIENT, make(1)), encode(AGGREGATOR, Accepted(StepId(CLIENT, 1, 1), 8, 8))
    number = max(WINDOW, min(messages, BYTES_MAX // len(payload)))
    settings = BrokerSettings(payload_bytes_max=max(BrokerSettings().payload_bytes_max, len(payload) + 1024))
    speeds: dict[str, list[Speed]] = {"ours": [], "one_way": [], "answered": []}
    async with embedded_broker("mosquitto", settings) as url:
        for _ in range(repetitions):
            speeds["ours"].append(await ours(url, BrokerSettings(), make, inbox, number))
            speeds["one_way"].append(await one_way(url, payload, number))
            speeds["answered"].append(await answered(url, payload, reply, number))
    per_s = {way: median(speed for speed, _ in each) for way, each in speeds.items()}
    cpu_ms = {way: median(cpu for _, cpu in each) for way, each in speeds.items()}
    return {
        "case": case,
        "bytes": len(payload),
        "messages": number,
        "messages_per_s": per_s,
        "cpu_ms": cpu_ms,
        "ratio_to_one_way": per_s["ours"] / per_s["one_way"],
        "ratio_to_answered": per_s["ours"] / per_s["answered"],
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="of each size, at most")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    if options.small:
        options.messages, options.repetitions = WINDOW, 1
    rows = [asyncio.run(measure(case, options.messages, options.repetitions)) for case in CASES]
    if options.json:
        print(json.dumps({"throughput": rows, "target": TARGET}, indent=2))
        return
    print("                         bytes  ours/s  CPU ms  one way/s  CPU ms  answered/s  CPU ms  ratio to one way  to answered")
    for row in rows:
        per_s, cpu_ms = row["messages_per_s"], row["cpu_ms"]
        print(
            f"{row['case']:<21} {row['bytes']:>8,} {per_s['ours']:>7,.0f} {cpu_ms['ours']:>7.3f} {per_s['one_way']:>10,.0f}"
            f" {cpu_ms['one_way']:>7.3f} {per_s['answered']:>11,.0f} {cpu_ms['answered']:>7.3f} {row['ratio_to_one_way']:>17.2f}"
            f" {row['ratio_to_answered']:>12.2f}"
        )


if __name__ == "__main__":
    main()
