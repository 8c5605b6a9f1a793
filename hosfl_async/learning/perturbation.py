"""Perturbation directions and their application, bit for bit the same on every machine. Pure numpy.

A direction is a vector of signs. It is never sent and never stored: the name of a probe (run key, step, probe number) is hashed to
the key of a Philox stream, and bit i of that little-endian stream gives element i, 1 -> +1 and 0 -> -1. Applying a direction with a
coefficient c adds +c or -c to each element: one IEEE addition in float32, the same result whatever the processor, the vector
width, the number of threads or the chunk size.

MeZO (arXiv:2305.17333) regenerates Gaussian directions from a seed; with ``torch.randn`` these differ between devices and between
instruction sets. Signs make the same estimator with an exact and much cheaper generator.

Speed. A byte of the stream selects a row of a 256 x 8 table that already holds +-c, and a chunk stays in the cache between the
look-up and the addition. So a direction costs little more than the addition alone (``benchmarks/perturbation.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hosfl_async.learning.randomness import KEY_BYTES, raw_stream, raw_words, step_name, version_name
from hosfl_async.messages import StepId

Vector = NDArray[np.float32]

CHUNK_ELEMENTS = 1 << 16
"""Elements handled at a time: 256 KiB of float32, so that looked-up signs and parameters share a second-level cache."""

_ALIGNMENT_BYTES = 64

SIGN_TABLE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float32) * 2 - 1
"""Row b: the eight signs of byte b, lowest bit first."""


def aligned_vector(size: int) -> Vector:
    """An uninitialised float32 vector that starts at a cache line.

    Matrix products may take another path, and round differently, when their operands are aligned differently; two copies of one
    version must give the same activations.
    """
    room = np.empty(size * 4 + _ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT_BYTES
    return room[start : start + size * 4].view(np.float32)


def direction_key(run_key: bytes, step: StepId, probe: int, base_version: int | None = None) -> bytes:
    """The 128-bit Philox key of one probe's direction: BLAKE2b of the run key, the probe's number and the step's name.

    With ``base_version`` the direction is that of everybody who steps from this version (directions ``per_version``), whatever the step.
    """
    return direction_keys(run_key, step, range(probe, probe + 1), base_version)[0]


def direction_keys(run_key: bytes, step: StepId, probes: Iterable[int], base_version: int | None = None) -> list[bytes]:
    """``direction_key`` of each of these probes."""
    name = step_name(step) if base_version is None else version_name(base_version)
    return [blake2b(run_key + probe.to_bytes(4, "little") + name, digest_size=KEY_BYTES).digest() for probe in probes]


def signs(key: bytes, size: int) -> Vector:
    """The direction itself, (size,) of +-1: the definition, slow and readable. ``Perturber`` must agree with it bit for bit."""
    stream = raw_words(key, -(-size // 64)).astype("<u8").tobytes()
    bits = [stream[i // 8] >> (i % 8) & 1 for i in range(size)]
    return np.array([1.0 if bit else -1.0 for bit in bits], dtype=np.float32)


class DirectionAdder(Protocol):
    """Adds scaled directions of one kind to parameter vectors."""

    def add_scaled_direction(self, theta: Vector, key: bytes, coefficient: float, out: Vector | None = None) -> None:
        """``out = theta + coefficient * u(key)``, in place if ``out`` is not given; each element takes one float32 addition."""
        ...

    def written(self, keys: Sequence[bytes], size: int) -> Vector:
        """The directions themselves, (keys, size) of +-1."""
        ...


def add_scaled_directions(
    adder: DirectionAdder, theta: Vector, keys: Sequence[bytes], coefficients: Sequence[float], chunk_elements: int = CHUNK_ELEMENTS
) -> None:
    """``theta += c u(key)`` in place, for one key after another: each element takes one float32 addition for each.

    Directions of a small ``theta`` are written out many at a time, as many as a chunk holds: alone, each would cost far more in calls than
    in additions. The bits are the same.
    """
    group = chunk_elements // max(theta.size, 1)
    if group < 1:
        for key, coefficient in zip(keys, coefficients, strict=True):
            adder.add_scaled_direction(theta, key, coefficient)
        return
    scales = np.array(coefficients, np.float32)[:, None]
    for begin in range(0, len(keys), group):
        terms = adder.written(keys[begin : begin + group], theta.size)
        terms *= scales[begin : begin + group]
        for term in terms:
            np.add(theta, term, out=theta)


class Perturber:
    """Adds scaled directions to parameter vectors. Holds a generator and buffers (about 400 KiB): one for each thread."""

    __slots__ = ("_buffer", "_chunk", "_rows", "_start", "_table")

    def __init__(self, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        if chunk_elements <= 0 or chunk_elements % 64:
            raise ValueError(f"a chunk is a positive multiple of 64 elements, not {chunk_elements}")
        self._chunk = chunk_elements
        self._start = raw_stream()
        self._table = np.empty((256, 8), np.float32)
        self._rows = np.empty(chunk_elements // 8, np.intp)
        self._buffer = np.empty(chunk_elements, np.float32)

    def add_scaled_direction(self, theta: Vector, key: bytes, coefficient: float, out: Vector | None = None) -> None:
        """``out = theta + coefficient * signs(key)``, in place if ``out`` is not given.

        ``theta`` and ``out`` are contiguous float32 vectors of one size that do not overlap; ``coefficient`` is rounded to float32
        first.
        """
        stream = self._start(key)
        table = np.multiply(SIGN_TABLE, np.float32(coefficient), out=self._table)
        for begin in range(0, theta.size, self._chunk):
            part = theta[begin : begin + self._chunk]
            rows = self._rows[: (part.size + 7) // 8]
            words = stream.random_raw((part.size + 63) // 64)
            rows[:] = words.astype("<u8", copy=False).view(np.uint8)[: rows.size]
            target = part if out is None else out[begin : begin + self._chunk]
            # Written elsewhere, the terms may lie where the sum will: one buffer less in the cache.
            terms = target if out is not None and part.size % 8 == 0 else self._buffer[: rows.size * 8]
            table.take(rows, axis=0, out=terms.reshape(-1, 8), mode="clip")
            np.add(part, terms[: part.size], out=target)

    def written(self, keys: Sequence[bytes], size: int) -> Vector:
        """The directions themselves, (keys, size) of +-1; see ``signs``."""
        words = np.empty((len(keys), -(-size // 64)), "<u8")
        for row, key in zip(words, keys, strict=True):
            row[:] = self._start(key).random_raw(words.shape[1])
        return SIGN_TABLE.take(words.view(np.uint8), axis=0, mode="clip").reshape(len(keys), -1)[:, :size]
