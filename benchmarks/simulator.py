"""How fast the simulation host is: the real agents, the real codec and a modelled network around a learner that computes nothing.

``python -m benchmarks.simulator [--json]`` prints

* events per second at 100 clients (an event is one call of an agent's ``handle``, with all that its effects cost),
  as the median of several runs, and per second of CPU time, since machines are shared;
* events per client step at 100, 1,000 and 10,000 clients: constant, or something costs O(clients);
* bytes of memory per client: of the simulation host alone, and with the agent.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks import new_parser
from hosfl_async import jobs, messages
from hosfl_async.agent import Effect, Event, RunJob, SetTimer
from hosfl_async.agents.aggregator import Aggregator
from hosfl_async.agents.edge_client import EdgeClient
from hosfl_async.agents.settings import AggregatorSettings, EdgeClientSettings, SplitServerSettings
from hosfl_async.agents.split_server import SplitServer
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER, Checkpoint, Tensor
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.settings import ComputeSettings, DropoutSettings, FleetGroup, NetworkSettings

PROBES = 2
STEPS_EACH = 10
"""Client steps per client, on average, where fleets of different sizes are compared."""
_ACTIVATIONS = Tensor("float32", (1, 2), bytes(8))
_LABELS = Tensor("int64", (1,), bytes(8))
_GOLDEN = blake2b(b"toy", digest_size=32).digest()


class ToyLearner:
    """Answers every job at once with tiny tensors. Its client half is nothing but its version."""

    __slots__ = ("version",)

    def __init__(self, name: str) -> None:
        self.version = 0

    def run(self, job: Any) -> Any:
        return _ANSWERS[type(job)](self, job)

    def replay(self, job: jobs.Replay) -> jobs.Replayed:
        if job.entries:
            self.version = job.entries[-1].version
        return jobs.Replayed(self.version, tuple(Checkpoint(version, digest(version)) for version in job.digest_at))

    def install(self, job: jobs.InstallSnapshot) -> jobs.Replayed:
        self.version = job.version
        return jobs.Replayed(job.version, (Checkpoint(job.version, job.digest),))

    def snapshot(self, job: jobs.TakeSnapshot) -> jobs.SnapshotTaken:
        return jobs.SnapshotTaken(self.version, Tensor("float32", (1,), bytes(4)), digest(self.version))


def digest(version: int) -> bytes:
    return blake2b(version.to_bytes(8, "little"), digest_size=32).digest()


_ANSWERS: dict[type, Callable[[ToyLearner, Any], Any]] = {
    jobs.Introduce: lambda learner, job: jobs.Introduced(_GOLDEN, digest(0)),
    jobs.Forward: lambda learner, job: jobs.ForwardDone(_ACTIVATIONS, _LABELS),
    jobs.Probe: lambda learner, job: jobs.ProbeDone(job.step),
    jobs.Project: lambda learner, job: jobs.Projected(job.step, (0.5,) * PROBES),
    jobs.Backward: lambda learner, job: jobs.BackwardDone(job.step, job.activations, 1.0),
    jobs.EvaluateDual: lambda learner, job: jobs.BackwardDone(job.step, job.activations, 1.0),
    jobs.Evaluate: lambda learner, job: jobs.Evaluated(learner.version, 0.5, 1.0, 1),
    jobs.Replay: ToyLearner.replay,
    jobs.InstallSnapshot: ToyLearner.install,
    jobs.TakeSnapshot: ToyLearner.snapshot,
}


def toy_simulation(
    clients: int,
    client_steps: int,
    seed: int = 0,
    *,
    network: NetworkSettings | None = None,
    dropout: DropoutSettings | None = None,
    aggregation: AggregatorSettings | None = None,
    **options: Any,
) -> Simulation:
    """``clients`` clients, every fifth of them ten times slower, and the two services, all of them real, around toy learners."""
    network = network or NetworkSettings(latency_jitter_s=0.01, uplink_bytes_per_s=1e6, loss=0.001)
    world = Simulation(seed=seed, network=network, **options)
    client = EdgeClientSettings(probes=PROBES)
    server = SplitServerSettings(evaluate_every_steps=1000, queue_max=max(256, clients))
    aggregator = replace(aggregation or AggregatorSettings(), client_steps=client_steps, probes=PROBES)
    world.add(AGGREGATOR, make_agent=lambda name: Aggregator(aggregator), make_learner=ToyLearner, inbox=messages.AggregatorInbox)
    world.add(SPLIT_SERVER, make_agent=lambda name: SplitServer(server), make_learner=ToyLearner, inbox=messages.SplitServerInbox)
    dropout = dropout or DropoutSettings()
    fast = FleetGroup(jitter_sigma=0.2, dropout=dropout)
    slow = FleetGroup(jitter_sigma=0.2, dropout=dropout, speed_factor=10.0)

    def make_client(name: str) -> EdgeClient:
        return EdgeClient(client, name)

    for number in range(clients):
        world.add(
            f"client-{number}",
            make_agent=make_client,
            make_learner=ToyLearner,
            inbox=messages.EdgeClientInbox,
            group=slow if number % 5 == 0 else fast,
        )
    return world


class Idler:
    """One agent for the whole fleet, with a timer and a job under way for each: what remains is the host's own memory."""

    name = ""
    finished = False

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [SetTimer("later", 1e6), RunJob(jobs.Forward(messages.StepId("", 1, 1), 0))]

    def validate(self) -> None: ...


