"""Large fleets: the benchmark and the scenario files say the same, and a client step costs as many events in any fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.scale import measure, scenario_of
from hosfl_async.scenario import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def test_the_benchmark_runs_the_scenario_files() -> None:
    for name, clients in (("fleet_10k", 10_000), ("fleet_100k", 100_000)):
        written = load_scenario(SCENARIOS / f"{name}.toml")
        assert written.clients == clients
        assert replace(scenario_of(clients, 200_000), name=name) == written


def test_a_client_step_costs_as_many_events_in_a_larger_fleet() -> None:
    small, large = measure(40, 400), measure(400, 4000)
    for figures, clients in ((small, 40), (large, 400)):
        assert figures["clients"] == clients
        assert figures["client_steps"] >= 10 * clients
        assert figures["cpu_ms_per_client_step"] > 0 and 0 <= figures["bytes_per_client"] < figures["peak_rss_bytes"]
    few, many = (figures["events"] / figures["client_steps"] for figures in (small, large))
    assert abs(many / few - 1) < 0.2
