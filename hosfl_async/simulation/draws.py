"""Random numbers without generators: every draw is a pure function of a key and an index.

The key is a hash of the seed and of what the draw is for ("link", "client-3", "up"); the index counts messages or jobs there.
So nothing depends on the order in which draws are made: one more client, one more message elsewhere or another setting leaves
every other fate as it was, and a link needs no generator object, only its key and a counter.

The mixing is splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) in plain integers.
"""

from __future__ import annotations

from hashlib import blake2b
from math import exp, log
from statistics import NormalDist

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_UNIT = 2.0**-52
_NORMAL_QUANTILE = NormalDist().inv_cdf


def stream_key(seed: int, *purpose: str) -> int:
    """64-bit key of the stream of draws for one purpose, for example ``stream_key(7, "link", "client-3", "up")``."""
    return int.from_bytes(blake2b("\0".join((str(seed), *purpose)).encode(), digest_size=8).digest(), "little")


def uniform(key: int, index: int) -> float:
    """Draw ``index`` of the stream: uniform in the open interval (0, 1)."""
    z = (key + (index + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (((z ^ (z >> 31)) >> 12) + 0.5) * _UNIT


def exponential(key: int, index: int, mean: float) -> float:
    """Draw ``index`` of the stream: exponential with this mean."""
    return -mean * log(uniform(key, index))


def log_normal(key: int, index: int, sigma: float) -> float:
    """Draw ``index`` of the stream: log-normal with median 1."""
    return exp(sigma * _NORMAL_QUANTILE(uniform(key, index)))


def pareto(key: int, index: int, shape: float) -> float:
    """Draw ``index`` of the stream: Pareto with least value 1 and this shape."""
    return float(uniform(key, index) ** (-1 / shape))
