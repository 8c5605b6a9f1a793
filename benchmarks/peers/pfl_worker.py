"""pfl-research on the trivial update; runs in its own environment and prints one JSON object. ``pfl_worker.py CLIENTS UPDATES PARAMETERS``

One worker process, numpy, no deep learning framework: its leanest way. Each cohort is the whole fleet.
"""

import json
import resource
import sys
from time import perf_counter, process_time

import numpy as np
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import FederatedAlgorithm
from pfl.common_types import Population
from pfl.context import CentralContext
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import AlgorithmHyperParams, ModelHyperParams
from pfl.internal.ops import numpy_ops
from pfl.internal.ops.selector import set_framework_module
from pfl.metrics import Metrics
from pfl.model.base import Model
from pfl.stats import MappedVectorStatistics


class Vector(Model):
    def __init__(self, size):
        self.values = np.zeros(size, np.float32)

    def apply_model_update(self, statistics):
        statistics.average()
        self.values += statistics["values"]
        return self, Metrics()


class TrivialUpdate(FederatedAlgorithm):
    def __init__(self, clients, rounds):
        super().__init__()
        self._clients, self._rounds = clients, rounds

    def get_next_central_contexts(self, model, iteration, algorithm_params, model_train_params, model_eval_params=None):
        if iteration == self._rounds:
            return None, model, Metrics()
        context = CentralContext(
            current_central_iteration=iteration,
            do_evaluation=False,
            cohort_size=self._clients,
            population=Population.TRAIN,
            model_train_params=model_train_params,
            algorithm_params=algorithm_params,
        )
        return (context,), model, Metrics()

    def process_aggregated_statistics(self, central_context, aggregate_metrics, model, statistics):
        return model.apply_model_update(statistics)

    def simulate_one_user(self, model, user_dataset, central_context):
        update = np.full_like(model.values, np.float32(user_dataset.raw_data[0][0]))
        return MappedVectorStatistics({"values": update}, weight=1.0), Metrics()


def main():
    clients, updates, parameters = map(int, sys.argv[1:])
    set_framework_module(numpy_ops)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shards = {number: Dataset((np.array([number % 7], np.float32),)) for number in range(clients)}
    users = FederatedDataset(shards.__getitem__, MinimizeReuseUserSampler(list(shards)))
    backend = SimulatedBackend(training_data=users, val_data=None)
    model = Vector(parameters)
    rounds = -(-updates // clients)
    algorithm = TrivialUpdate(clients, rounds)
    wall, cpu = perf_counter(), process_time()
    algorithm.run(AlgorithmHyperParams(), backend, model, ModelHyperParams())
    wall, cpu = perf_counter() - wall, process_time() - cpu
    assert model.values[0] > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "updates": rounds * clients, "wall_s": wall, "cpu_s": cpu, "peak_rss_bytes": peak * 1024, "grown_bytes": (peak - before) * 1024,
    }))  # fmt: skip


main()
