"""Public checks: what any transport must keep, whoever wrote it.

::

    await check_transport(lambda station: MyTransport(url, station, settings), settings)

Each check stands for one promise of ``broker/transport.py``, opens its own stations in a run of its own, and raises ``AssertionError``
with a sentence that says which promise was broken. Order of delivery is not checked, since none is promised.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import ANYONE, Arrival, Delivery, PeerLost, Station, Transport
from hosfl_async.errors import OversizeError, TransportError
from hosfl_async.telemetry import TELEMETRY_BYTES_MAX

MakeTransport = Callable[[Station], Transport]
Check = Callable[[MakeTransport, BrokerSettings], Awaitable[None]]

PATIENCE_S = 20.0
"""Bound on each wait; a check that runs into it has failed."""
SLOW_CONSUMER_FRAMES = 500
GROUP = "clients"


async def check_transport(make_transport: MakeTransport, settings: BrokerSettings) -> None:
    """Run every check, in order. ``make_transport`` must use ``settings`` and one broker for all stations."""
    for check in CHECKS:
        await check(make_transport, settings)


async def delivers_with_the_senders_name(make: MakeTransport, settings: BrokerSettings) -> None:
    """A frame arrives once, whole, with the name of its sender, at its recipient and nobody else."""
    run = _run()
    async with make(_station(run, "a")) as a, make(_station(run, "b")) as b, make(_station(run, "c")) as c:
        every_byte = bytes(range(256))
        await a.send("b", every_byte)
        await c.send("b", b"")
        got = await _take(b, 2)
        _require(_same(got, [Delivery("a", every_byte), Delivery("c", b"")]), "frames must arrive whole and with the sender's name", got)
        await b.send("c", b"only for c")
        got = await _take(c, 1)
        _require(got == [Delivery("b", b"only for c")], "a frame must reach its recipient", got)
        _require(a.backlog == 0, "a frame must reach nobody but its recipient", a.backlog)


async def reaches_every_member_of_a_group(make: MakeTransport, settings: BrokerSettings) -> None:
    """A frame to a group reaches each member, not its sender, and nobody outside."""
    run = _run()
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(make(_station(run, f"client-{i}", groups=(GROUP,)))) for i in range(3)]
        outside = await stack.enter_async_context(make(_station(run, "outside")))
        await outside.send(GROUP, b"to all")
        for member in members:
            got = await _take(member, 1)
            _require(got == [Delivery("outside", b"to all")], "each member must get a frame to the group", got)
        await members[0].send(GROUP, b"to the others")
        for member in members[1:]:
            got = await _take(member, 1)
            _require(got == [Delivery("client-0", b"to the others")], "members must hear each other", got)
        for station in (members[0], outside):
            await members[1].send(station.station.name, b"after")
            got = await _take(station, 1)
            _require(got == [Delivery("client-1", b"after")], "a group's frame must not come to its sender, nor outside the group", got)


async def carries_payloads_up_to_the_limit(make: MakeTransport, settings: BrokerSettings) -> None:
    """A payload of exactly ``payload_bytes_max`` arrives whole."""
    run = _run()
    async with make(_station(run, "a")) as a, make(_station(run, "b")) as b:
        largest = secrets.token_bytes(a.payload_bytes_max)
        await a.send("b", largest)
        got = await _take(b, 1)
        _require(got == [Delivery("a", largest)], "the largest payload must arrive whole", len(got))


async def refuses_oversize_and_lives_on(make: MakeTransport, settings: BrokerSettings) -> None:
    """A payload above the limit raises ``OversizeError``, is counted, and costs neither connection nor other frames."""
    run = _run()
    async with make(_station(run, "a")) as a, make(_station(run, "b")) as b:
        await a.send("b", b"before")
        try:
            await a.send("b", bytes(a.payload_bytes_max + 1))
        except OversizeError:
            pass
        else:
            raise AssertionError("a payload above the limit must raise OversizeError")
        await a.send("b", b"after")
        got = await _take(b, 2)
        _require(_same(got, [Delivery("a", b"before"), Delivery("a", b"after")]), "other frames must not suffer from an oversize one", got)
        _require(a.counts.get("oversize") == 1, "an oversize payload must be counted", a.counts)
        _require(not a.counts.get("disconnected"), "an oversize payload must not cost the connection", a.counts)


async def keeps_all_for_a_slow_consumer(make: MakeTransport, settings: BrokerSettings) -> None:
    """500 frames to a station that takes none at first: bounded waiting here, and all of them arrive."""
    run = _run()
    async with make(_station(run, "a")) as a, make(_station(run, "slow")) as slow, make(_station(run, "c")) as c:
        filling = bytes(1000)
        for number in range(SLOW_CONSUMER_FRAMES):
            await a.send("slow", number.to_bytes(4, "little") + filling)
        await a.send("c", b"the others are not held up")
        await _take(c, 1)
        await asyncio.sleep(0.2)  # time for a transport without a bound to show it
        bound = settings.inbox_frames_max + settings.inflight_max
        _require(slow.backlog <= bound, f"at most {bound} frames may wait", slow.backlog)
        got = await _take(slow, SLOW_CONSUMER_FRAMES)
        numbers = {int.from_bytes(arrival.payload[:4], "little") for arrival in got if isinstance(arrival, Delivery)}
        _require(numbers == set(range(SLOW_CONSUMER_FRAMES)), "nothing may be lost for a slow consumer", len(numbers))


async def announces_an_abrupt_end(make: MakeTransport, settings: BrokerSettings) -> None:
    """``PeerLost`` reaches those who watch, and only for the peers they watch; a farewell raises none."""
    run = _run()
    async with (
        make(_station(run, "watcher", watches=(ANYONE,))) as watcher,
        make(_station(run, "narrow", watches=("polite",))) as narrow,
        make(_station(run, "crashing")) as crashing,
        make(_station(run, "later")) as later,
    ):
        async with make(_station(run, "polite")) as polite:
            await polite.send("watcher", b"I go")
            await _take(watcher, 1)
        await later.send("watcher", b"after the farewell")
        got = await _take(watcher, 1)
        _require(got == [Delivery("later", b"after the farewell")], "a farewell must not raise PeerLost", got)
        await crashing.abort()
        got = await _take(watcher, 1)
        _require(got == [PeerLost("crashing")], "an abrupt end must raise PeerLost", got)
        await later.send("narrow", b"ping")
        got = await _take(narrow, 1)
        _require(got == [Delivery("later", b"ping")], "PeerLost must come for watched peers only", got)


async def keeps_runs_apart(make: MakeTransport, settings: BrokerSettings) -> None:
    """The same names in two runs on one broker never hear each other, be it frames, groups or losses."""
    here, there = _run(), _run()
    async with (
        make(_station(here, "a", groups=(GROUP,), watches=(ANYONE,))) as mine,
        make(_station(there, "a", groups=(GROUP,), watches=(ANYONE,))),
        make(_station(here, "b")) as friend,
        make(_station(there, "b")) as stranger,
    ):
        await stranger.send("a", b"strange")
        await stranger.send(GROUP, b"strange")
        await stranger.abort()
        await friend.send("a", b"mine")
        got = await _take(mine, 1)
        _require(got == [Delivery("b", b"mine")], "nothing may cross from one run to another", got)
        await asyncio.sleep(0.1)
        _require(mine.backlog == 0, "nothing may cross from one run to another", mine.backlog)


async def hands_a_name_over(make: MakeTransport, settings: BrokerSettings) -> None:
    """A later station of the same name takes over: the earlier one raises ``TransportError`` for good, frames reach the later one."""
    run = _run()
    async with make(_station(run, "a")) as a, make(_station(run, "twin")) as earlier, make(_station(run, "twin")) as later:
        try:
            await _take(earlier, 1)
        except TransportError:
            pass
        else:
            raise AssertionError("an earlier station must give up when a later one takes its name")
        try:
            await earlier.send("a", b"from beyond")
        except TransportError:
            pass
        else:
            raise AssertionError("a station that has given up must refuse to send")
        await a.send("twin", b"to the later")
        got = await _take(later, 1)
        _require(got == [Delivery("a", b"to the later")], "frames must reach the station that took over", got)


async def lets_telemetry_wait_for_nothing(make: MakeTransport, settings: BrokerSettings) -> None:
    """Telemetry is told or dropped at once and counted either way, reaches no agent, and takes no frame's place."""
    run = _run()
    async with make(_station(run, "b", watches=(ANYONE,))) as b, make(_station(run, "a")) as a:
        for number in range(30):
            await a.send("b", bytes([number]))
            a.tell(b"telemetry")
        got = await _take(b, 30)
        _require(_same(got, [Delivery("a", bytes([number])) for number in range(30)]), "frames must arrive, and they alone", got)
        told, dropped = a.counts["telemetry_told"], a.counts["telemetry_dropped"]
        _require(told + dropped == 30, "every record must be counted, told or dropped", (told, dropped))
        a.tell(bytes(TELEMETRY_BYTES_MAX + 1))
        _require(a.counts["telemetry_dropped"] == dropped + 1, "a record that is too long must be dropped", dict(a.counts))
    a.tell(b"too late")
    _require(a.counts["telemetry_dropped"] == dropped + 2, "a closed transport must drop telemetry, and not raise", dict(a.counts))


