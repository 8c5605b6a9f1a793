"""All scaling of contributions, in one place: learning rate, weight, 1/K, and 1/P where there are probes.

It stands on the ground floor because two rooms that do not know each other need the very same rule: the aggregator, which commits,
and ``learning/reference.py``, the oracle. Nothing else in the package multiplies a projected gradient or a dense one. numpy is here for
dense gradients, which have as many numbers as the client half; its operations are one IEEE operation an element, as Python's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import fsum, isnan
from struct import Struct, unpack

import numpy as np

FLOAT32_MAX = 3.4028234663852886e38


def coefficients(
    projected_gradients: Sequence[float], *, learning_rate: float, weight: float, contributions: float, bound: float = FLOAT32_MAX
) -> bytes:
    """Scale the P projected gradients of one step to the coefficients of its log term.

    ``c_p = learning_rate * weight * v_p / (contributions * P)``, evaluated in float64 from left to right, rounded once to
    float32 (half to even) and returned as little-endian bytes, 4 per probe.

    HO-SFL (arXiv:2603.14773, section 3) averages over K clients and P probes; FedBuff (arXiv:2106.06639) divides by the buffer
    size K and not by the sum of weights. ``contributions`` is that divisor.

    Raises ``OverflowError`` if a coefficient is not within +-``bound``, or does not fit a finite float32.
    """
    probes = len(projected_gradients)
    rate = learning_rate * weight
    divisor = contributions * probes
    scaled = [rate * value / divisor for value in projected_gradients]
    if not _all_within(scaled, bound):
        raise OverflowError(f"a scaled coefficient is not within +-{bound:g}")
    return _packing(probes).pack(*scaled)


def declined(learning_rate: float, final_share: float, done: float) -> float:
    """eta when the part ``done`` of a run, in [0, 1], is over: a straight line from ``learning_rate`` to ``final_share`` of it."""
    return learning_rate * (1.0 + (final_share - 1.0) * done)


def scaled_gradient(gradient: bytes, *, learning_rate: float, weight: float, contributions: float, bound: float = FLOAT32_MAX) -> bytes:
    """Scale the dense gradient of one first-order step, little-endian float32 (d,), to the gradient of its log term.

    ``learning_rate * weight * g_i / contributions``, evaluated in float64 from left to right, rounded once to float32: the same rule
    without the probes. Raises ``OverflowError`` if an element is not within +-``bound``, or does not fit a finite float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is beyond every bound
        scaled = np.multiply(np.frombuffer(gradient, "<f4"), learning_rate * weight, dtype=np.float64)
        scaled /= contributions
    if scaled.size and not (-bound <= scaled.min() and scaled.max() <= bound):  # neither compares if there is a NaN
        raise OverflowError(f"an element of a scaled gradient is not within +-{bound:g}")
    packed: bytes = scaled.astype("<f4").tobytes()
    return packed


@lru_cache(maxsize=16)
def _packing(size: int) -> Struct:
    return Struct(f"<{size}f")


def _all_within(values: list[float], bound: float) -> bool:
    """Whether each is a number within +-``bound``. The sum is there for what is not a number, which neither least nor greatest shows."""
    return not values or (-bound <= min(values) and max(values) <= bound and not isnan(sum(values)))


def clipped(projected_gradients: Sequence[float], bound: float) -> tuple[float, ...]:
    """Each projected gradient brought into [-bound, bound]; ``bound`` may be infinite."""
    return tuple(min(max(value, -bound), bound) for value in projected_gradients)


def combined(
    contributions: Sequence[tuple[float, Sequence[float]]], location: str, trim_share: float = 0.0
) -> tuple[float, tuple[float, ...]]:
    """One contribution made of several that probed the same directions (``per_version``): the sum of their weights, and for each probe
    where their projected gradients lie.

    ``mean``: weighted, sum(s_i v_i) / sum(s_i), as HO-SFL averages (arXiv:2603.14773, section 3). ``median`` and ``trimmed_mean``
    (Yin et al., arXiv:1803.01498), coordinate by coordinate, withstand arbitrary values of less than half, or less than ``trim_share`` at
    each end, of the clients; weights then count in the sum only. Two clients have no median but their mean. The order of
    ``contributions`` does not matter.
    """
    total = fsum(weight for weight, _ in contributions)
    columns = zip(*(values for _, values in contributions), strict=True)
    if location == "mean":
        shares = [weight / total for weight, _ in contributions]
        return total, tuple(fsum(share * value for share, value in zip(shares, column, strict=True)) for column in columns)
    count = len(contributions)
    cut = (count - 1) // 2 if location == "median" else min(int(count * trim_share), (count - 1) // 2)
    kept = (sorted(column)[cut : count - cut] for column in columns)
    return total, tuple(fsum(value / len(values) for value in values) for values in kept)


def unpack_coefficients(packed: bytes) -> tuple[float, ...]:
    """The float32 coefficients of a term as Python floats (exact)."""
    return unpack(f"<{len(packed) // 4}f", packed)
