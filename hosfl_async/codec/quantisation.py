"""Numbers in fewer bits: bfloat16, int8 and int4, by unbiased stochastic rounding. Pure numpy.

Activations and duals are nearly all of HO-SFL's traffic (arXiv:2603.14773, section 4: scalars are noise beside them), and a step learns
from their mean effect, not from their last bits. So they are rounded *at random*, up or down in proportion to the distance, and the mean
of what arrives is what was sent (QSGD, arXiv:1610.02132). A quantised tensor describes itself: dtype, shape, data, scales.

* ``int8``, ``int4``: x = q s with the *absmax scale* s = max|x| / levels, 127 or 7 levels on each side. Zero stays zero, the largest
  value stays itself up to float32 rounding, and no value moves by as much as s.
* ``bfloat16``: the upper half of a float32's bits, the lower half being added up at random. No value moves by as much as 2^-7 of itself.

One scale serves the whole tensor, or one each sample (row). The draws are the caller's: raw 64-bit words from a named key, so that a
retry is the same bytes. What is not finite stays so (as a scale that is not a number), and is refused on arrival like any other.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hosfl_async.messages import CutDtype, Tensor

Numbers = NDArray[np.float32]
Words = NDArray[np.uint64]

LEVELS = {"int8": 127, "int4": 7}
"""Largest code of each integer dtype; the lowest one of two's complement is never written."""

_FINITE_MAX_BITS = np.uint32(0x7F7FFFFF)
_FINITE_MAX = float(np.finfo(np.float32).max)
_SIGN_BIT = np.uint32(0x80000000)


def words_needed(dtype: CutDtype, elements: int) -> int:
    """64-bit words of randomness that ``quantise`` takes: 16 bits an element for bfloat16, 32 for the integers."""
    per_word = {"float32": 0, "bfloat16": 4, "int8": 2, "int4": 2}[dtype]
    return -(-elements // per_word) if per_word else 0


def quantise(array: Numbers, dtype: CutDtype, words: Words, *, per_sample: bool = False) -> Tensor:
    """A float32 array as data of ``dtype``, rounded by the draws in ``words``, (``words_needed(dtype, array.size)``,).

    ``per_sample``: one scale for each index of the first dimension, instead of one for all.
    """
    draws = words.astype("<u8", copy=False)
    match dtype:
        case "float32":
            return Tensor("float32", array.shape, array.astype("<f4", copy=False).tobytes())
        case "bfloat16":
            return Tensor("bfloat16", array.shape, _to_bfloat16(array, draws.view("<u2")[: array.size]))
        case "int8" | "int4":
            codes, scales = _to_codes(array, LEVELS[dtype], draws.view("<u4")[: array.size], per_sample)
            data = codes.tobytes() if dtype == "int8" else _pack_nibbles(codes)
            return Tensor(dtype, array.shape, data, scales.astype("<f4").tobytes())


def dequantise(tensor: Tensor) -> Numbers:
    """The float32 numbers that ``tensor`` stands for, in its shape. Lengths must have been checked (``codec.soundness``)."""
    match tensor.dtype:
        case "bfloat16":
            flat = (np.frombuffer(tensor.data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        case "int8":
            flat = _scaled(np.frombuffer(tensor.data, np.int8), tensor)
        case "int4":
            flat = _scaled(_unpack_nibbles(tensor.data, prod(tensor.shape)), tensor)
        case _:
            flat = np.frombuffer(tensor.data, "<f4")
    return flat.reshape(tensor.shape)


def _to_bfloat16(array: Numbers, draws: NDArray[np.uint16]) -> bytes:
    """Within a binade the bits count evenly, so adding 16 random bits below the cut rounds up with exactly the right chance."""
    bits = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)
    magnitude = bits & ~_SIGN_BIT
    rounded = np.where(magnitude <= _FINITE_MAX_BITS, np.minimum(magnitude + draws, _FINITE_MAX_BITS), magnitude | np.uint32(0x10000))
    upper: NDArray[np.uint16] = ((rounded | (bits & _SIGN_BIT)) >> np.uint32(16)).astype("<u2")
    return upper.tobytes()


def _to_codes(array: Numbers, levels: int, draws: NDArray[np.uint32], per_sample: bool) -> tuple[NDArray[np.int8], Numbers]:
    rows = array.reshape(array.shape[0] if per_sample else 1, -1)
    scales = _scales(rows, levels)
    finite = np.isfinite(scales)
    # Where the scale is 0 all numbers are 0; where it is not a number the codes do not matter.
    divisor = np.where(finite & (scales > 0), scales, 1).astype(np.float64)[:, None]
    exact = np.where(finite[:, None], rows, 0).astype(np.float64) / divisor
    codes = round_stochastically(exact, draws.reshape(rows.shape)).clip(-levels, levels)
    return codes.astype(np.int8).reshape(-1), scales


def _scales(rows: Numbers, levels: int) -> Numbers:
    """max|x| / levels for each row, rounded *up* to float32 so that no quotient exceeds ``levels``."""
    if not rows.size:
        return np.zeros(len(rows), np.float32)
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    with np.errstate(over="ignore"):
        scales = (largest / levels).astype(np.float32)
    scales = np.where(scales.astype(np.float64) * levels < largest, np.nextafter(scales, np.float32(np.inf)), scales)
    return np.where(np.isfinite(largest), scales, np.float32(np.nan)).astype(np.float32)


def round_stochastically(exact: NDArray[np.float64], draws: NDArray[np.uint32]) -> NDArray[np.float64]:
    """floor(x + u) with u = (draw + 1/2) / 2^32: up with the chance of x's distance from its floor, to 2^-33; whole numbers stay."""
    rounded: NDArray[np.float64] = np.floor(exact + (draws + 0.5) * 2.0**-32)
    return rounded


def _scaled(codes: NDArray[np.int8], tensor: Tensor) -> Numbers:
    """q s, in float64, rounded once; whatever the finite scale, the numbers are finite."""
    scales = np.frombuffer(tensor.scales, "<f4").astype(np.float64)
    numbers: Numbers = (codes.reshape(len(scales), -1) * scales[:, None]).clip(-_FINITE_MAX, _FINITE_MAX).astype(np.float32)
    return numbers


def _pack_nibbles(codes: NDArray[np.int8]) -> bytes:
    """Two codes a byte, two's complement in four bits, the earlier one in the low half; an odd last byte is filled up with 0."""
    nibbles: NDArray[Any] = np.zeros(codes.size + codes.size % 2, np.uint8)
    nibbles[: codes.size] = codes.view(np.uint8) & 0xF
    packed: NDArray[np.uint8] = nibbles[0::2] | nibbles[1::2] << 4
    return packed.tobytes()


def _unpack_nibbles(data: bytes, size: int) -> NDArray[np.int8]:
    packed = np.frombuffer(data, np.int8)
    codes = np.empty((len(packed), 2), np.int8)
    np.right_shift(packed << 4, 4, out=codes[:, 0])  # shifting up and down again copies the sign
    np.right_shift(packed, 4, out=codes[:, 1])
    return codes.reshape(-1)[:size]
