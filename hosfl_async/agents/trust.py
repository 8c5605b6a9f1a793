"""Whose scalars count? Against lies of an ordinary size, a flipped sign above all, that no bound on single scalars sees.

With ``directions`` ``per_version`` everybody who steps from one base version probes the same P directions, so the vectors of their scalars
are estimates of gradients in one frame and can be compared, whatever entries they came to lie in. Honest gradients point the same way
in the mean, a flipped one the other way. One comparison says little (on digits a cosine has a standard deviation of 0.4, around 0.1 over
a whole run), many say enough. What is remembered of each device is its *score*, a mean decayed over its latest ``memory_observations`` or
so: the cosine of its vector with each other device's at the same base version, distrusted ones left out; and how sure that mean is.

What to ask of a score changes as training goes on: honest gradients agree more when there is much to learn, and cancel out late. So it is
held against the others: at each commit a device must reach ``agreement_min_share`` of the median score of the trusted devices that the
entry says something about. A device is *distrusted* when its score is ``distrust_deviations`` standard errors below that, after
``comparisons_min`` comparisons; what it contributes is then in the log with weight 0, and is compared all the while. It is trusted again
when its score is ``trust_deviations`` standard errors above. On digits flipped signs show after 20 comparisons or so, and noise, whose
score is 0, after a hundred. The distrusted are nobody's measure, and a median is not moved by less than half, so liars who agree among
themselves win nothing while they are fewer than the others; and at most ``distrusted_share_max`` of the devices that could be judged are
distrusted, whatever their scores. Cosines with peers over a history: FoolsGold (arXiv:1808.04866), which distrusts those who agree too
well; with one trusted reference: FLTrust (arXiv:2012.13995).

It learns at commits only, in the entry's canonical order, from scalars as clipped: the order of arrival within an entry leaves no trace.
All of it is soft state. The log holds combined scalars and cannot give it back, so after a restart everybody begins trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf, sqrt
from statistics import median
from typing import NamedTuple

from hosfl_async.agents.settings import TrustSettings

Vector = tuple[float, ...]

PEERS_MIN = 3
"""Devices of which an entry must say something before it is held against anybody."""


class Sighting(NamedTuple):
    """One contribution of an entry."""

    device: str
    base_version: int
    scalars: Vector


class Turn(NamedTuple):
    """A device that lost trust or won it back, and why."""

    device: str
    trusted: bool
    score: float
    wanted: float
    error: float
    """One standard error of the score."""
    comparisons: int


class _Mean:
    """A decayed mean, of how many, and how sure it is."""

    __slots__ = ("count", "total", "weight", "weight_squares")

    def __init__(self) -> None:
        self.total = self.weight = self.weight_squares = 0.0
        self.count = 0

    def add(self, value: float, decay: float) -> None:
        self.total = decay * self.total + value
        self.weight = decay * self.weight + 1.0
        self.weight_squares = decay * decay * self.weight_squares + 1.0
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.weight if self.count else 0.0

    def error(self, deviation: float) -> float:
        """The mean's standard error, of independent values with this standard deviation."""
        return deviation * sqrt(self.weight_squares) / self.weight if self.count else inf


class _Standing:
    __slots__ = ("distrusted", "known", "score")

    def __init__(self) -> None:
        self.score = _Mean()
        self.known = self.distrusted = False


