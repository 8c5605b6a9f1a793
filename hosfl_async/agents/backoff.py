"""Pauses between repetitions: capped exponential backoff, spread without a random generator.

Agents draw no random numbers, so the spread comes from the name of what is repeated: clients that lost the same broadcast do not
come back in the same instant, and a replayed history repeats the same pauses.
"""

from __future__ import annotations

from zlib import crc32

from hosfl_async.agents.settings import RetrySettings

_FIRST_TAILS: dict[str, bytes] = {}
"""Of the few names that agents give their timers."""


def pause_s(retry: RetrySettings, attempt: int, name: str) -> float:
    """Seconds before repetition ``attempt`` (0, 1, ...) of ``name``: in [1, 1.5) times the doubled and capped first pause."""
    cap = min(retry.max_s, retry.first_s * 2.0 ** min(attempt, 60))
    return cap * (1.0 + crc32(f"{name}:{attempt}".encode()) / 2**33)


def first_pause_s(retry: RetrySettings, name: str, begun: int) -> float:
    """``pause_s`` of attempt 0 for the end of a name, ``begun`` being the ``spread_of`` what stands before: most pauses are the first."""
    tail = _FIRST_TAILS.get(name) or _FIRST_TAILS.setdefault(name, f"{name}:0".encode())
    first_s = retry.first_s
    return (first_s if first_s < retry.max_s else retry.max_s) * (1.0 + crc32(tail, begun) / 2**33)


def spread_of(name: str) -> int:
    """The checksum of a name's beginning."""
    return crc32(name.encode())
