"""Benchmarks that measure in this process still run: a small case of each, and the figures are all there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import client_step, memory, perturbation
from hosfl_async.learning.settings import ModelSettings

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_a_client_step_beside_its_forwards() -> None:
    figures = client_step.measure(*client_step.CASES["mlp, 64-8 (quickstart)"])
    assert figures and all(value > 0 for value in figures.values())


def test_the_perturbation_kernels() -> None:
    assert all(value > 0 for value in perturbation.measure(520).values())


@pytest.mark.parametrize("way", ["inference", "client_step", "back_propagation"])
def test_memory_of_each_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.CASES, "small", (ModelSettings(name="mlp", client_widths=(8,)), (1, 8, 8)))
    assert memory.run_way("small", way)


def test_every_benchmark_says_how_it_is_called() -> None:
    for file in sorted(BENCHMARKS.glob("[a-z]*.py")):
        assert f"python -m benchmarks.{file.stem}" in file.read_text().split('"""')[1], file