class Trust:
    """The standing of every device that has contributed, and the unit vectors of the latest base versions."""

    __slots__ = ("_decay", "_distrusted", "_known", "_settings", "_squares", "_standings", "_vectors", "unkept")

    def __init__(self, settings: TrustSettings) -> None:
        self.unkept = 0
        """Vectors that were compared and not kept: their base version had its ``vectors_max``."""
        self._settings = settings
        self._decay = 1.0 - 1.0 / settings.memory_observations
        self._squares = _Mean()
        """Of the squared cosines of all pairs in which both are trusted."""
        self._standings: dict[str, _Standing] = {}
        self._vectors: dict[int, dict[str, Vector]] = {}
        """By base version and device, at most ``versions_max`` times ``vectors_max``."""
        self._known = self._distrusted = 0
        """Devices of which enough was seen to judge them, and those of them without trust."""

    def trusts(self, device: str) -> bool:
        """Whether what it contributes counts now."""
        standing = self._standings.get(device)
        return standing is None or not standing.distrusted

    def score(self, device: str) -> float:
        """Its decayed mean cosine, in [-1, 1]; 0 before the first comparison."""
        standing = self._standings.get(device)
        return standing.score.value if standing else 0.0

    @property
    def distrusted(self) -> int:
        """Devices without trust now."""
        return self._distrusted

    @property
    def vectors(self) -> int:
        """Vectors kept."""
        return sum(map(len, self._vectors.values()))

    def learn(self, entry: Sequence[Sighting]) -> list[Turn]:
        """What an entry holds, in canonical order. Returns who lost trust by it, and who won it back.

        All of the entry is compared by the trust there was before it.
        """
        touched: dict[str, _Standing] = {}
        for each in entry:
            standing = touched[each.device] = self._standings.setdefault(each.device, _Standing())
            if unit := _unit(each.scalars):
                self._compare(each.device, standing, self._vectors.setdefault(each.base_version, {}), unit, touched)
        while len(self._vectors) > self._settings.versions_max:
            del self._vectors[min(self._vectors)]
        self._known += sum(self._becomes_known(standing) for standing in touched.values())
        scores = [standing.score.value for standing in touched.values() if self._compared(standing) and not standing.distrusted]
        if len(scores) < PEERS_MIN:
            return []
        wanted = self._settings.agreement_min_share * median(scores)
        return [turn for device in sorted(touched) if (turn := self._judge(device, touched[device], wanted))]

    def _compare(self, device: str, standing: _Standing, peers: dict[str, Vector], unit: Vector, touched: dict[str, _Standing]) -> None:
        if device in peers:
            return  # one vector of each device: who sends more at one version has no more say
        kept = len(peers) < self._settings.vectors_max
        for name, other in peers.items():
            cosine, peer = fsum(map(float.__mul__, unit, other)), self._standings[name]
            if not peer.distrusted:
                standing.score.add(cosine, self._decay)
                if not standing.distrusted:
                    self._squares.add(cosine * cosine, self._decay)
            if kept and not standing.distrusted:  # a vector is compared at most vectors_max times, in however large a fleet
                peer.score.add(cosine, self._decay)
                touched[name] = peer
        if kept:
            peers[device] = unit
        else:
            self.unkept += 1

    def _compared(self, standing: _Standing) -> bool:
        return standing.score.count >= self._settings.comparisons_min

    def _becomes_known(self, standing: _Standing) -> bool:
        if standing.known or not self._compared(standing):
            return False
        standing.known = True
        return True

    def _judge(self, device: str, standing: _Standing, wanted: float) -> Turn | None:
        settings, score = self._settings, standing.score
        error = score.error(sqrt(self._squares.value))
        if standing.distrusted:
            turns = score.value - settings.trust_deviations * error > wanted
        else:
            disagrees = self._compared(standing) and score.value + settings.distrust_deviations * error < wanted
            turns = disagrees and self._distrusted + 1 <= settings.distrusted_share_max * self._known
        if not turns:
            return None
        standing.distrusted = not standing.distrusted
        self._distrusted += 1 if standing.distrusted else -1
        return Turn(device, not standing.distrusted, score.value, wanted, error, score.count)


def _unit(scalars: Sequence[float]) -> Vector:
    """Scaled to length 1; empty if it has no length. By the greatest first, so that no square is infinite."""
    greatest = max(map(abs, scalars), default=0.0)
    if not greatest:
        return ()
    scaled = [value / greatest for value in scalars]
    length = sqrt(fsum(value * value for value in scaled))
    return tuple(value / length for value in scaled)
