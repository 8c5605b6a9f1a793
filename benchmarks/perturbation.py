"""How fast a scaled direction is added to ten million parameters.

``python -m benchmarks.perturbation [--json]`` compares, in one run, in alternation, by medians of CPU time:

* the bare in-place addition of two float32 vectors (``np.add``): the least that any update costs;
* our kernel: bits from Philox, signs from a table, added in place;
* ``torch.randn`` and ``add_``: what seed-replay methods usually do (one thread, like the others).

Bars: the kernel takes at most 1.4 times the bare addition, and is at least 10 times faster than ``torch.randn`` + ``add_``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
import torch

from benchmarks import new_parser
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, Perturber, add_scaled_directions, aligned_vector
from hosfl_async.learning.settings import ZerothOrderSettings

REPETITIONS = 15
SHAPES = {520: (8, 65), 1_000_000: (1000, 1000), 10_000_000: (2500, 4000)}
"""Parameters -> the layer that they are, for low-rank signs, the default; the other kernel draws a sign for each."""


def milliseconds(work: Callable[[], object]) -> float:
    """One timing of ``work``."""
    start = process_time()
    work()
    return (process_time() - start) * 1e3


def measure(size: int, repetitions: int = REPETITIONS) -> dict[str, float]:
    """Median milliseconds of each way at ``size`` parameters, and their ratios."""
    theta, ones = aligned_vector(size), aligned_vector(size)
    theta[:], ones[:] = 0, 1
    as_tensor, perturber = torch.from_numpy(theta), Perturber()
    together = 20 if size < CHUNK_ELEMENTS else 1  # as replay does with small halves: the directions of a step in one go
    keys, coefficients = [bytes([number]) * 16 for number in range(together)], [1e-3] * together
    low_rank = LowRankPerturber([SHAPES[size]], ZerothOrderSettings().rank)
    generator = torch.Generator()

    def randn() -> None:
        as_tensor.add_(torch.randn(size, generator=generator), alpha=1e-3)

    ways: dict[str, Callable[[], object]] = {
        "bare_addition_ms": lambda: np.add(theta, ones, out=theta),
        "kernel_ms": lambda: add_scaled_directions(perturber, theta, keys, coefficients),
        "low_rank_kernel_ms": lambda: add_scaled_directions(low_rank, theta, keys, coefficients),
        "randn_and_add_ms": randn,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name, work in ways.items():
            time_taken = milliseconds(work)
            if repetition:  # the first pass touches the pages
                taken[name].append(time_taken)
    result = {name: median(times) / (together if "kernel" in name else 1) for name, times in taken.items()}
    result["kernel_over_bare_addition"] = result["kernel_ms"] / result["bare_addition_ms"]
    result["low_rank_kernel_over_bare_addition"] = result["low_rank_kernel_ms"] / result["bare_addition_ms"]
    result["randn_and_add_over_kernel"] = result["randn_and_add_ms"] / result["kernel_ms"]
    return result


def main() -> None:
    options = new_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    results = {str(size): measure(size, 1 if options.small else REPETITIONS) for size in SHAPES}
    if options.json:
        print(json.dumps(results))
        return
    print("Adding +-c to each parameter, medians of alternating repetitions, one thread")
    for size, result in results.items():
        print(
            f"{int(size):>12,} parameters: bare addition {result['bare_addition_ms']:8.4f} ms, kernel {result['kernel_ms']:8.4f} ms "
            f"({result['kernel_over_bare_addition']:.2f} x), low-rank {result['low_rank_kernel_ms']:8.4f} ms "
            f"({result['low_rank_kernel_over_bare_addition']:.2f} x), torch.randn + add_ {result['randn_and_add_ms']:9.4f} ms "
            f"({result['randn_and_add_over_kernel']:.1f} x the kernel)"
        )
    print("Bars at 10,000,000: kernel at most 1.4 x the bare addition; torch.randn + add_ at least 10 x the kernel.")


if __name__ == "__main__":
    main()
