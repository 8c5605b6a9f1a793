"""Every random number of the learning room: a named key, and the raw bits that belong to it.

A name (what for, whose seed, which client, which step ...) is hashed to 128 bits by BLAKE2b, and Philox, a counter-based generator,
turns them into a stream of bits. Only ``random_raw`` is used: its output is fixed by the algorithm, whereas numpy's and torch's
distributions may change with the release or the processor (the Dirichlet draw in ``data.py`` is the one exception). So equal names
give equal numbers on every machine, and nothing depends on who drew first.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from struct import Struct as Packing

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from hosfl_async.messages import StepId

KEY_BYTES = 16
Words = NDArray[np.uint64]

_SEED = Packing("<q")
_STEP_HEAD = Packing("<HQQ")


def named_key(purpose: str, seed: int, *names: str) -> bytes:
    """The 128-bit key of a name: BLAKE2b over the purpose, the seed (64 bits) and each further name, each with its length."""
    state = blake2b(_SEED.pack(seed), digest_size=KEY_BYTES)
    for name in (purpose, *names):
        encoded = name.encode()
        state.update(len(encoded).to_bytes(4, "little") + encoded)
    return state.digest()


def step_name(step: StepId) -> bytes:
    """A step's name as unambiguous bytes: length of the client's name, incarnation, number (little-endian), the name."""
    client = step.client.encode()
    return _STEP_HEAD.pack(len(client), step.incarnation, step.number) + client


def version_name(version: int) -> bytes:
    """A version's name: that of a step whose client's name is empty, which no client's is."""
    return _STEP_HEAD.pack(0, 0, version)


def raw_stream() -> Callable[[bytes], Philox]:
    """A function from key to a Philox at the start of that key's stream.

    It always returns the same generator, set to another key: a tenth of the cost of building one. Not for use by two threads.
    """
    generator = Philox(key=0)
    state = generator.state

    def start(key: bytes) -> Philox:
        state["state"]["key"] = np.frombuffer(key, "<u8").astype(np.uint64, copy=False)
        generator.state = state
        return generator

    return start


def raw_words(key: bytes, count: int) -> Words:
    """The first ``count`` 64-bit words of a key's stream."""
    words: Words = raw_stream()(key).random_raw(count)
    return words


def uniform_stream(key: bytes) -> Callable[[int], NDArray[np.float64]]:
    """A function that gives the next so many numbers in [0, 1): exact multiples of 2^-53, the upper 53 bits of each word."""
    generator = raw_stream()(key)

    def draw(count: int) -> NDArray[np.float64]:
        words: Words = generator.random_raw(count)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    return draw


def permutation(key: bytes, count: int) -> NDArray[np.int64]:
    """A random order of ``range(count)``: the words of the key's stream, sorted (ties by position)."""
    return np.argsort(raw_words(key, count), kind="stable").astype(np.int64, copy=False)
