"""Our simulator on the peers' own trivial update: the whole model travels down, its change travels up, as under ``fedbuff_first_order``.

``python -m benchmarks.peers.own_whole_worker 1000 5000 100``: clients, updates, parameters. A client gets the model as a snapshot,
adds a constant, and sends what changed; the aggregator averages into the update log, whose entries its learner applies. Asynchronous,
through the same agents, network and accounting as everything else; nobody evaluates.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from hashlib import blake2b
from time import perf_counter, process_time
from typing import Any

import numpy as np

from hosfl_async import jobs, messages
from hosfl_async.agents.aggregator import Aggregator
from hosfl_async.agents.edge_client import EdgeClient
from hosfl_async.agents.settings import AggregatorSettings, EdgeClientSettings, SplitServerSettings
from hosfl_async.agents.split_server import SplitServer
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER, Checkpoint, Tensor
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.settings import FleetGroup, NetworkSettings


def digest(values: bytes) -> bytes:
    return blake2b(values, digest_size=32).digest()


class Vector:
    """Holds the model. ``change`` is what a client's training adds, already negated: a log entry is subtracted."""

    __slots__ = ("change", "values", "version")

    def __init__(self, parameters: int, added: float) -> None:
        self.version = 0
        self.values = np.zeros(parameters, np.float32)
        self.change = np.float32(-added)

    def run(self, job: Any) -> Any:
        match job:
            case jobs.TrainLocally():
                change = np.full_like(self.values, self.change)
                return jobs.GradientDone(job.step, Tensor("float32", change.shape, change.tobytes()))
            case jobs.InstallSnapshot():
                self.version, self.values = job.version, np.frombuffer(job.parameters.data, "<f4")
                return jobs.Replayed(job.version, (Checkpoint(job.version, job.digest),))
            case jobs.Replay():
                return self._replay(job)
            case jobs.TakeSnapshot():
                data = self.values.tobytes()
                return jobs.SnapshotTaken(self.version, Tensor("float32", self.values.shape, data), digest(data))
            case jobs.Introduce():
                return jobs.Introduced(digest(b"trivial"), digest(self.values.tobytes()), len(self.values))
            case jobs.Evaluate():
                return jobs.Evaluated(self.version, 0.0, 0.0, 1)
        raise AssertionError(job)

    def _replay(self, job: jobs.Replay) -> jobs.Replayed:
        found = []
        for entry in job.entries:
            values = self.values.copy()
            for term in entry.terms:
                values -= np.frombuffer(term.gradient, "<f4")
            self.values, self.version = values, entry.version
            if entry.version in job.digest_at:
                found.append(Checkpoint(entry.version, digest(values.tobytes())))
        if not job.entries:
            found.append(Checkpoint(self.version, digest(self.values.tobytes())))
        return jobs.Replayed(self.version, tuple(found))


def simulation(clients: int, updates: int, parameters: int) -> Simulation:
    """As ``benchmarks.simulator.large_fleet``: the buffer grows with the fleet, catching up is by snapshot."""
    world = Simulation(seed=0, network=NetworkSettings(latency_jitter_s=0.01, uplink_bytes_per_s=1e6, loss=0.001))
    each = {"estimator": "local_training", "probes": 0}
    client = replace(EdgeClientSettings(), **each, local_steps=1)
    server = replace(SplitServerSettings(evaluate_every_steps=0), estimator="local_training")
    aggregator = replace(
        AggregatorSettings(buffer_contributions=max(1, clients // 20), snapshot_every_versions=1, snapshot_behind_versions=1),
        **each,
        client_steps=updates,
    )

    def learner(name: str) -> Vector:
        return Vector(parameters, int(name.rpartition("-")[2]) % 7 if name.startswith("client-") else 0)

    world.add(AGGREGATOR, make_agent=lambda _: Aggregator(aggregator), make_learner=learner, inbox=messages.AggregatorInbox)
    world.add(SPLIT_SERVER, make_agent=lambda _: SplitServer(server), make_learner=learner, inbox=messages.SplitServerInbox)
    fast, slow = FleetGroup(jitter_sigma=0.2), FleetGroup(jitter_sigma=0.2, speed_factor=10.0)
    for number in range(clients):
        group = slow if number % 5 == 0 else fast
        world.add(
            f"client-{number}",
            make_agent=lambda name: EdgeClient(client, name),
            make_learner=learner,
            inbox=messages.EdgeClientInbox,
            group=group,
        )
    return world


def main() -> None:
    clients, updates, parameters = map(int, sys.argv[1:])
    world = simulation(clients, updates, parameters)
    wall, cpu = perf_counter(), process_time()
    outcome = world.run()
    wall_s, cpu_s = perf_counter() - wall, process_time() - cpu
    model: Any = world.learner(AGGREGATOR)
    assert outcome.ended == "finished" and model.values[0] > 0, outcome
    print(json.dumps({"updates": updates, "wall_s": wall_s, "cpu_s": cpu_s, "events": outcome.events}))


if __name__ == "__main__":
    main()
