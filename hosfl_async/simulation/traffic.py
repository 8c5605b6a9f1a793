"""Messages under way: encoded when sent, carried by a link, decoded or checked when delivered. Every fate is counted and noted.

A message is encoded whenever it is sent, for its size is what links carry and reports count. Its bytes are decoded when it is delivered for
the first ``DECODED_FIRST`` of each kind, and for one in so many after that; otherwise the recipient gets the message as it was sent, which
cannot change, after the same checks (``Decoder.check``). That is what decoding would give as long as agents send what their types say; a
world with ``validate`` decodes everything and breaks off if anything comes out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hosfl_async.agent import Event, Received, Send
from hosfl_async.codec import encode
from hosfl_async.errors import AgentError, CodecError
from hosfl_async.messages import AGGREGATOR, CLIENTS
from hosfl_async.simulation.faults import Weather
from hosfl_async.simulation.journal import Journal
from hosfl_async.simulation.network import Network
from hosfl_async.simulation.node import Node
from hosfl_async.simulation.outcome import Line, Tally
from hosfl_async.simulation.timeline import Timeline

DECODED_FIRST = 64

Parcel = tuple[str, bytes | None, Any, int, Line]
"""Sender, the bytes if they will be decoded, the message, its size, and the line of its kind."""


class Traffic:
    """Carries messages between ``nodes``, and feeds what arrives to their agents."""

    __slots__ = (
        "_counts", "_decode_all", "_delivers", "_feed", "_hands_over", "_lines", "_message_s", "_network", "_nodes", "_note", "_ready_s",
        "_tally",
        "_timeline", "_weather",
    )  # fmt: skip

    def __init__(
        self,
        nodes: Mapping[str, Node],
        timeline: Timeline,
        network: Network,
        journal: Journal,
        tally: Tally,
        feed: Callable[[Node, Event], None],
        weather: Weather,
        aggregator_message_s: float,
        *,
        decode_all: bool = False,
    ) -> None:
        self._nodes, self._timeline, self._network, self._note, self._tally, self._feed = (
            nodes,
            timeline,
            network,
            journal.note,
            tally,
            feed,
        )
        self._counts, self._lines, self._weather = tally.counts, tally.lines, weather
        self._hands_over = self._hand_over
        self._delivers = self._deliver if aggregator_message_s else self._hand_over
        self._message_s = aggregator_message_s
        self._ready_s = 0.0
        self._decode_all = decode_all

    def send(self, node: Node, effect: Send) -> None:
        """To one agent, or a copy to each client that is present. Raises ``AgentError`` if nobody has that name."""
        message = effect.message
        if not self._weather.calm:
            message = self._weather.liars.twisted(node.name, message)
            if message is None:
                self._counts["silenced"] += 1
                return
        payload = encode(node.name, message)
        if effect.recipient == CLIENTS:
            for other in self._nodes.values():
                if other.group is not None and other.present and other is not node:
                    self._carry(node, other, message, payload)
            return
        recipient = self._nodes.get(effect.recipient)
        if recipient is None:
            raise AgentError(f"{node.name} sends {type(message).__name__} to {effect.recipient!r}, and nobody is called so")
        self._carry(node, recipient, message, payload)

    def _carry(self, sender: Node, recipient: Node, message: Any, payload: bytes) -> None:
        size, now_s = len(payload), self._timeline.now_s
        line = self._lines.get(type(message)) or self._tally.line(type(message))
        line.sent(message, size)
        kind, step = line.kind, message.step if line.names_step else None
        self._note((now_s, sender.name, "sent", kind, step, recipient.name, size))
        link = sender.uplink if sender.group is not None or recipient.downlink is None else recipient.downlink
        if self._weather.fair:
            arrivals_s = self._network.transmit(link, now_s, size)
        elif self._weather.cuts(sender.name, recipient.name):
            arrivals_s = ()
            self._lose(1)
        else:
            arrivals_s = self._network.transmit(link, now_s, size, *self._weather.clogs(sender.name, recipient.name))
        if len(arrivals_s) != 1:
            fate = "duplicated" if arrivals_s else "lost"
            self._note((now_s, recipient.name, fate, kind, step, sender.name, size))
        if line.messages > DECODED_FIRST and line.messages % DECODED_FIRST and not self._decode_all:
            parcel: Parcel = (sender.name, None, message, size, line)
        else:
            parcel = (sender.name, payload, message, size, line)
        for arrival_s in arrivals_s:
            self._timeline.schedule(arrival_s, self._delivers, recipient, parcel)

    def under_way(self) -> int:
        """Copies of messages that have left and have not been handed over yet."""
        return self._timeline.count(self._delivers, self._hands_over)

    def lose_all(self) -> None:
        """The broker is gone, and with it what was under way."""
        self._lose(self._timeline.withdraw(self._delivers))

    def _lose(self, messages: int) -> None:
        self._network.counts["lost"] += messages
        self._counts["cut"] += messages

    def _deliver(self, node: Node, parcel: Parcel) -> None:
        """A message arrives where the aggregator takes its time: there it waits for those before it."""
        if node.name == AGGREGATOR and node.present:
            self._ready_s = max(self._timeline.now_s, self._ready_s) + self._message_s
            self._timeline.schedule(self._ready_s, self._hands_over, node, parcel)
        else:
            self._hand_over(node, parcel)

    def _hand_over(self, node: Node, parcel: Parcel) -> None:
        sender, payload, message, size, line = parcel
        fate = "missed"
        if node.agent is not None and not node.away:
            try:
                if payload is None:
                    node.decoder.check(message, size)
                else:
                    message = self._decoded(node, payload, message)
                fate = "delivered"
            except CodecError:
                fate = "refused"
        self._counts[fate] += 1
        self._note((self._timeline.now_s, node.name, fate, line.kind, message.step if line.names_step else None, sender, size))
        if fate == "delivered":
            self._feed(node, Received(sender, message))

    def _decoded(self, node: Node, payload: bytes, sent: Any) -> Any:
        sender, message = node.decoder.decode(payload)
        if self._decode_all and (message != sent or encode(sender, message) != payload):
            raise AgentError(f"{sender} sent what its type does not say: {sent!r} is decoded as {message!r}")
        return message
