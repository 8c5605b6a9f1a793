"""All scaling of contributions, in one place: learning rate, weight, 1/K, and 1/P where there are probes.

It stands on the ground floor because two rooms that do not know each other need the very same rule: the aggregator, which commits,
and ``learning/reference.py``, the oracle. Nothing else in the package multiplies a projected gradient or a dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from struct import pack, unpack


def coefficients(projected_gradients: Sequence[float], *, learning_rate: float, weight: float, contributions: float) -> bytes:
    """Scale the P projected gradients of one step to the coefficients of its log term.

    ``c_p = learning_rate * weight * v_p / (contributions * P)``, evaluated in float64 from left to right, rounded once to
    float32 (half to even) and returned as little-endian bytes, 4 per probe.

    HO-SFL (arXiv:2603.14773, section 3) averages over K clients and P probes; FedBuff (arXiv:2106.06639) divides by the buffer
    size K and not by the sum of weights. ``contributions`` is that divisor.

    Raises ``OverflowError`` if a coefficient does not fit a finite float32.
    """
    probes = len(projected_gradients)
    divisor = contributions * probes
    scaled = [learning_rate * weight * value / divisor for value in projected_gradients]
    if not all(map(isfinite, scaled)):
        raise OverflowError("a scaled coefficient is not finite")
    return pack(f"<{probes}f", *scaled)


def scaled_gradient(gradient: bytes, *, learning_rate: float, weight: float, contributions: float) -> bytes:
    """Scale the dense gradient of one first-order step, little-endian float32 (d,), to the gradient of its log term.

    ``learning_rate * weight * g_i / contributions``, evaluated in float64 from left to right, rounded once to float32: the same rule
    without the probes. Raises ``OverflowError`` if an element does not fit a finite float32.
    """
    size = len(gradient) // 4
    scaled = [learning_rate * weight * value / contributions for value in unpack(f"<{size}f", gradient)]
    if not all(map(isfinite, scaled)):
        raise OverflowError("an element of a scaled gradient is not finite")
    return pack(f"<{size}f", *scaled)


def clipped(projected_gradients: Sequence[float], bound: float) -> tuple[float, ...]:
    """Each projected gradient brought into [-bound, bound]; ``bound`` may be infinite."""
    return tuple(min(max(value, -bound), bound) for value in projected_gradients)


def unpack_coefficients(packed: bytes) -> tuple[float, ...]:
    """The float32 coefficients of a term as Python floats (exact)."""
    return unpack(f"<{len(packed) // 4}f", packed)
