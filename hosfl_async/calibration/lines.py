"""Latency and bandwidth of one direction of links, from messages of many lengths: a line through (bytes, seconds).

By least absolute deviations, since a few messages take very long for reasons of their own: a suspended device, a machine that stalls.
Latency is what is left at no bytes; its spread is taken within each client, so that clients that differ are not taken for jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

SURE_ERRORS = 3.0
"""A bandwidth is told when bytes cost more than so many standard errors ..."""
COSTS_AT_LEAST = 1e-3
"""... and the spread of lengths costs more than this share of a message's time."""
MEDIAN_ERROR = 1.2533
"""Standard error of a median, in those of a mean of normal numbers."""
MAD_SCALE = 1.4826
"""Standard deviation of normal numbers, in medians of their absolute deviations."""
MAD_EFFICIENCY = 0.37
"""What such an estimate is worth, beside the usual one, in samples."""
ROUNDS = 60
SHARE_OF_BYTES_MAX = 0.5
"""Messages of which bytes took a larger share say little about latency's spread."""
SAMPLES_PER_CLIENT_MIN = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """``per_byte_s`` 0: bytes cost nothing that shows, and ``bytes_per_s_min`` says how little. ``by_client``: medians of their latency."""

    latency_s: float
    latency_error_s: float
    sigma: float
    per_byte_s: float
    per_byte_error_s: float
    bytes_per_s_min: float
    samples: int
    by_client: dict[str, float]


def fit_line(samples: list[tuple[int, float, str]]) -> Line:
    """``samples``: bytes, seconds and client of messages that travelled alone; at least one."""
    sizes = np.array([size for size, _, _ in samples], dtype=np.float64)
    times = np.array([lasted_s for _, lasted_s, _ in samples], dtype=np.float64)
    slope, error = _slope(sizes, times)
    spread_bytes = float(np.ptp(sizes))
    least = spread_bytes / max(spread_bytes * (max(slope, 0.0) + SURE_ERRORS * error), 1e-12)
    if slope <= SURE_ERRORS * error or slope * spread_bytes <= COSTS_AT_LEAST * float(np.median(times)):
        slope = 0.0
    left = times - slope * sizes
    by_client: dict[str, list[tuple[float, bool]]] = {}
    for (_, lasted_s, client), each_s in zip(samples, left.tolist(), strict=True):
        by_client.setdefault(client, []).append((each_s, 0 < each_s >= (1 - SHARE_OF_BYTES_MAX) * lasted_s))
    latency_s = max(0.0, float(np.median(left)))
    own_error_s = MEDIAN_ERROR * _scale(left) / len(samples) ** 0.5
    return Line(
        latency_s=latency_s,
        latency_error_s=float(np.hypot(own_error_s, error * sizes.mean() if slope else 0.0)),
        sigma=_log_spread([[each_s for each_s, tells in times if tells] for times in by_client.values()]),
        per_byte_s=slope,
        per_byte_error_s=error,
        bytes_per_s_min=least,
        samples=len(samples),
        by_client={
            client: median(each_s for each_s, _ in times) for client, times in by_client.items() if len(times) >= SAMPLES_PER_CLIENT_MIN
        },
    )


def _slope(sizes: Floats, times: Floats) -> tuple[float, float]:
    """Seconds for a byte, and the standard error. Iteratively reweighted least squares converge to least absolute deviations."""
    centred = sizes - sizes.mean()
    if not float(centred @ centred):
        return 0.0, 0.0
    floor = 1e-6 * float(np.median(np.abs(times))) + 1e-12
    weights = np.ones_like(times)
    slope, left = 0.0, times
    for _ in range(ROUNDS):
        middle = _mean(sizes, weights)
        away = sizes - middle
        slope = float((weights * away) @ (times - _mean(times, weights)) / ((weights * away) @ away))
        left = times - _mean(times, weights) - slope * away
        weights = 1 / np.maximum(np.abs(left), floor)
    return slope, MEDIAN_ERROR * _scale(left) / float(centred @ centred) ** 0.5


def _mean(values: Floats, weights: Floats) -> float:
    return float(weights @ values / weights.sum())


def _scale(values: Any) -> float:
    """Standard deviation, were they normal but for some that are not."""
    return MAD_SCALE * float(np.median(np.abs(values - np.median(values))))


def _log_spread(by_client: list[list[float]]) -> float:
    """Of the logarithms, about each client's own median."""
    away = [np.abs(logs - np.median(logs)) for times in by_client if len(times) > 1 for logs in (np.log(np.array(times)),)]
    return MAD_SCALE * float(np.median(np.concatenate(away))) if away else 0.0
