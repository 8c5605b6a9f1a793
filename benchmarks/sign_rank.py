"""What fewer random signs cost in accuracy: low-rank directions of several ranks against a sign for each weight.

``python -m benchmarks.sign_rank [--seeds 12] [--json]`` trains a wider client half than the quickstart's (digits, 64-64-7, so that the
rank matters) by the plain loop of ``learning/reference.py``: four clients, each version one step of each, P = 8. Three learning rates,
the last so bold that a heavy tail of the estimate shows. Accuracy at the end, on the held-out samples.
"""

from __future__ import annotations

import json
from statistics import mean, median

import torch

from benchmarks import SMALL_SEEDS, new_parser
from hosfl_async.learning.reference import Reference, synchronous
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, PartitionSettings, TaskSettings, ZerothOrderSettings

VERSIONS, SMALL_VERSIONS, PROBES, CLIENTS = 400, 2, 8, ("client-0", "client-1", "client-2", "client-3")
TASK = TaskSettings(model=ModelSettings(client_widths=(64, 7)), partition=PartitionSettings(rule="iid"))
KINDS = {
    "rank 1": ZerothOrderSettings(rank=1),
    "rank 4": ZerothOrderSettings(rank=4),
    "rank 16 (default)": ZerothOrderSettings(rank=16),
    "a sign for each weight": ZerothOrderSettings(signs="independent"),
}
RATES = (0.05, 0.2, 0.5)


def accuracy(kind: ZerothOrderSettings, rate: float, seed: int, versions: int = VERSIONS) -> float:
    """Held-out accuracy at the last version of one run."""
    reference = Reference(
        TASK, kind, FirstOrderSettings(), seed=seed, clients=CLIENTS, learning_rate=rate, contributions=float(len(CLIENTS))
    )
    synchronous(reference, versions=versions, probes=PROBES)
    return reference.accuracy(versions)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    arguments = parser.parse_args()
    seeds, versions = range(arguments.seeds), VERSIONS
    if arguments.small:
        seeds, versions = seeds[:SMALL_SEEDS], SMALL_VERSIONS
    torch.set_num_threads(1)
    results = {
        f"{name}, rate {rate}": [accuracy(kind, rate, seed, versions) for seed in seeds] for rate in RATES for name, kind in KINDS.items()
    }
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"{'directions':>34}   mean  median  lowest to highest of {len(seeds)} seeds")
    for name, measured in results.items():
        print(f"{name:>34}  {mean(measured):.3f}   {median(measured):.3f}  {min(measured):.3f} to {max(measured):.3f}")


if __name__ == "__main__":
    main()
