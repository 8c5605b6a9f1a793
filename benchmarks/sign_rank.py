"""What fewer random signs cost in accuracy: low-rank directions of several ranks against a sign for each weight.

``python -m benchmarks.sign_rank [--seeds 12] [--json]`` trains a wider client half than the quickstart's (digits, 64-64-7, so that the
rank matters) by the plain loop of ``learning/reference.py``: four clients, each version one step of each, P = 8. Three learning rates,
the last so bold that a heavy tail of the estimate shows. Accuracy at the end, on the held-out samples.
"""

from __future__ import annotations

import argparse
import json
from statistics import mean, median

import torch

from hosfl_async.learning.reference import Reference, synchronous
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, PartitionSettings, TaskSettings, ZerothOrderSettings

VERSIONS, PROBES, CLIENTS = 400, 8, ("client-0", "client-1", "client-2", "client-3")
TASK = TaskSettings(model=ModelSettings(client_widths=(64, 7)), partition=PartitionSettings(rule="iid"))
KINDS = {
    "rank 1": ZerothOrderSettings(rank=1),
    "rank 4": ZerothOrderSettings(rank=4),
    "rank 16 (default)": ZerothOrderSettings(rank=16),
    "independent": ZerothOrderSettings(signs="independent"),
}
RATES = (0.05, 0.2, 0.5)


def accuracy(kind: ZerothOrderSettings, rate: float, seed: int) -> float:
    """Held-out accuracy at the last version of one run."""
    reference = Reference(
        TASK, kind, FirstOrderSettings(), seed=seed, clients=CLIENTS, learning_rate=rate, contributions=float(len(CLIENTS))
    )
    synchronous(reference, versions=VERSIONS, probes=PROBES)
    return reference.accuracy(VERSIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Low-rank directions against a sign for each weight.")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        f"{name}, rate {rate}": [accuracy(kind, rate, seed) for seed in range(arguments.seeds)]
        for rate in RATES
        for name, kind in KINDS.items()
    }
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{'directions':>30}   mean  median  lowest to highest of {arguments.seeds} seeds")
    for name, measured in results.items():
        print(f"{name:>30}  {mean(measured):.3f}   {median(measured):.3f}  {min(measured):.3f} to {max(measured):.3f}")


if __name__ == "__main__":
    main()