def idle_simulation(clients: int) -> Simulation:
    world, idler, learner, group = Simulation(seed=0), Idler(), ToyLearner(""), FleetGroup()
    for number in range(clients):
        world.add(
            f"client-{number}", make_agent=lambda _: idler, make_learner=lambda _: learner, inbox=messages.EdgeClientInbox, group=group
        )
    return world


# -- measurements -------------------------------------------------------------------------------------


def events_per_s(clients: int, client_steps: int, runs: int) -> dict[str, float]:
    """Medians over ``runs`` runs, of wall and of CPU time."""
    wall, cpu = [], []
    for seed in range(runs):
        world = toy_simulation(clients, client_steps, seed)
        wall_s, cpu_s = perf_counter(), process_time()
        events = world.run().events
        wall.append(events / (perf_counter() - wall_s))
        cpu.append(events / (process_time() - cpu_s))
    return {"wall": round(median(wall)), "cpu": round(median(cpu))}


def large_fleet(clients: int, client_steps: int) -> Simulation:
    """As one would run very many clients: K and the server's speed grow with the fleet, and catching up is done by snapshot.

    Otherwise every client replays the steps of all others, and the server is overrun: work for clients x steps, whatever the host.
    """
    aggregation = AggregatorSettings(buffer_contributions=clients // 20, snapshot_every_versions=1, snapshot_behind_versions=1)
    return toy_simulation(clients, client_steps, aggregation=aggregation, compute=ComputeSettings(backward_s=0.1 / clients))


def events_per_client_step(clients: int, steps_each: int) -> float:
    steps = clients * steps_each
    outcome = large_fleet(clients, steps).run()
    assert outcome.ended == "finished", outcome
    return round(outcome.events / steps, 2)


def bytes_per_client(build: Callable[[int], Simulation], until_s: float, few: int, many: int) -> int:
    """Slope of the memory held at a modelled instant, between two sizes of fleet."""
    held = []
    for clients in (few, many):
        gc.collect()
        tracemalloc.start()
        world = build(clients)
        world.run(until_s=until_s)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del world
    return round((held[1] - held[0]) / (many - few))


def measure(*, small: bool) -> dict[str, Any]:
    fleets = (20, 100) if small else (100, 1_000, 10_000)
    few, many = (200, 600) if small else (1_000, 3_000)
    return {
        "events_per_s": events_per_s(100, 500 if small else 5_000, 1 if small else 5),
        "events_per_client_step": {str(clients): events_per_client_step(clients, STEPS_EACH) for clients in fleets},
        "bytes_per_client": {
            "host": bytes_per_client(idle_simulation, 0.05, few, many),
            "host_and_agent": bytes_per_client(lambda clients: large_fleet(clients, 10 * clients), 0.35, few, many),
        },
    }


def main() -> None:
    arguments = new_parser(__doc__).parse_args()
    figures = measure(small=arguments.small)
    if arguments.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
        return
    speed, memory = figures["events_per_s"], figures["bytes_per_client"]
    print(f"100 clients: {speed['wall']:,} events/s ({speed['cpu']:,} per CPU second), real agents and codec, toy learner")
    for clients, events in figures["events_per_client_step"].items():
        print(f"{int(clients):>6,} clients: {events} events per client step")
    print(f"memory per client: {memory['host']:,} bytes of the host, {memory['host_and_agent']:,} with agent, membership and mail")


if __name__ == "__main__":
    main()
