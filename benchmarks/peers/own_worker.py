"""Our simulator on the trivial update: real agents, codec, network and log, a learner that computes nothing.

``python -m benchmarks.peers.own_worker 1000 5000 100``: clients, updates, parameters. What travels is what our method sends: two numbers
of activations, two of the dual, two scalars; parameters do not travel at all and are ignored.
"""

import json
import sys
from time import perf_counter, process_time

from benchmarks.simulator import large_fleet


def main() -> None:
    clients, updates, _ = map(int, sys.argv[1:])
    world = large_fleet(clients, updates)
    wall, cpu = perf_counter(), process_time()
    outcome = world.run()
    print(json.dumps({"updates": updates, "wall_s": perf_counter() - wall, "cpu_s": process_time() - cpu, "events": outcome.events}))


if __name__ == "__main__":
    main()
