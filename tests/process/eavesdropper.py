"""Listens to everything that the agents of a run say to each other over the broker: what was really sent, whoever dies.

The agents' own journals die with them; this one is the judge's. It misses what passes while the broker is down, and nothing passes then.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Any

import paho.mqtt.client as mqtt

from hosfl_async.codec import Decoder, Reassembler
from hosfl_async.errors import CodecError
from hosfl_async.messages import AGGREGATOR, Accepted, AggregatorInbox, EdgeClientInbox, ProjectedGradients, Refused, StepId


class Eavesdropper:
    """A context manager; whoever stops the broker disconnects it before and connects it after.

    ``accepted``: step -> the versions it was said to be in. ``refused``: step -> reasons. ``contributed``: step -> the different bytes it
    was sent as.
    """

    def __init__(self, port: int, run: str) -> None:
        self.accepted: dict[StepId, set[int]] = defaultdict(set)
        self.refused: dict[StepId, set[str]] = defaultdict(set)
        self.contributed: dict[StepId, set[bytes]] = defaultdict(set)
        self.kinds: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self._topics = [(f"hosfl/{run}/to/+/from/{AGGREGATOR}", 0), (f"hosfl/{run}/to/{AGGREGATOR}/from/+", 0)]
        self._decoders = {True: Decoder(EdgeClientInbox), False: Decoder(AggregatorInbox)}
        self._pieces = Reassembler()
        self._port = port
        self._client: mqtt.Client | None = None

    def __enter__(self) -> Eavesdropper:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def connect(self) -> None:
        """Begin to listen, or begin again with a broker that was started again; returns when it listens."""
        here = threading.Event()
        client = self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_subscribe = lambda *_: here.set()
        client.on_message = self._on_message
        client.connect("127.0.0.1", self._port)
        client.subscribe(self._topics)
        client.loop_start()
        assert here.wait(60), "the eavesdropper cannot connect"

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _on_message(self, _client: mqtt.Client, _data: object, frame: mqtt.MQTTMessage) -> None:
        try:
            payload = self._pieces.offer(frame.topic, frame.payload)
            if payload is None:
                return
            _, message = self._decoders[frame.topic.endswith(f"/{AGGREGATOR}")].decode(payload)
        except CodecError as problem:
            self.unreadable.append(f"{frame.topic}: {problem}")
            return
        self._note(message, payload)

    def _note(self, message: Any, payload: bytes) -> None:
        self.kinds[type(message).__name__] += 1
        match message:
            case Accepted():
                self.accepted[message.step].add(message.version)
            case Refused():
                self.refused[message.step].add(message.reason)
            case ProjectedGradients():
                self.contributed[message.step].add(payload)
