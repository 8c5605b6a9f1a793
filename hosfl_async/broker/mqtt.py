"""The MQTT 5 transport: flow control, reconnection and honesty around one connection at a time (``mqtt_link``).

* **Flow.** Frames are acknowledged after the agent took them, with a small Receive Maximum; and since some brokers ignore that, and QoS 0
  knows no acknowledgement, a full inbox stops *reading*: TCP does the rest. (A consumer that takes nothing for two keepalives loses its
  connection.) On the way out a window of ``inflight_max`` frames is with paho, the others wait in our own bounded outbox.
* **Reconnection.** A lost link is replaced by a new one after growing, jittered pauses: it subscribes again and first sends what was not
  confirmed. Sessions are not resumed (clean start): what the broker held for us is lost, agents repeat.
* **Presence.** "here" is published after subscribing, "lost" is the last will, a farewell deletes it, all on one retained topic per agent.
  It settles namesakes as well. Brokers end the older of two connections with one client identifier, without always saying why; both would
  then throw each other out for ever. So identifiers are unique, and who hears a later connection announce its own name gives up, for good.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

from paho.mqtt.client import MQTTMessage

from hosfl_async.broker.address import TlsFiles, parse_broker_url, unreachable
from hosfl_async.broker.inbox import Inbox
from hosfl_async.broker.mqtt_link import PACKET_OVERHEAD_BYTES, Frame, MqttLink, birth
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.topics import HERE, LEFT, LOST, Topics, presence, read_presence
from hosfl_async.broker.transport import Arrival, Delivery, PeerLost, Station
from hosfl_async.errors import OversizeError, TransportError
from hosfl_async.telemetry import TELEMETRY_BYTES_MAX

PEERS_KNOWN_MAX = 1_000_000
"""Peers whose presence is remembered; the loss of others goes unreported and is counted as ``peers_unknown``."""


class _Receipt(NamedTuple):
    """Which frame of which link is to be acknowledged once it was taken."""

    link: MqttLink
    mid: int
    qos: int


class MqttTransport:
    """One station's connection to an MQTT broker. See ``broker/transport.py`` for the promises, the module's text for the means."""

    def __init__(self, url: str, station: Station, settings: BrokerSettings | None = None, tls: TlsFiles | None = None) -> None:
        self.station = station
        self.counts: dict[str, int] = Counter()
        self._settings = settings or BrokerSettings()
        self._address = parse_broker_url(url)
        self._tls = (tls or TlsFiles()).context() if self._address.tls else None
        self._topics = Topics(station)
        self._jitter = Random(f"{station.run}/{station.name}").random
        self._birth = birth()
        self._links_made = 0
        self._link: MqttLink | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._inbox: Inbox[_Receipt] = Inbox(self._on_taken)
        self._outbox: deque[Frame] = deque()
        self._outbox_bytes = 0
        self._in_flight: dict[int, Frame] = {}
        self._pumping = False
        self._moved = asyncio.Event()
        self._present: dict[str, str] = {}
        self._closing = False
        self._failure: TransportError | None = None

    @property
    def payload_bytes_max(self) -> int:
        told = self._link.packet_bytes_max if self._link is not None else None
        mine = self._settings.payload_bytes_max
        return mine if told is None else min(mine, told - PACKET_OVERHEAD_BYTES)

    @property
    def backlog(self) -> int:
        return len(self._inbox)

    async def __aenter__(self) -> Self:
        await self._connect_first()
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"mqtt connection of {self.station.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._closing:
            return
        self._closing = True
        link = self._link
        if link is not None:
            link.resume()
            self._put(Frame(self._topics.presence, LEFT, 1, True))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.farewell_s):
                    await self._flushed()
        self.counts["unsent"] += len(self._outbox)
        await self._release()
        if link is not None:
            await link.close()

    async def abort(self) -> None:
        self._closing = True
        if self._link is not None:
            self._link.cut()
        await self._release()

    async def send(self, recipient: str, payload: bytes) -> None:
        if len(payload) > self.payload_bytes_max:
            self.counts["oversize"] += 1
            raise OversizeError(f"{len(payload)} bytes to {recipient}, above the limit of {self.payload_bytes_max}")
        frame = Frame(self._topics.to(recipient), payload, self._settings.qos)
        while self._failure is None and not self._closing and self._is_full(len(payload)):
            if self._link is None:
                self._drop_oldest()
            else:
                self._moved.clear()
                await self._moved.wait()
        if self._failure is not None or self._closing or self._keeper is None:
            raise self._failure or TransportError(f"the transport of {self.station.name} is closed")
        self._put(frame)

    def tell(self, telemetry: bytes) -> bool:
        link, said = self._link, False
        room = not self._closing and not self._outbox and len(self._in_flight) < self._settings.inflight_max
        if link is not None and room and len(telemetry) <= min(TELEMETRY_BYTES_MAX, self.payload_bytes_max):
            # not among the frames in flight: it is not sent again, and nobody waits for it
            said = link.publish_now(Frame(self._topics.telemetry, telemetry, 0)) is not None
        self.counts["telemetry_told" if said else "telemetry_dropped"] += 1
        return said

    def received(self) -> AsyncIterator[Arrival]:
        return self._inbox.received()

    # -- connection --------------------------------------------------------------------------------------

    async def _connect_first(self) -> None:
        give_up_at = asyncio.get_running_loop().time() + self._settings.first_connect_s
        pause_s = self._settings.reconnect_first_s
        while True:
            try:
                await self._connect()
                return
            except TransportError:
                self.counts["reconnect_failed"] += 1
                if asyncio.get_running_loop().time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s * (0.5 + self._jitter()))
            pause_s = min(2 * pause_s, self._settings.reconnect_max_s)

    async def _connect(self) -> None:
        self._links_made += 1
        token = f"{self._birth}{self._links_made:08x}"
        link = MqttLink(self._address, self.station, self._topics, self._settings, token, self._tls, self._on_frame, self._on_confirmed)
        frames = [(topic, int(self._settings.qos)) for topic in self._topics.frame_filters]
        try:
            await link.open([*frames, *((topic, 1) for topic in self._topics.presence_filters)])
        except TransportError as error:
            raise unreachable(self.station.name, self._address, error) from error
        self._link = link
        self.counts["connected"] += 1
        self._announce(link)

    def _announce(self, link: MqttLink) -> None:
        self._put(Frame(self._topics.presence, presence(HERE, link.token), 1, True), first=True)

    async def _keep_connected(self) -> None:
        while self._link is not None:
            reason = await self._link.ended()
            self._on_disconnected()
            if self._failure is None:
                await self._reconnect(reason)

    def _on_disconnected(self) -> None:
        """What was not confirmed goes first when the connection is back: at least once, not at most once."""
        self.counts["disconnected"] += 1
        self._link = None
        again = [frame for frame in self._in_flight.values() if not frame.retain]
        self._in_flight.clear()
        self.counts["resent"] += len(again)
        self._outbox.extendleft(reversed(again))
        self._outbox_bytes += sum(len(frame.payload) for frame in again)
        self._moved.set()

    async def _reconnect(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._settings.outage_max_s
        pause_s = self._settings.reconnect_first_s
        while loop.time() < give_up_at:
            await asyncio.sleep(pause_s * (0.5 + self._jitter()))
            pause_s = min(2 * pause_s, self._settings.reconnect_max_s)
            try:
                await self._connect()
                return
            except TransportError as error:
                self.counts["reconnect_failed"] += 1
                reason = str(error)
        self._give_up(f"{self.station.name} gave up after {self._settings.outage_max_s:g} s without a broker: {reason}")

    def _give_up(self, reason: str) -> None:
        self._failure = TransportError(reason)
        self._inbox.close(self._failure)
        self._moved.set()

    async def _release(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._link = None
        self._inbox.close()
        self._moved.set()

    # -- frames that leave -------------------------------------------------------------------------------

    def _is_full(self, payload_bytes: int) -> bool:
        settings = self._settings
        if len(self._outbox) >= settings.outbox_frames_max:
            return True
        return bool(self._outbox) and self._outbox_bytes + payload_bytes > settings.outbox_bytes_max

    def _put(self, frame: Frame, *, first: bool = False) -> None:
        if first:
            self._outbox.appendleft(frame)
        else:
            self._outbox.append(frame)
        self._outbox_bytes += len(frame.payload)
        self._pump()

    def _drop_oldest(self) -> None:
        self._outbox_bytes -= len(self._outbox.popleft().payload)
        self.counts["outbox_dropped"] += 1

    def _pump(self) -> None:
        """Hand frames to paho while its window is open."""
        self._pumping = False
        while self._link is not None and self._outbox and len(self._in_flight) < self._settings.inflight_max:
            frame = self._outbox.popleft()
            self._outbox_bytes -= len(frame.payload)
            if len(frame.payload) > self.payload_bytes_max:  # queued under an earlier broker's higher limit
                self.counts["oversize"] += 1
                continue
            mid = self._link.publish_now(frame)
            if mid is None:
                self._outbox.appendleft(frame)
                self._outbox_bytes += len(frame.payload)
                return
            self._in_flight[mid] = frame
        self._moved.set()

    def _on_confirmed(self, mid: int, refused: bool) -> None:
        """QoS 0: written to the socket. QoS 1: the broker answered. Called inside paho, hence the pump waits for the loop's next turn."""
        frame = self._in_flight.pop(mid, None)
        if frame is not None and not frame.retain:
            self.counts["refused" if refused else "sent"] += 1
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def _flushed(self) -> None:
        while (self._outbox or self._in_flight) and self._link is not None:
            self._moved.clear()
            await self._moved.wait()

    # -- frames that come --------------------------------------------------------------------------------

    def _on_frame(self, link: MqttLink, message: MQTTMessage) -> None:
        if self._closing:
            return
        arrival = self._arrival(link, message)
        if arrival is None and not message.qos:
            return
        self.counts["received"] += isinstance(arrival, Delivery)
        self._inbox.put(arrival, _Receipt(link, message.mid, message.qos))
        if len(self._inbox) >= self._settings.inbox_frames_max:
            self.counts["reading_paused"] += link.reading
            link.pause()

    def _arrival(self, link: MqttLink, message: MQTTMessage) -> Arrival | None:
        topic = message.topic
        sender = self._topics.sender_of(topic)
        if sender is not None:
            return Delivery(sender, bytes(message.payload)) if sender != self.station.name else None
        peer = self._topics.peer_of(topic)
        if peer is None:
            self.counts["foreign"] += 1
            return None
        word, token = read_presence(bytes(message.payload))
        if peer == self.station.name:
            self._on_own_presence(link, word, token)
            return None
        return self._on_presence(peer, word, token)

    def _on_presence(self, peer: str, word: str, token: str) -> PeerLost | None:
        """Report the loss of the very connection that was announced before, and of no earlier one."""
        if word == HERE:
            if len(self._present) < PEERS_KNOWN_MAX or peer in self._present:
                self._present[peer] = token
            else:
                self.counts["peers_unknown"] += 1
        elif word == LOST and self._present.get(peer) == token:
            del self._present[peer]
            return PeerLost(peer)
        elif not word:
            self._present.pop(peer, None)
        return None

    def _on_own_presence(self, link: MqttLink, word: str, token: str) -> None:
        """A later namesake: give up. The end of an earlier one, which overwrote our announcement: announce again."""
        if word == HERE and token > link.token:
            self._give_up(f"another connection took over the name {self.station.name}")
            link.cut()
        elif token != link.token and link is self._link:
            self._announce(link)

    def _on_taken(self, receipt: _Receipt) -> None:
        receipt.link.acknowledge(receipt.mid, receipt.qos)
        if len(self._inbox) < self._settings.inbox_frames_max and receipt.link is self._link:
            receipt.link.resume()
