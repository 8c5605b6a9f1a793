"""Links: which messages arrive, how often, and when.

A client has two links, one up and one down, as a device has one connection to its broker; the two services share a fast link.
A link is a first-in first-out pipe: it is busy while it transmits, then the message travels for the latency. A message may get
lost (after it was transmitted: loss does not make a link faster), be held back so that later ones overtake it, or arrive twice.

Every fate is a pure function of (seed, link, number of the message on that link), see ``draws``.
"""

from __future__ import annotations

from hosfl_async.simulation.draws import stream_key, uniform
from hosfl_async.simulation.settings import NetworkSettings

_LOST, _LATENCY, _HELD, _HELD_FOR, _TWICE, _TWICE_AFTER, _DRAWS = range(7)
"""What the draws of one message decide. Each has its own index, so that changing one setting leaves the other fates as they were."""


class Link:
    """One direction of one connection: its key, how many messages it has taken, until when it is busy."""

    __slots__ = ("bytes_per_s", "faulty", "jitter_s", "key", "latency_s", "latest_arrival_s", "messages", "ready_s")

    def __init__(self, key: int, *, latency_s: float, jitter_s: float = 0.0, bytes_per_s: float = 0.0, faulty: bool = True) -> None:
        self.key, self.latency_s, self.jitter_s, self.bytes_per_s, self.faulty = key, latency_s, jitter_s, bytes_per_s, faulty
        self.messages = 0
        self.ready_s = 0.0
        self.latest_arrival_s = 0.0


class Network:
    """Makes links and decides the fate of what is sent over them. ``counts`` holds lost, duplicated and reordered messages."""

    def __init__(self, settings: NetworkSettings, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self.counts = {"lost": 0, "duplicated": 0, "reordered": 0}

    def uplink(self, client: str) -> Link:
        """A new link from ``client`` to the services."""
        s = self._settings
        key = stream_key(self._seed, "link", client, "up")
        return Link(key, latency_s=s.latency_s, jitter_s=s.latency_jitter_s, bytes_per_s=s.uplink_bytes_per_s)

    def downlink(self, client: str) -> Link:
        """A new link from the services to ``client``."""
        s = self._settings
        key = stream_key(self._seed, "link", client, "down")
        return Link(key, latency_s=s.latency_s, jitter_s=s.latency_jitter_s, bytes_per_s=s.downlink_bytes_per_s)

    def service_link(self, service: str) -> Link:
        """A new link from ``service`` to the other services."""
        key = stream_key(self._seed, "link", service, "services")
        return Link(key, latency_s=self._settings.service_latency_s, faulty=self._settings.service_faults)

    def transmit(self, link: Link, now_s: float, payload_bytes: int) -> tuple[float, ...]:
        """Send one message of ``payload_bytes`` at ``now_s``: the times of its arrivals, in no order; empty if it is lost."""
        s = self._settings
        draw = link.messages * _DRAWS
        link.messages += 1
        arrival_s = now_s
        if link.bytes_per_s:
            link.ready_s = arrival_s = max(now_s, link.ready_s) + payload_bytes / link.bytes_per_s
        arrival_s += link.latency_s
        if link.jitter_s:
            arrival_s += link.jitter_s * uniform(link.key, draw + _LATENCY)
        if not link.faulty:
            link.latest_arrival_s = arrival_s = max(arrival_s, link.latest_arrival_s)
            return (arrival_s,)
        if s.loss and uniform(link.key, draw + _LOST) < s.loss:
            self.counts["lost"] += 1
            return ()
        arrival_s = max(arrival_s, link.latest_arrival_s)
        if s.reordering and uniform(link.key, draw + _HELD) < s.reordering:
            self.counts["reordered"] += 1
            arrival_s += s.reordering_delay_s * uniform(link.key, draw + _HELD_FOR)
        else:
            link.latest_arrival_s = arrival_s
        if s.duplication and uniform(link.key, draw + _TWICE) < s.duplication:
            self.counts["duplicated"] += 1
            return (arrival_s, arrival_s + s.reordering_delay_s * uniform(link.key, draw + _TWICE_AFTER))
        return (arrival_s,)

    def transit_s(self, link: Link, payload_bytes: int) -> float:
        """How long a lone message would take: the live host's modelled delay. Neither queueing nor faults; draws its latency."""
        transit_s = link.latency_s
        if link.bytes_per_s:
            transit_s += payload_bytes / link.bytes_per_s
        if link.jitter_s:
            transit_s += link.jitter_s * uniform(link.key, link.messages * _DRAWS + _LATENCY)
        link.messages += 1
        return transit_s
