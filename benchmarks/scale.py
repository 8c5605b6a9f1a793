"""How far the simulator scales: real agents, real codec, real learner, synthetic data and a tiny model.

``python -m benchmarks.scale [--clients N] [--steps S] [--together 64] [--json]`` runs ``scenarios/fleet_10k.toml`` with N clients:
whatever stands for the fleet as a whole (buffer, queues, the server's speed, samples) grows with N, so a client's own work stays what it
is. S client steps in all; by default 20 for each client up to 10,000 clients, and 200,000 beyond. ``--together`` is the scenario key
``simulation.forwards_together_max``. One JSON object:

* ``clients``, ``client_steps``: joined, and in the log;
* ``wall_time_s``: of the whole run, from reading the scenario to the last confirmed digest;
* ``cpu_ms_per_client_step``: CPU time of the run, without data and start-up of the process, over client steps;
* ``peak_rss_bytes``: of this process; ``bytes_per_client``: what it grew by since before the scenario was read, over clients.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks import new_parser
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.simulated import build_simulation
from hosfl_async.messages import AGGREGATOR
from hosfl_async.report import Recorder
from hosfl_async.scenario import Scenario, load_scenario

FLEET = Path(__file__).parents[1] / "scenarios" / "fleet_10k.toml"


def scenario_of(clients: int, client_steps: int, together: int = 1) -> Scenario:
    """``fleet_10k`` for another number of clients."""
    scaled = {
        "fleet_size": clients,
        "task.toy_samples": max(40, 5 * clients),
        "server.queue_max": clients,
        "server.answers_remembered_max": clients,
        "aggregator.client_steps": client_steps,
        "aggregator.buffer_contributions": max(1, clients // 20),
        "compute.backward_s": 0.1 / clients,
        "simulation.forwards_together_max": together,
    }
    return load_scenario(FLEET, [f"{key}={value}" for key, value in scaled.items()])


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(clients: int, client_steps: int, together: int = 1) -> dict[str, Any]:
    Parts(scenario_of(20, 20)).learners  # noqa: B018 (imports and first use of torch are the process's, not the fleet's)
    before, began = peak_rss_bytes(), perf_counter()
    scenario = scenario_of(clients, client_steps, together)
    parts = Parts(scenario)
    simulation = build_simulation(scenario, parts, Recorder())
    parts.learners  # noqa: B018 (the data are read before the clock of CPU time starts)
    cpu = process_time()
    outcome = simulation.run()
    cpu_s, wall_s = process_time() - cpu, perf_counter() - began
    aggregator: Any = simulation.agent(AGGREGATOR)
    assert outcome.ended == "finished" and not aggregator.counts["digests_differ"], outcome
    steps = aggregator.counts["accepted"]
    return {
        "clients": aggregator.counts["joined"],
        "client_steps": steps,
        "wall_time_s": round(wall_s, 2),
        "cpu_ms_per_client_step": round(1000 * cpu_s / steps, 4),
        "peak_rss_bytes": peak_rss_bytes(),
        "bytes_per_client": round((peak_rss_bytes() - before) / clients),
        "events": outcome.events,
        "versions": aggregator.log.head,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--steps", type=int, help="client steps in all")
    parser.add_argument("--together", type=int, default=1, help="forward passes computed in one call")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.clients, arguments.steps = min(arguments.clients, 20), min(arguments.steps or 40, 40)
    steps = arguments.steps or (20 * arguments.clients if arguments.clients <= 10_000 else 200_000)
    figures = measure(arguments.clients, steps, arguments.together)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:>24} {value:,}")


if __name__ == "__main__":
    main()
