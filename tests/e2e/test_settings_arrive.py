"""Every section of a scenario is asked for by who assembles a run: one that nobody reads is a setting that does nothing."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hosfl_async import Scenario, run_live, simulate
from hosfl_async.scenario import scenario_of_tables

TINY = {
    "name": "tiny",
    "fleet": [{"count": 2}],
    "task": {"data": "toy", "batch_size": 2, "model": {"client_widths": [2], "server_widths": []}},
    "aggregator": {"client_steps": 4, "buffer_contributions": 1},
    "live": {"time_scale": 0.01},
}
WORDS = {"about", "method", "expect", "fleet", "fleet_size", "shared"}
"""Resolved when a file is read or within the agents' own settings and ``devices()``, or asked for by who judges or tells a run."""
OTHERS = {"simulate": {"broker", "live"}, "live": {"simulation", "outages", "fault"}}
"""What is the other way's business."""


@pytest.mark.parametrize("way", ["simulate", "live"])
def test_every_section_arrives(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, read = scenario_of_tables(TINY), set()
    plain = Scenario.__getattribute__

    def noting(self: Scenario, name: str) -> object:
        asker = Path(sys._getframe(1).f_code.co_filename)
        if asker.parent.name == "assembly" and asker.name != "fitting.py":  # which refuses, and hands nothing on
            read.add(name)
        return plain(self, name)

    monkeypatch.setattr(Scenario, "__getattribute__", noting)
    if way == "simulate":
        simulate(scenario, control=False)
    else:
        run_live(scenario, folder=tmp_path / "run", broker="iotcore", control=False)
    there = {field.name for field in fields(Scenario)}
    assert there - read - WORDS == OTHERS[way]
