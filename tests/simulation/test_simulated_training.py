"""The real agents in the simulated world, around a learner that computes nothing: determinism to the byte, and getting through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from benchmarks.simulator import toy_simulation
from hosfl_async.simulation.settings import DropoutSettings, NetworkSettings, Outage
from hosfl_async.trace import TraceWriter
seed, path = int(sys.argv[1]), sys.argv[2]
with TraceWriter(path) as trace:
    world = toy_simulation(
        12, 200, seed, trace=trace, validate=True,
        network=NetworkSettings(latency_jitter_s=0.05, uplink_bytes_per_s=1e5, loss=0.03, duplication=0.05, reordering=0.05),
        outages=[Outage(agent="aggregator", at_s=9.0, absence_s=2.0), Outage(agent="client-3", at_s=5.0, absence_s=40.0)],
        dropout=DropoutSettings(mean_time_between_s=40.0, mean_absence_s=5.0),
    )
    outcome = world.run()
assert outcome.ended == "finished", outcome
assert outcome.counts["crashes"] > 0 and outcome.counts["pauses"] > 0 and outcome.counts["lost"] > 0, outcome
assert outcome.counts["in_flight"] >= 0, outcome
print(world.agent("aggregator").log.chain.hex())
"""


def run(seed: int, path: Path, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", RUN, str(seed), str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_seed_gives_one_trace_in_any_process_and_another_seed_another(tmp_path: Path) -> None:
    chains = [run(seed, tmp_path / name, hash_seed) for seed, name, hash_seed in ((1, "a", "0"), (1, "b", "4242"), (2, "c", "0"))]
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert len(first) > 10_000
    assert first == again
    assert first != other
    assert chains[0] == chains[1] != chains[2]


def test_events_per_client_step_and_memory_per_client_do_not_grow_with_the_fleet() -> None:
    """The benchmark's own figures, at a small size; its speeds are not looked at."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulator", "--json", "--small"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    per_step = figures["events_per_client_step"]
    assert max(per_step.values()) == pytest.approx(min(per_step.values()), rel=0.15)
    assert 0 < figures["bytes_per_client"]["host"] <= 4096
    assert figures["bytes_per_client"]["host"] < figures["bytes_per_client"]["host_and_agent"]
