"""Links: which messages arrive, how often, and when.

A client has two links, one up and one down, as a device has one connection to its broker; the two services share a fast link.
A link is a first-in first-out pipe: it is busy while it transmits, then the message travels for the latency. A message may get
lost (after it was transmitted: loss does not make a link faster), be held back so that later ones overtake it, or arrive twice.

The devices of a group may share a bottleneck (a cell, a satellite beam, a gateway): a message reserves it when it is sent, in the order
of sending, then its own link. Loss may come in bursts: a two-state chain that moves with every message of the link (Gilbert 1960, Elliott
1963). All that the links of a group have in common is one ``LinkKind``.

Every fate is a pure function of (seed, link, number of the message on that link), see ``draws``.
"""

from __future__ import annotations

from hosfl_async.simulation.draws import log_normal, stream_key, uniform
from hosfl_async.simulation.profiles import NETWORKS
from hosfl_async.simulation.settings import FleetGroup, NetworkSettings

_LOST, _LATENCY, _HELD, _HELD_FOR, _TWICE, _TWICE_AFTER, _DRAWS = range(7)
"""What the draws of one message decide. Each has its own index, so that changing one setting leaves the other fates as they were."""


_CHAIN = 0x6A09E667F3BCC908
_SPREAD = 0xBB67AE8584CAA73B
"""Turn a link's key into those of its burst chain and of its latency factors: streams of their own, so that the others stay."""


class LinkKind:
    """What all links of one group in one direction have in common, and what was sent over them."""

    __slots__ = (
        "bottleneck_bytes_per_s", "bottleneck_ready_s", "bytes", "bytes_per_s", "faulty", "jitter_s", "joules_per_byte", "latency_s",
        "loss", "sigma",
    )  # fmt: skip

    def __init__(
        self,
        *,
        latency_s: float,
        sigma: float = 0.0,
        jitter_s: float = 0.0,
        bytes_per_s: float = 0.0,
        loss: float = 0.0,
        faulty: bool = True,
        bottleneck_bytes_per_s: float = 0.0,
        joules_per_byte: float = 0.0,
    ) -> None:
        self.latency_s, self.sigma, self.jitter_s, self.bytes_per_s = latency_s, sigma, jitter_s, bytes_per_s
        self.loss, self.faulty, self.joules_per_byte = loss, faulty, joules_per_byte
        self.bottleneck_bytes_per_s = bottleneck_bytes_per_s
        self.bottleneck_ready_s = 0.0
        self.bytes = 0


class Link:
    """One direction of one connection: its key, how many messages it has taken, until when it is busy, whether it is in a burst of loss."""

    __slots__ = ("bursting", "key", "kind", "latest_arrival_s", "messages", "ready_s")

    def __init__(self, key: int, kind: LinkKind) -> None:
        self.key, self.kind = key, kind
        self.bursting = False
        self.messages = 0
        self.ready_s = 0.0
        self.latest_arrival_s = 0.0


