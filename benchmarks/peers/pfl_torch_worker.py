"""pfl-research on the trivial update as its documents use it: ``FederatedAveraging`` on a ``PyTorchModel``; in its own environment.

``pfl_torch_worker.py CLIENTS UPDATES PARAMETERS [sgd]``. One worker process, each cohort the whole fleet, no evaluation. Local training is
its own loop over the user's batches; without ``sgd`` the step in it is replaced by adding the constant, as ``do_multiple_epochs_of`` and
``train_one_user`` allow. With ``sgd`` nothing is replaced: the loss is such that one step of SGD adds the constant.
"""

import json
import sys
from time import perf_counter, process_time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Vector(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.values = torch.nn.Parameter(torch.zeros(size))

    def loss(self, added):
        return -added[0] * self.values.sum()

    def metrics(self, added):
        return {}


@torch.no_grad()
def add(pytorch_model, local_optimizer, raw_data, train_kwargs, train_step_args):
    pytorch_model.values += raw_data[0][0]


class TrivialUpdate(FederatedAveraging):
    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        model.do_multiple_epochs_of(user_dataset, central_context.model_train_params, add)
        return model.get_model_difference(initial_model_state), Metrics()


def main():
    clients, updates, parameters = map(int, sys.argv[1:4])
    algorithm = FederatedAveraging() if sys.argv[4:] == ["sgd"] else TrivialUpdate()
    torch.manual_seed(0)
    shards = {number: Dataset((np.array([number % 7], np.float32),)) for number in range(clients)}
    users = FederatedDataset(shards.__getitem__, MinimizeReuseUserSampler(list(shards)))
    backend = SimulatedBackend(training_data=users, val_data=None)
    vector = Vector(parameters)
    model = PyTorchModel(vector, torch.optim.SGD, torch.optim.SGD(vector.parameters(), lr=1.0))
    rounds = -(-updates // clients)
    settings = NNAlgorithmParams(
        central_num_iterations=rounds, evaluation_frequency=rounds + 1, train_cohort_size=clients, val_cohort_size=0
    )
    training = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1.0, local_batch_size=1)
    torch.set_num_threads(1)
    wall, cpu = perf_counter(), process_time()
    algorithm.run(settings, backend, model, training)
    wall, cpu = perf_counter() - wall, process_time() - cpu
    expected = rounds * np.mean([number % 7 for number in range(clients)])
    assert abs(vector.values[0].item() - expected) < 1e-3 * expected, (vector.values[0], expected)
    print(json.dumps({"updates": rounds * clients, "wall_s": wall, "cpu_s": cpu}))


main()
