"""The small parts by property: broker URLs, topics, presence, the inbox, and the memory exchange's seeded faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from hosfl_async.broker.address import BrokerAddress, parse_broker_url
from hosfl_async.broker.inbox import Inbox
from hosfl_async.broker.memory import HOLD_MIN_S, MemoryExchange
from hosfl_async.broker.settings import BrokerSettings, MemoryFaults
from hosfl_async.broker.topics import HERE, LOST, Topics, presence, read_presence
from hosfl_async.broker.transport import Delivery, Station
from hosfl_async.errors import SettingsError, TransportError

NAMES = some.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
TEXTS = some.text(max_size=80)


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress("localhost")),
        ("mqtt://10.0.0.7:1884/", BrokerAddress("10.0.0.7", 1884)),
        ("mqtt://user:p%40ss%3A@host:1", BrokerAddress("host", 1, "user", "p@ss:")),
        ("mqtt://user@[::1]:1883", BrokerAddress("::1", 1883, "user")),
        ("mqtts://host", BrokerAddress("host", 8883, tls=True)),
    ],
)
def test_a_url_is_read(url: str, address: BrokerAddress) -> None:
    assert parse_broker_url(url) == address


@pytest.mark.parametrize(
    "url", ["", "localhost", "localhost:1883", "http://host", "ws://host", "mqtts://", "mqtt://", "mqtt://host:port", "mqtt://host:99999",
            "mqtt://host:0", "mqtt://host/path", "mqtt://host?x=1", "mqtt://[::1"],
)  # fmt: skip
def test_a_bad_url_is_one_clear_error(url: str) -> None:
    with pytest.raises(SettingsError, match="broker: "):
        parse_broker_url(url)


@given(TEXTS)
def test_any_text_is_an_address_or_a_settings_error(url: str) -> None:
    with contextlib.suppress(SettingsError):
        assert parse_broker_url("mqtt://" + url).host


def test_a_password_is_never_printed() -> None:
    address = parse_broker_url("mqtt://user:hunter2@host")
    assert "hunter2" not in f"{address} {address!r}"
    with pytest.raises(SettingsError) as error:
        parse_broker_url("mqtt://user:hunter2@host/what")
    assert "hunter2" not in str(error.value)


# -- topics ------------------------------------------------------------------------------------------------


@given(run=NAMES, sender=NAMES, recipient=NAMES, other=NAMES)
def test_the_sender_is_read_back_from_the_topic_within_its_run_only(run: str, sender: str, recipient: str, other: str) -> None:
    topic = Topics(Station(run=run, name=sender)).to(recipient)
    assert Topics(Station(run=run, name=recipient)).sender_of(topic) == sender
    assert Topics(Station(run=other, name=recipient)).sender_of(topic) == (sender if other == run else None)
    assert Topics(Station(run=run, name=recipient)).peer_of(topic) is None


@given(TEXTS)
def test_foreign_topics_have_no_sender_and_foreign_presence_no_word(text: str) -> None:
    topics = Topics(Station(run="run", name="a"))
    for topic in (text, f"hosfl/run/to/a/from/{text}", f"hosfl/run/presence/{text}"):
        for name in (topics.sender_of(topic), topics.peer_of(topic)):
            assert name is None or name == text
    word, token = read_presence(text.encode())
    assert (word, token) == ("", "") or presence(word, token) == text.encode()


def test_presence_is_read_back() -> None:
    assert read_presence(presence(HERE, "ab12")) == (HERE, "ab12")
    assert read_presence(presence(LOST, "ab12")) == (LOST, "ab12")
    assert read_presence(b"") == ("", "")


# -- the inbox ---------------------------------------------------------------------------------------------


@given(some.lists(some.booleans(), max_size=30), some.integers(0, 30))
def test_receipts_are_given_in_order_and_only_for_what_was_taken(meant: list[bool], taken: int) -> None:
    """Frames for the agent (True) and others (False): receipts come in the order of arrival, never before the agent asked for more."""

    async def story() -> None:
        receipts: list[int] = []
        inbox: Inbox[int] = Inbox(receipts.append)
        for number, real in enumerate(meant):
            inbox.put(Delivery(str(number), b"") if real else None, number)
        arrivals = inbox.received()
        real_numbers = [number for number, real in enumerate(meant) if real]
        for count in range(1, min(taken, len(real_numbers)) + 1):
            arrival = await anext(arrivals)
            assert arrival == Delivery(str(real_numbers[count - 1]), b"")
            assert receipts == list(range(real_numbers[count - 1])), "everything before it, and not yet itself"
        inbox.close()
        assert [arrival async for arrival in arrivals] == []

    asyncio.run(story())


def test_a_failed_inbox_first_hands_over_what_came_before() -> None:
    async def story() -> None:
        inbox: Inbox[int] = Inbox(lambda receipt: None)
        inbox.put(Delivery("a", b"last words"), 1)
        inbox.close(TransportError("broken"))
        arrivals = inbox.received()
        assert await anext(arrivals) == Delivery("a", b"last words")
        with pytest.raises(TransportError, match="broken"):
            await anext(arrivals)

    asyncio.run(story())


# -- the memory exchange -----------------------------------------------------------------------------------

FRAMES = 60


async def flood(faults: MemoryFaults, settings: BrokerSettings | None = None) -> tuple[list[int], Counter[str]]:
    """Send numbered frames from one station to another; return what arrived, in order, and the exchange's counts."""
    exchange = MemoryExchange(settings, faults)
    async with exchange.transport(Station(run="r", name="a")) as a, exchange.transport(Station(run="r", name="b")) as b:
        for number in range(FRAMES):
            await a.send("b", bytes([number]))
        if faults.reordering or faults.delay_max_s:
            await asyncio.sleep(2 * max(faults.delay_max_s, HOLD_MIN_S) + 0.01)
        got: list[int] = []
        arrivals = b.received()
        while b.backlog:
            arrival = await anext(arrivals)
            assert isinstance(arrival, Delivery)
            got.append(arrival.payload[0])
        return got, exchange.counts