class Network:
    """Makes links and decides the fate of what is sent over them. ``counts`` holds lost, duplicated and reordered messages."""

    def __init__(self, settings: NetworkSettings, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self.counts = {"lost": 0, "duplicated": 0, "reordered": 0}
        self._kinds: dict[tuple[int, bool], LinkKind] = {}
        self._groups: list[FleetGroup] = []  # keeps the ids alive that name their kinds
        self._between_services = LinkKind(latency_s=settings.service_latency_s, loss=settings.loss, faulty=settings.service_faults)

    def uplink(self, client: str, group: FleetGroup | None = None) -> Link:
        """A new link from ``client`` to the services."""
        return Link(stream_key(self._seed, "link", client, "up"), self._kind(group, up=True))

    def downlink(self, client: str, group: FleetGroup | None = None) -> Link:
        """A new link from the services to ``client``."""
        return Link(stream_key(self._seed, "link", client, "down"), self._kind(group, up=False))

    def service_link(self, service: str) -> Link:
        """A new link from ``service`` to the other services."""
        return Link(stream_key(self._seed, "link", service, "services"), self._between_services)

    def joules(self) -> float:
        """Energy that the clients' radios have taken, for everything sent to and from them."""
        return sum(kind.bytes * kind.joules_per_byte for kind in self._kinds.values())

    def _kind(self, group: FleetGroup | None, *, up: bool) -> LinkKind:
        """One for each group, even if two groups are alike: they do not share a bottleneck."""
        kind = self._kinds.get((id(group), up))
        if kind is None:
            kind = self._kinds[id(group), up] = self._new_kind(group or FleetGroup(), up=up)
            if group is not None:
                self._groups.append(group)
        return kind

    def _new_kind(self, group: FleetGroup, *, up: bool) -> LinkKind:
        s, profile = self._settings, NETWORKS.get(group.network)
        bottleneck = group.shared_uplink_bytes_per_s if up else group.shared_downlink_bytes_per_s
        if profile is None:
            return LinkKind(
                latency_s=s.latency_s,
                sigma=s.latency_sigma,
                jitter_s=s.latency_jitter_s,
                bytes_per_s=s.uplink_bytes_per_s if up else s.downlink_bytes_per_s,
                loss=s.loss,
                bottleneck_bytes_per_s=bottleneck,
                joules_per_byte=s.uplink_joules_per_byte if up else s.downlink_joules_per_byte,
            )
        return LinkKind(
            latency_s=profile.latency_s,
            sigma=profile.latency_sigma,
            bytes_per_s=profile.uplink_bytes_per_s if up else profile.downlink_bytes_per_s,
            loss=1 - (1 - s.loss) * (1 - profile.loss),
            bottleneck_bytes_per_s=bottleneck,
            joules_per_byte=profile.uplink_joules_per_byte if up else profile.downlink_joules_per_byte,
        )

    def transmit(self, link: Link, now_s: float, payload_bytes: int, slower: float = 1.0, farther: float = 1.0) -> tuple[float, ...]:
        """Send one message of ``payload_bytes`` at ``now_s``: the times of its arrivals, in no order; empty if it is lost.

        ``slower`` and ``farther`` are what a clog does to bandwidth and latency just now.
        """
        s, kind = self._settings, link.kind
        number = link.messages
        draw = number * _DRAWS
        link.messages += 1
        kind.bytes += payload_bytes
        if kind.bottleneck_bytes_per_s or kind.bytes_per_s:
            now_s = self._sent_s(link, now_s, payload_bytes * slower)
        arrival_s = now_s + self._latency_s(link, number) * farther
        if not kind.faulty:
            if arrival_s < link.latest_arrival_s:
                arrival_s = link.latest_arrival_s
            link.latest_arrival_s = arrival_s
            return (arrival_s,)
        if (kind.loss and uniform(link.key, draw + _LOST) < kind.loss) or (s.burst_begin and self._lost_in_burst(link, number)):
            self.counts["lost"] += 1
            return ()
        if arrival_s < link.latest_arrival_s:
            arrival_s = link.latest_arrival_s
        if s.reordering and uniform(link.key, draw + _HELD) < s.reordering:
            self.counts["reordered"] += 1
            arrival_s += s.reordering_delay_s * uniform(link.key, draw + _HELD_FOR)
        else:
            link.latest_arrival_s = arrival_s
        if s.duplication and uniform(link.key, draw + _TWICE) < s.duplication:
            self.counts["duplicated"] += 1
            return (arrival_s, arrival_s + s.reordering_delay_s * uniform(link.key, draw + _TWICE_AFTER))
        return (arrival_s,)

    def _sent_s(self, link: Link, now_s: float, payload_bytes: float) -> float:
        """When the last byte has left: through the shared bottleneck, then over the link."""
        kind = link.kind
        if kind.bottleneck_bytes_per_s:
            kind.bottleneck_ready_s = now_s = max(now_s, kind.bottleneck_ready_s) + payload_bytes / kind.bottleneck_bytes_per_s
        if kind.bytes_per_s:
            if now_s < link.ready_s:
                now_s = link.ready_s
            link.ready_s = now_s = now_s + payload_bytes / kind.bytes_per_s
        return now_s

    def _latency_s(self, link: Link, number: int) -> float:
        kind = link.kind
        latency_s = kind.latency_s
        if kind.sigma:
            latency_s *= log_normal(link.key ^ _SPREAD, number, kind.sigma)
        if kind.jitter_s:
            latency_s += kind.jitter_s * uniform(link.key, number * _DRAWS + _LATENCY)
        return latency_s

    def _lost_in_burst(self, link: Link, number: int) -> bool:
        """Move the link's two-state chain by one message, and draw in its state."""
        s, key = self._settings, link.key ^ _CHAIN
        moves = uniform(key, 2 * number) < (s.burst_end if link.bursting else s.burst_begin)
        link.bursting ^= moves
        return link.bursting and uniform(key, 2 * number + 1) < s.burst_loss

    def transit_s(self, link: Link, payload_bytes: int) -> float:
        """How long a lone message would take: the live host's modelled delay. Neither queueing nor faults; draws its latency."""
        kind = link.kind
        transit_s = self._latency_s(link, link.messages)
        for bytes_per_s in (kind.bytes_per_s, kind.bottleneck_bytes_per_s):
            if bytes_per_s:
                transit_s += payload_bytes / bytes_per_s
        link.messages += 1
        kind.bytes += payload_bytes
        return transit_s
