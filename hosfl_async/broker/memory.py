"""A transport inside one process: a dictionary of stations where a broker would be, with seeded faults on request.

It keeps the same promises as the MQTT transport and has the same joints: the *exchange* plays the broker (it keeps what a slow station has
not taken, up to ``broker_queue_bytes_max``, and announces losses), the transport plays the client. Faults are drawn in the order of
sending from one seeded generator, so a test that sends in a fixed order meets the same faults every time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from random import Random
from types import TracebackType
from typing import Self

from hosfl_async.broker.inbox import Inbox
from hosfl_async.broker.settings import BrokerSettings, MemoryFaults
from hosfl_async.broker.topics import check_name
from hosfl_async.broker.transport import ANYONE, Arrival, Delivery, PeerLost, Station
from hosfl_async.errors import OversizeError, TransportError
from hosfl_async.telemetry import TELEMETRY_BYTES_MAX

HOLD_MIN_S = 0.01
"""A frame held back for reordering waits at most this, or ``delay_max_s`` if that is longer."""


class MemoryExchange:
    """Carries frames between the memory transports made from it. ``counts`` says what its faults and bounds did."""

    def __init__(self, settings: BrokerSettings | None = None, faults: MemoryFaults | None = None) -> None:
        self.settings = settings or BrokerSettings()
        self.counts: Counter[str] = Counter()
        self._faults = faults or MemoryFaults()
        self._draw = Random(self._faults.seed).random
        self._present: dict[tuple[str, str], MemoryTransport] = {}
        self._held: dict[tuple[str, str], Delivery] = {}
        self.on_telemetry: Callable[[str, str, bytes], None] | None = None
        """Told run, agent and record of all telemetry."""

    def transport(self, station: Station) -> MemoryTransport:
        """A transport for ``station``, not yet open."""
        return MemoryTransport(self, station)

    def attach(self, transport: MemoryTransport) -> None:
        """Let a station in. A second one under the same name takes over from the first, as with MQTT's client identifiers."""
        key = (transport.station.run, transport.station.name)
        former = self._present.pop(key, None)
        if former is not None:
            former.fail(TransportError(f"another connection took over the name {key[1]}"))
            self._announce_loss(former.station)
        self._present[key] = transport

    def detach(self, transport: MemoryTransport, *, farewell: bool) -> None:
        key = (transport.station.run, transport.station.name)
        if self._present.get(key) is transport:
            del self._present[key]
            if not farewell:
                self._announce_loss(transport.station)

    def carry(self, sender: Station, recipient: str, payload: bytes) -> None:
        """Hand a frame to its recipient, or to each member of a group but the sender."""
        frame = Delivery(sender.name, payload)
        if (sender.run, recipient) in self._present:
            self._meet_faults((sender.run, recipient), frame)
            return
        members = [
            key
            for key, other in self._present.items()
            if recipient in other.station.groups and key[0] == sender.run and key[1] != sender.name
        ]
        self.counts["unheard"] += not members
        for key in members:
            self._meet_faults(key, frame)

    def _meet_faults(self, key: tuple[str, str], frame: Delivery) -> None:
        faults, draw = self._faults, self._draw
        if faults.loss and draw() < faults.loss:
            self.counts["lost"] += 1
            return
        copies = 1
        if faults.duplication and draw() < faults.duplication:
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            if faults.reordering and key not in self._held and draw() < faults.reordering:
                self.counts["held_back"] += 1
                self._held[key] = frame
                asyncio.get_running_loop().call_later(max(faults.delay_max_s, HOLD_MIN_S), self._release, key, frame)
            elif faults.delay_max_s:
                asyncio.get_running_loop().call_later(draw() * faults.delay_max_s, self._deliver, key, frame)
            else:
                self._deliver(key, frame)

    def _deliver(self, key: tuple[str, str], frame: Delivery) -> None:
        recipient = self._present.get(key)
        if recipient is None:
            self.counts["unheard"] += 1
        else:
            recipient.arrive(frame)
        if key in self._held:
            self._release(key, self._held[key])

    def _release(self, key: tuple[str, str], frame: Delivery) -> None:
        if self._held.get(key) is frame:
            del self._held[key]
            self._deliver(key, frame)

    def _announce_loss(self, lost: Station) -> None:
        for (run, name), other in self._present.items():
            if run == lost.run and name != lost.name and (ANYONE in other.station.watches or lost.name in other.station.watches):
                other.arrive(PeerLost(lost.name))


class MemoryTransport:
    """One station's end of a ``MemoryExchange``. See ``broker/transport.py`` for the promises."""

    def __init__(self, exchange: MemoryExchange, station: Station) -> None:
        for name, what in ((station.run, "run name"), (station.name, "agent name")):
            check_name(name, what)
        self.station = station
        self.counts: dict[str, int] = Counter()
        self._exchange = exchange
        self._settings = exchange.settings
        self._inbox: Inbox[None] = Inbox(self._on_taken)
        self._kept: deque[Arrival] = deque()
        self._kept_bytes = 0
        self._open = False
        self._failure: TransportError | None = None

    @property
    def payload_bytes_max(self) -> int:
        return self._settings.payload_bytes_max

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    async def __aenter__(self) -> Self:
        self._exchange.attach(self)
        self._open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end(farewell=True)

    async def abort(self) -> None:
        self._end(farewell=False)

    async def send(self, recipient: str, payload: bytes) -> None:
        if self._failure is not None or not self._open:
            raise self._failure or TransportError(f"the transport of {self.station.name} is closed")
        if len(payload) > self.payload_bytes_max:
            self.counts["oversize"] += 1
            raise OversizeError(f"{len(payload)} bytes to {recipient}, above the limit of {self.payload_bytes_max}")
        check_name(recipient, "recipient")
        self.counts["sent"] += 1
        self._exchange.carry(self.station, recipient, payload)

    def tell(self, telemetry: bytes) -> bool:
        said = self._open and len(telemetry) <= min(TELEMETRY_BYTES_MAX, self.payload_bytes_max)
        self.counts["telemetry_told" if said else "telemetry_dropped"] += 1
        if said and self._exchange.on_telemetry is not None:
            self._exchange.on_telemetry(self.station.run, self.station.name, telemetry)
        return said

    def received(self) -> AsyncIterator[Arrival]:
        return self._inbox.received()

    def arrive(self, arrival: Arrival) -> None:
        """Called by the exchange: into the inbox, or kept by the exchange's bound while the inbox is full."""
        if len(self._inbox) < self._settings.inbox_frames_max and not self._kept:
            self._inbox.put(arrival, None)
            self.counts["received"] += isinstance(arrival, Delivery)
            return
        size = len(arrival.payload) if isinstance(arrival, Delivery) else 0
        if self._kept_bytes + size > self._settings.broker_queue_bytes_max:
            self._exchange.counts["dropped"] += 1
            return
        self._kept.append(arrival)
        self._kept_bytes += size

    def fail(self, failure: TransportError) -> None:
        """Called by the exchange: this connection is over for good."""
        self._failure, self._open = failure, False
        self._inbox.close(failure)

    def _on_taken(self, _receipt: None) -> None:
        if self._kept:
            arrival = self._kept.popleft()
            self._kept_bytes -= len(arrival.payload) if isinstance(arrival, Delivery) else 0
            self._inbox.put(arrival, None)
            self.counts["received"] += isinstance(arrival, Delivery)

    def _end(self, *, farewell: bool) -> None:
        if self._open:
            self._open = False
            self._exchange.detach(self, farewell=farewell)
            self._inbox.close()
