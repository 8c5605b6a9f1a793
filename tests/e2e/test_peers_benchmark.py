"""The comparison with other engines: our own side, which needs no installation, and a side that cannot run."""

from __future__ import annotations

import sys

import pytest

from benchmarks.peers.__main__ import medians, ratios, run


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


def test_ratios_are_of_both_our_sides_to_each_of_theirs() -> None:
    ours = {"updates_per_s": 30.0, "peak_bytes": 10, "cpu_ms_per_update": 0.1}
    whole = {"updates_per_s": 40.0, "peak_bytes": 20, "cpu_ms_per_update": 0.2}
    theirs = {"updates_per_s": 10.0, "peak_bytes": 50, "cpu_ms_per_update": 0.4}
    others = {"updates_per_s": 60.0, "peak_bytes": 10, "cpu_ms_per_update": None}
    assert ratios({"ours": ours, "ours, whole model": whole, "theirs": theirs, "others": others, "skipped": None}) == {
        "ours": {"theirs": {"updates_per_s": 3.0, "memory": 5.0, "cpu": 4.0}, "others": {"updates_per_s": 0.5, "memory": 1.0}},
        "ours, whole model": {
            "theirs": {"updates_per_s": 4.0, "memory": 2.5, "cpu": 2.0},
            "others": {"updates_per_s": 0.67, "memory": 0.5},
        },
    }


def test_figures_of_several_turns_are_their_medians() -> None:
    turns = [{"wall_ms_per_update": value, "cpu_ms_per_update": None} for value in (3.0, 1.0, 9.0)]
    assert medians(turns) == {"wall_ms_per_update": 3.0, "cpu_ms_per_update": None}


def test_the_memory_of_a_run_shorter_than_half_a_second_is_seen() -> None:
    code = """
import time
held = b"x" * 60_000_000
time.sleep(0.3)
print('{"updates": 1, "wall_s": 0.3}')
"""
    figures = run("short", [sys.executable, "-c", code], [1])
    assert figures is not None and figures["peak_bytes"] > 60_000_000
