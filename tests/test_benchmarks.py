"""What benchmarks compute is what they say. That each of them runs, and to which table: ``test_told_benchmarks.py``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import client_process_memory, reduced_precision, variance
from hosfl_async.messages import StepId

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_orthogonal_signs_are_orthogonal_and_unbiased_and_cost_what_theory_says() -> None:
    way = variance.WAYS["orthogonal, P = 20"]
    drawn = variance.Directions(way, b"0123456789abcdef", [(16, 63), (16,)])
    steps = [drawn.of(StepId("a", 1, number)) for number in range(400)]
    for directions in steps[:20]:
        assert set(np.unique(directions)) == {-1.0, 1.0}
        assert (directions @ directions.T == 1024 * np.eye(20)).all(), "exactly: 1024 is a multiple of the block"
    gradient = np.zeros(1024)
    gradient[[3, 70, 1000]] = 1, -2, 3
    estimates = np.array([(directions @ gradient) @ directions / 20 for directions in steps])
    error = np.mean(np.sum((estimates - gradient) ** 2, 1)) / 14
    assert error == pytest.approx(1024 / 20 - 1, rel=0.1), "the share that was not seen"
    assert np.abs(estimates.mean(0) - gradient).max() < 6 * (9 / 400) ** 0.5, (
        "columns that are alike do not average each other out in a step"
    )


def test_ways_of_variance_reduction() -> None:
    for name in ("curvature, P = 5", "step size by norm, P = 5", "a layer at a time, P = 5", "memory, P = 5", "adamw, P = 5"):
        assert 0 < variance.Run(variance.WAYS[name], "64-7", 0.1, 0).trained(30) < 1
    way = variance.WAYS["plain, P = 20"]
    assert np.mean(variance.measured_errors(way, "7", 40)) == pytest.approx(variance.expected_error(way, 455), rel=0.2)


@pytest.mark.filterwarnings("ignore")  # torch's, about what vmap does slowly
def test_cheaper_forward_passes_and_what_cannot_back_propagate() -> None:
    found = reduced_precision.measure(1, 2, reduced_precision.SMALL)
    assert found["float32"]["back_propagates"] == "yes" and found["int8"]["back_propagates"].startswith("no")
    assert found["together"]["difference_max"] < 1e-3
    assert found["int8"]["weight_bytes"] < found["float32"]["weight_bytes"]
    assert all(figures["seconds"] > 0 for figures in found.values())
    assert found["float32"]["correlation_0.01"] > 0.9


[SMALL] = client_process_memory.SMALL_CASES.values()


def test_a_process_tells_its_high_water_mark() -> None:
    mark = client_process_memory.high_water_bytes_of(os.getpid())
    taken = np.ones(mark // 8 + 2**20)
    assert client_process_memory.high_water_bytes_of(os.getpid()) > mark and taken.size
    assert client_process_memory.high_water_bytes("Name:\tzombie\n") == 0
    assert client_process_memory.half_bytes(SMALL)["server_half_bytes"] > 4 * 512 * 512


@pytest.mark.soak
@pytest.mark.parametrize("method", client_process_memory.METHODS.values())
def test_memory_of_a_client_process(method: str) -> None:
    found = client_process_memory.peaks(SMALL, method)
    assert 2**26 < found["client_peak_bytes"] < SMALL.bound_bytes and found["server_peak_bytes"] > 2**26


def test_every_benchmark_says_how_it_is_called() -> None:
    for file in sorted(BENCHMARKS.glob("[a-z]*.py")):
        assert f"python -m benchmarks.{file.stem}" in file.read_text().split('"""')[1], file
