"""What a transport is, and what it promises: bytes between agent names, nothing else.

A transport knows no message kinds. It is the connection of one agent, its *station*, to everybody else in the same run. The promises,
each of them held to by ``broker/contract.py``:

1. **Owned connection.** ``async with`` opens it and closes it. Opening fails with ``TransportError``, later losses are mended inside
   (reconnection with growing pauses) until ``outage_max_s`` is over; then ``send`` and ``received`` raise ``TransportError``.
2. **Lossy in principle.** A frame may vanish, come twice or overtake another, above all around a reconnection. Only the agents' own
   acknowledgements mean anything, so a transport never pretends: it promises *nothing silent* instead. Whatever it drops, repeats or
   refuses is in ``counts``.
3. **Sender's name.** ``Delivery.sender`` is the name under which the sender's own transport was opened. With a broker that has an access
   list it is proved; without one it is believed.
4. **Size.** ``send`` refuses a payload above ``payload_bytes_max`` with ``OversizeError`` before anything is sent, since a broker answers
   such a frame by closing the connection, again and again.
5. **Outbox.** ``send`` returns when the frame is in the bounded outbox. Connected and full: ``send`` waits. Disconnected and full: the
   *oldest* frame is dropped and counted, because agents repeat what was not answered and the newest word is the best one.
6. **Back-pressure.** At most ``inbox_frames_max`` frames wait here for the agent. Then nothing more is read, so the broker keeps the rest
   as far as its own bounds go. Nothing is acknowledged before the agent took it, and nothing acknowledged is dropped.
7. **Groups.** A frame to a group name reaches each present member of that group but its sender.
8. **Loss of peers.** If a watched peer's connection ends without a farewell, ``PeerLost`` follows. It is a hint: the peer may be back
   already. A farewell (leaving ``async with``) raises none.
9. **One station, one connection.** A later connection under the same name takes over; the earlier one gives up with ``TransportError``.
10. **Telemetry never waits.** ``tell`` says something to whoever watches the run. It never waits, queues or raises for a broker that is
   not there, and goes behind every frame: with anything in the outbox, or above ``payload_bytes_max``, it is dropped
   and counted.
11. **Runs are apart.** Nothing crosses from one run to another, though both use one broker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

ANYONE = "+"
"""In ``Station.watches``: every peer of the run."""


class Station(Struct, frozen=True, kw_only=True):
    """Who speaks: a name in a run, the groups it listens to, and the peers whose loss it wants to hear of."""

    run: str
    name: str
    groups: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()


class Delivery(Struct, frozen=True, gc=False):
    """One frame as it arrived."""

    sender: str
    payload: bytes


class PeerLost(Struct, frozen=True, gc=False):
    """A watched peer's connection ended without a farewell."""

    name: str


Arrival = Delivery | PeerLost


class Transport(Protocol):
    """The connection of one station. See the module's text for its promises."""

    station: Station
    counts: dict[str, int]
    """What happened, by name: ``sent``, ``received`` and everything dropped, refused, repeated or mended."""

    @property
    def payload_bytes_max(self) -> int:
        """Largest payload that ``send`` takes now; a broker may lower it below the setting when it is connected."""

    @property
    def backlog(self) -> int:
        """Frames received and not yet taken by the agent."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None: ...

    async def send(self, recipient: str, payload: bytes) -> None:
        """Put one frame into the outbox for an agent or a group. Raises ``OversizeError``, or ``TransportError`` once it has given up."""

    def tell(self, telemetry: bytes) -> bool:
        """Say one telemetry record now or never: True if it left. ``telemetry_told`` and ``telemetry_dropped`` in ``counts``."""

    def received(self) -> AsyncIterator[Arrival]:
        """Arrivals, one consumer at a time. Asking for the next one says that the last one was taken. Ends when the transport closes."""

    async def abort(self) -> None:
        """End as a crash would: no farewell, nothing flushed. For tests and for hosts that play a crash."""
