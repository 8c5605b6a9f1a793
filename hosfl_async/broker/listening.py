"""Listens to the telemetry of a run, or of all runs of a broker; says nothing, and has no presence that anybody could miss.

Reconnection is that of whoever watches: for ever, with growing pauses, until it is cancelled. What was said meanwhile is gone; every record
is whole, so the next one makes up for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from paho.mqtt.client import MQTTMessage

from hosfl_async.broker.address import TlsFiles, parse_broker_url, unreachable
from hosfl_async.broker.mqtt_link import MqttLink, birth
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.topics import check_name, telemetry_filter, telemetry_of
from hosfl_async.broker.transport import Station
from hosfl_async.errors import TransportError

Heard = Callable[[str, str, bytes], None]
"""Run, agent and record. Called in the loop's thread; be brief."""

EVERY_RUN = "every-run"
"""In the client identifier of whoever listens to all runs."""


class TelemetryListener:
    """``run`` None: every run. ``connected_since_s`` (``time.monotonic``) is None without a connection; then ``problem`` says why."""

    def __init__(
        self, url: str, run: str | None, name: str, heard: Heard, settings: BrokerSettings | None = None, tls: TlsFiles | None = None
    ) -> None:
        self._address = parse_broker_url(url)
        self._settings = settings or BrokerSettings()
        self._tls = (tls or TlsFiles()).context() if self._address.tls else None
        self._filter = telemetry_filter(run)
        self._station = Station(run=EVERY_RUN if run is None else run, name=check_name(name, "name"))
        self._heard = heard
        self.counts: dict[str, int] = Counter()
        self.connected_since_s: float | None = None
        self.problem = ""
        self.opened = asyncio.Event()
        """Set by the first connection."""

    def __str__(self) -> str:
        return str(self._address)

    async def run(self) -> None:
        """Listen until cancelled. Raises ``TransportError`` if the first attempt to connect fails; later ones are repeated."""
        jitter, pause_s = Random(self._station.name).random, 0.0
        token, links = birth(), 0
        while True:
            links += 1
            link = MqttLink(
                self._address, self._station, None, self._settings, f"{token}{links:08x}", self._tls, self._on_message, _on_confirmed
            )
            try:
                await link.open([(self._filter, 0)])
            except TransportError as problem:
                self.problem = str(problem)
                self.counts["connect_failed"] += 1
                if not self.counts["connected"]:
                    raise unreachable(self._station.name, self._address, problem) from problem
            else:
                pause_s = 0.0
                await self._until_lost(link)
            pause_s = min(2 * pause_s or self._settings.reconnect_first_s, self._settings.reconnect_max_s)
            await asyncio.sleep(pause_s * (0.5 + jitter()))

    async def _until_lost(self, link: MqttLink) -> None:
        self.counts["connected"] += 1
        self.connected_since_s = time.monotonic()
        self.opened.set()
        try:
            self.problem = await link.ended()
        finally:
            self.connected_since_s = None
            await link.close()

    def _on_message(self, link: MqttLink, message: MQTTMessage) -> None:
        named = telemetry_of(message.topic)
        if named is None or message.retain:  # what a broker kept is not what an agent says now
            self.counts["foreign"] += 1
            return
        self.counts["heard"] += 1
        self._heard(*named, bytes(message.payload))


def _on_confirmed(mid: int, refused: bool) -> None:
    """It publishes nothing."""
