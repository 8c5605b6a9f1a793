"""One run that every tool is told of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hosfl_async import Run, load_scenario, simulate

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"aggregator.client_steps": 100, "server.evaluate_every_steps": 25, "shared.probes": 2, "expect.accuracy_min": 0.0}
    return simulate(load_scenario("quickstart", settings), folder=tmp_path_factory.mktemp("tracked") / "quickstart-seed0", control=False)
