"""The buffer in front of the update log: K contributions become one entry (FedBuff, arXiv:2106.06639, algorithm 1).

The entry does not depend on the order of arrival: terms are sorted by step name, and each term is scaled on its own; with shared
directions, the contributions of each base version together. Scaling itself is ``scaling``'s; only the divisor is chosen here.
"""

from __future__ import annotations

from collections import defaultdict

from msgspec import Struct, structs

from hosfl_async.agents.device_share import batches_of_one
from hosfl_async.agents.settings import DENSE, AggregatorSettings
from hosfl_async.messages import StepId, Term
from hosfl_async.scaling import FLOAT32_MAX, coefficients, combined, scaled_gradient


class Contribution(Struct, frozen=True, gc=False):
    """One admitted step: what it gives, unscaled, its staleness in versions and the weight that follows from it.

    ``projected_gradients`` are P scalars; of a first-order client ``gradient`` is float32 (d,) instead.
    """

    step: StepId
    base_version: int
    projected_gradients: tuple[float, ...]
    staleness: int
    weight: float
    gradient: bytes = b""


class UpdateBuffer:
    """At most K contributions; ``drain`` turns them into the terms of one entry."""

    def __init__(self, settings: AggregatorSettings) -> None:
        self._settings = settings
        self.learning_rate = settings.learning_rate
        """eta of the entry that is being filled: to be set before its first contribution."""
        self._contributions: dict[StepId, Contribution] = {}
        self._devices: dict[str, int] = {}
        self._of_one_max = batches_of_one(settings.device_share_max, settings.buffer_contributions)
        self._by_size = settings.divide_by == "buffer_contributions"
        self._shared = settings.directions == "per_version" and settings.estimator not in DENSE
        self._scaled: dict[StepId, tuple[bytes, bytes]] = {}
        """By step what ``add`` has scaled to see whether it fits: by the divisor that ``drain`` uses too, unless that is the weights'."""

    def __len__(self) -> int:
        return len(self._contributions)

    @property
    def full(self) -> bool:
        return len(self._contributions) >= self._settings.buffer_contributions

    def has_share(self, device: str) -> bool:
        """Whether the device has as many contributions in here as it may have in one entry."""
        return self._devices.get(device, 0) >= self._of_one_max

    def add(self, contribution: Contribution) -> None:
        """Raises ``OverflowError`` if a coefficient would be beyond ``coefficient_max``, ``ValueError`` if it is full or has the step."""
        if self.full or contribution.step in self._contributions:
            raise ValueError(f"the buffer is full or holds {contribution.step} already")
        bound = self._settings.coefficient_max
        judged = contribution if contribution.weight else structs.replace(contribution, weight=1.0)
        scaled = self._scale(judged, self._divisor([judged]), bound)  # the largest that it can get: refuse now, not at commit
        step = contribution.step
        if self._shared:
            self._check_sum(contribution)
        elif self._by_size:
            self._scaled[step] = scaled
        self._contributions[step] = contribution
        device = step.client
        self._devices[device] = self._devices.get(device, 0) + 1

    def drain(self) -> tuple[list[Contribution], tuple[Term, ...]]:
        """Empty the buffer: its contributions in canonical order, and the terms made of them."""
        ordered = sorted(self._contributions.values(), key=lambda contribution: contribution.step)
        divisor = self._divisor(ordered)
        self._contributions.clear()
        self._devices.clear()
        if self._shared:
            return ordered, self._shared_terms(ordered, divisor)
        scaled, self._scaled = self._scaled, {}
        return ordered, tuple(Term(one.step, one.base_version, *self._own_terms(one, scaled, divisor)) for one in ordered)

    def _own_terms(self, one: Contribution, scaled: dict[StepId, tuple[bytes, bytes]], divisor: float) -> tuple[bytes, bytes]:
        """Coefficients and gradient of a contribution that is combined with no other; what weighs nothing has neither."""
        return (scaled.get(one.step) or self._scale(one, divisor)) if one.weight else (b"", b"")

    def _shared_terms(self, ordered: list[Contribution], divisor: float) -> tuple[Term, ...]:
        """Steps of one base version probed the same directions: the first of them carries the coefficients of all, the others none.

        Those of weight 0 are not among those that are combined: a median would count them.
        """
        settings, together = self._settings, defaultdict[int, list[Contribution]](list)
        for one in ordered:
            together[one.base_version].append(one)
        packed = {}
        for group in together.values():
            counted = [one for one in group if one.weight]
            if not counted:
                continue
            weighed = [(one.weight, one.projected_gradients) for one in counted]
            weight, values = combined(weighed, settings.location, settings.trim_share)
            packed[counted[0].step] = coefficients(values, learning_rate=self.learning_rate, weight=weight, contributions=divisor)
        return tuple(Term(one.step, one.base_version, packed.get(one.step, b"")) for one in ordered)

    def _check_sum(self, contribution: Contribution) -> None:
        """Combined, K contributions may add up; each must leave room for K of its size and of the greatest weight there is."""
        settings = self._settings
        greatest = settings.buffer_contributions * max(1.0, settings.participation.boost_max)
        coefficients(contribution.projected_gradients, learning_rate=self.learning_rate, weight=greatest, contributions=1.0)

    def _divisor(self, contributions: list[Contribution]) -> float:
        if self._by_size:
            return float(self._settings.buffer_contributions)
        return sum(one.weight for one in contributions)

    def _scale(self, contribution: Contribution, divisor: float, bound: float = FLOAT32_MAX) -> tuple[bytes, bytes]:
        """Coefficients and gradient of the term; one of them is empty. Raises ``OverflowError`` for one beyond ``bound``."""
        rate, weight = self.learning_rate, contribution.weight
        if contribution.gradient:
            return b"", scaled_gradient(contribution.gradient, learning_rate=rate, weight=weight, contributions=divisor, bound=bound)
        scalars = contribution.projected_gradients
        return coefficients(scalars, learning_rate=rate, weight=weight, contributions=divisor, bound=bound), b""
