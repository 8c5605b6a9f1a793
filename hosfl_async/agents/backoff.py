"""Pauses between repetitions: capped exponential backoff, spread without a random generator.

Agents draw no random numbers, so the spread comes from the name of what is repeated: clients that lost the same broadcast do not
come back in the same instant, and a replayed history repeats the same pauses.
"""

from __future__ import annotations

from zlib import crc32

from hosfl_async.agents.settings import RetrySettings


def pause_s(retry: RetrySettings, attempt: int, name: str) -> float:
    """Seconds before repetition ``attempt`` (0, 1, ...) of ``name``: in [1, 1.5) times the doubled and capped first pause."""
    cap = min(retry.max_s, retry.first_s * 2.0 ** min(attempt, 60))
    return cap * (1.0 + crc32(f"{name}:{attempt}".encode()) / 2**33)
