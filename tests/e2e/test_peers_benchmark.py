"""The comparison with other engines: our own side, which needs no installation, and a side that cannot run."""

from __future__ import annotations

import sys

import pytest

from benchmarks.peers.__main__ import ratios, run


@pytest.mark.parametrize("worker", ["own_worker", "own_whole_worker"])
def test_our_own_side_is_measured_with_its_memory(worker: str) -> None:
    figures = run("ours", [sys.executable, "-m", f"benchmarks.peers.{worker}"], [40, 4000, 10])
    assert figures is not None
    assert figures["updates"] == 4000
    assert figures["peak_bytes"] > 10**7
    assert figures["cpu_ms_per_update"] > 0


def test_a_side_that_fails_is_skipped_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("broken", [sys.executable, "-c", "raise SystemExit('no such engine')"], [1, 1, 1]) is None
    assert "broken: skipped, it ended with 1: no such engine" in capsys.readouterr().err


def test_ratios_are_ours_to_theirs() -> None:
    ours, theirs = {"updates_per_s": 30.0, "peak_bytes": 10}, {"updates_per_s": 10.0, "peak_bytes": 50}
    assert ratios({"ours": ours, "theirs": theirs, "skipped": None}) == {"theirs": {"updates_per_s": 3.0, "memory": 5.0}}
