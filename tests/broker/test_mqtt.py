"""What the MQTT transport does beyond the contract: brokers that die, come back, refuse; and names that are taken over."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hosfl_async.broker.embedded import RunningBroker, embedded_broker, find_mosquitto, free_port, launch, start_broker
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.mqtt_link import BYTES_PER_TURN_MAX, MqttLink
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import ANYONE, Arrival, Delivery, PeerLost, Station
from hosfl_async.errors import SettingsError, TransportError

BROKERS = ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
PATIENCE_S = 30.0


async def take(arrivals: AsyncIterator[Arrival], number: int) -> list[Arrival]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(arrivals) for _ in range(number)]


async def until_connected(transport: MqttTransport, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while transport.counts["connected"] < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def station(name: str) -> Station:
    return Station(run="test", name=name, watches=(ANYONE,))


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("kind", BROKERS)
def test_a_broker_that_dies_and_comes_back_is_survived(kind: str, qos: int) -> None:
    """SIGKILL, frames sent meanwhile, the same port again: both sides reconnect and subscribe by themselves, and the frames arrive."""

    async def story() -> None:
        settings = BrokerSettings(qos=1 if qos else 0, reconnect_first_s=0.05, reconnect_max_s=0.2)
        broker = await start_broker("mosquitto" if kind == "mosquitto" else "iotcore", settings)
        try:
            async with MqttTransport(broker.url, station("a"), settings) as a, MqttTransport(broker.url, station("b"), settings) as b:
                heard = b.received()
                await a.send("b", b"before")
                assert await take(heard, 1) == [Delivery("a", b"before")]
                await broker.kill()
                async with asyncio.timeout(PATIENCE_S):
                    while not (a.counts["disconnected"] and b.counts["disconnected"]):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                broker = await start_broker("mosquitto" if kind == "mosquitto" else "iotcore", settings, broker.port)
                await until_connected(b, 2)
                await until_connected(a, 2)
                await a.send("b", b"after")
                async with asyncio.timeout(PATIENCE_S):
                    while (got := await anext(heard)) != Delivery("a", b"after"):
                        assert got == Delivery("a", b"before"), "only what was not confirmed may come twice"
        finally:
            await broker.stop()

    asyncio.run(story())


def test_while_disconnected_frames_wait_and_the_oldest_are_dropped_beyond_the_bound() -> None:
    async def story() -> None:
        settings = BrokerSettings(outbox_frames_max=5, reconnect_first_s=0.2, reconnect_max_s=0.2)
        broker = await start_broker("iotcore", settings)
        try:
            async with MqttTransport(broker.url, station("a"), settings) as a:
                await broker.kill()
                async with asyncio.timeout(PATIENCE_S):
                    while not a.counts["disconnected"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    for number in range(12):
                        await a.send("b", bytes([number]))
                assert a.counts["outbox_dropped"] == 7
                broker = await start_broker("iotcore", settings, broker.port)
                # b must be there before a is, since the broker keeps nothing for the absent: so a's frames wait for a's next attempt
                async with MqttTransport(broker.url, station("b"), settings) as b:
                    if a.counts["connected"] == 1:
                        assert await take(b.received(), 5) == [Delivery("a", bytes([number])) for number in range(7, 12)]
                    await until_connected(a, 2)
                    await a.send("b", b"now")
        finally:
            await broker.stop()

    asyncio.run(story())


def test_an_outage_beyond_the_bound_ends_with_one_clear_error() -> None:
    async def story() -> None:
        settings = BrokerSettings(reconnect_first_s=0.01, reconnect_max_s=0.02, outage_max_s=0.2)
        broker = await start_broker("iotcore", settings)
        async with MqttTransport(broker.url, station("a"), settings) as a:
            await broker.kill()
            with pytest.raises(TransportError, match=r"a gave up after 0.2 s without a broker"):
                await take(a.received(), 1)
            with pytest.raises(TransportError, match="gave up"):
                await a.send("b", b"too late")
            assert a.counts["reconnect_failed"] > 1

    asyncio.run(story())


def test_no_broker_there_is_one_clear_error() -> None:
    async def story() -> None:
        async with MqttTransport("mqtt://127.0.0.1:1", station("a"), BrokerSettings(connect_timeout_s=2.0)):
            raise AssertionError("there is no broker on port 1")

    with pytest.raises(TransportError, match=r"a cannot connect to mqtt://127.0.0.1:1: "):
        asyncio.run(story())


def test_something_that_never_answers_is_one_clear_error() -> None:
    async def story() -> None:
        silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(PATIENCE_S), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with MqttTransport(f"mqtt://127.0.0.1:{port}", station("a"), BrokerSettings(connect_timeout_s=0.3)):
            raise AssertionError("nobody answered")

    with pytest.raises(TransportError, match="a cannot connect"):
        asyncio.run(story())


def test_a_namesake_that_took_over_stays_present_when_the_earlier_one_ends() -> None:
    """The late will of the earlier connection neither hides the later one nor is mistaken for its loss."""

    async def story() -> None:
        broker = await start_broker("iotcore")
        try:
            async with MqttTransport(broker.url, station("watcher")) as watcher, MqttTransport(broker.url, station("a")) as earlier:
                later = MqttTransport(broker.url, station("a"))
                async with later:
                    with pytest.raises(TransportError, match="took over the name a"):
                        await take(earlier.received(), 1)
                    heard = watcher.received()
                    async with MqttTransport(broker.url, station("newcomer")) as newcomer:
                        await later.send("newcomer", b"I am here")
                        news = newcomer.received()
                        assert await take(news, 1) == [Delivery("a", b"I am here")]
                        await later.abort()
                        assert await take(news, 1) == [PeerLost("a")]
                        lost = [arrival for arrival in await take(heard, 1) if isinstance(arrival, PeerLost)]
                        assert lost == [PeerLost("a")]
        finally:
            await broker.stop()

    asyncio.run(story())


@pytest.mark.mosquitto
def test_credentials_and_refusals_are_told(tmp_path: Path) -> None:
    """A broker with an access list: a wrong password is an error at once, a refused publish is counted, identity is enforced."""

    async def story() -> None:
        broker = await start_guarded_mosquitto(tmp_path)
        try:
            with pytest.raises(TransportError, match=r"cannot connect.*[Nn]ot authorized"):
                async with MqttTransport(f"mqtt://a:wrong@127.0.0.1:{broker.port}", station("a")):
                    pass
            settings = BrokerSettings(qos=1)
            async with (
                MqttTransport(f"mqtt://a:secret@127.0.0.1:{broker.port}", station("a"), settings) as a,
                MqttTransport(f"mqtt://b:secret@127.0.0.1:{broker.port}", Station(run="test", name="pretender"), settings) as pretender,
                MqttTransport(f"mqtt://b:secret@127.0.0.1:{broker.port}", station("b"), settings) as b,
            ):
                await pretender.send("a", b"I am pretender")
                await b.send("a", b"I am b")
                assert await take(a.received(), 1) == [Delivery("b", b"I am b")]
                async with asyncio.timeout(PATIENCE_S):  # the broker's own answers to the publishers may come after the delivery
                    while not (pretender.counts["refused"] and b.counts["sent"]):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert (pretender.counts["refused"], b.counts["refused"], b.counts["sent"]) == (1, 0, 1)
        finally:
            await broker.stop()

    asyncio.run(story())


async def start_guarded_mosquitto(folder: Path) -> RunningBroker:
    """A mosquitto as a site would run it: passwords, and an access list that ties topic levels to user names."""
    salt = b"0123456789ab"
    secret = hashlib.pbkdf2_hmac("sha512", b"secret", salt, 101)
    lines = [f"{user}:$7$101${b64encode(salt).decode()}${b64encode(secret).decode()}\n" for user in ("a", "b")]
    (folder / "passwords").write_text("".join(lines))
    rules = ["write hosfl/+/to/+/from/%u", "read hosfl/+/to/%u/from/+", "write hosfl/+/presence/%u", "read hosfl/+/presence/+"]
    (folder / "access").write_text("".join(f"pattern {rule}\n" for rule in rules))
    port = free_port()
    (folder / "config").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/access\nuser root\n"
    )
    return await launch("mosquitto", [find_mosquitto() or "mosquitto", "-c", f"{folder}/config"], port, folder)


def test_a_name_that_is_no_topic_level_is_refused() -> None:
    for bad in ("a/b", "+", "#", "", "ä", "x" * 65, "a\n"):
        with pytest.raises(SettingsError):
            MqttTransport("mqtt://127.0.0.1", station(bad))


def test_a_restarted_peer_is_announced_again_each_time_it_crashes() -> None:
    async def story() -> None:
        broker = await start_broker("iotcore")
        try:
            async with MqttTransport(broker.url, station("watcher")) as watcher:
                heard = watcher.received()
                for _ in range(3):
                    async with MqttTransport(broker.url, station("peer")) as peer:
                        await peer.send("watcher", b"here I am")
                        assert await take(heard, 1) == [Delivery("peer", b"here I am")]
                        await peer.abort()
                    assert await take(heard, 1) == [PeerLost("peer")]
        finally:
            await broker.stop()

    asyncio.run(story())


def test_large_frames_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a turn of the loop, and what waits for one, is not sixteen megabytes long."""
    size, frames, turns = 100 * 1024, 60, []
    read_ready = MqttLink._read_ready

    def noted(link: MqttLink) -> None:
        read_ready(link)
        turns.append(link._bytes_read)

    monkeypatch.setattr(MqttLink, "_read_ready", noted)

    async def story() -> None:
        async with embedded_broker("iotcore") as url, MqttTransport(url, station("a")) as a, MqttTransport(url, station("b")) as b:
            for _ in range(frames):
                await a.send("b", bytes(size))
            assert len(await take(b.received(), frames)) == frames

    asyncio.run(story())
    assert sum(turns) >= frames * size
    assert max(turns) < BYTES_PER_TURN_MAX + size