@given(
    seed=some.integers(0, 2**32),
    loss=some.sampled_from([0.0, 0.2, 1.0]),
    duplication=some.sampled_from([0.0, 0.3]),
    reordering=some.sampled_from([0.0, 0.3]),
)
def test_faults_conserve_counts_and_follow_the_seed(seed: int, loss: float, duplication: float, reordering: float) -> None:
    faults = MemoryFaults(seed=seed, loss=loss, duplication=duplication, reordering=reordering)
    got, counts = asyncio.run(flood(faults))
    assert len(got) == FRAMES - counts["lost"] + counts["duplicated"]
    assert (got, counts) == asyncio.run(flood(faults))
    if not reordering:
        assert got == sorted(got)


def test_faults_do_what_their_names_say() -> None:
    got, counts = asyncio.run(flood(MemoryFaults(seed=1, loss=0.3)))
    assert 0 < counts["lost"] < FRAMES
    got, counts = asyncio.run(flood(MemoryFaults(seed=1, reordering=0.5)))
    assert counts["held_back"] > 0
    assert got != sorted(got)
    assert sorted(got) == list(range(FRAMES))
    got, counts = asyncio.run(flood(MemoryFaults(seed=1, delay_max_s=0.005)))
    assert got != sorted(got)
    assert sorted(got) == list(range(FRAMES))


def test_an_exchange_that_is_full_drops_and_counts() -> None:
    """Bounds: the inbox, then the exchange's bytes for that station; beyond them frames are dropped and counted."""
    settings = BrokerSettings(inbox_frames_max=4, broker_queue_bytes_max=10)
    got, counts = asyncio.run(flood(MemoryFaults(), settings))
    assert got == list(range(14))
    assert counts["dropped"] == FRAMES - 14