async def ends_cleanly(make: MakeTransport, settings: BrokerSettings) -> None:
    """What was sent before leaving still arrives; afterwards ``send`` raises ``TransportError`` and ``received`` ends."""
    run = _run()
    async with make(_station(run, "b")) as b:
        async with make(_station(run, "a")) as a:
            for number in range(50):
                await a.send("b", bytes([number]))
        got = await _take(b, 50)
        _require(len(set(got)) == 50, "what was sent before the farewell must arrive", len(set(got)))
        try:
            await a.send("b", b"too late")
        except TransportError:
            pass
        else:
            raise AssertionError("a closed transport must refuse to send")
        async with asyncio.timeout(PATIENCE_S):
            rest = [arrival async for arrival in a.received()]
        _require(rest == [], "a closed transport must end its arrivals", rest)


CHECKS: tuple[Check, ...] = (
    delivers_with_the_senders_name,
    reaches_every_member_of_a_group,
    carries_payloads_up_to_the_limit,
    refuses_oversize_and_lives_on,
    keeps_all_for_a_slow_consumer,
    announces_an_abrupt_end,
    keeps_runs_apart,
    hands_a_name_over,
    lets_telemetry_wait_for_nothing,
    ends_cleanly,
)


def _run() -> str:
    return f"check-{secrets.token_hex(4)}"


def _station(run: str, name: str, *, groups: tuple[str, ...] = (), watches: tuple[str, ...] = ()) -> Station:
    return Station(run=run, name=name, groups=groups, watches=watches)


async def _take(transport: Transport, number: int) -> list[Arrival]:
    """The next ``number`` arrivals; the last one counts as taken when somebody asks again."""
    taken: list[Arrival] = []
    arrivals: AsyncIterator[Arrival] = transport.received()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(taken) < number:
                taken.append(await anext(arrivals))
    except TimeoutError:
        raise AssertionError(f"{transport.station.name} waited {PATIENCE_S:g} s for {number} arrivals and got {len(taken)}") from None
    return taken


def _same(got: list[Arrival], expected: list[Arrival]) -> bool:
    return sorted(map(repr, got)) == sorted(map(repr, expected))


def _require(kept: bool, promise: str, found: object) -> None:
    if not kept:
        raise AssertionError(f"{promise}; found {found!r}")
