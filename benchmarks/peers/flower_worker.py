"""Flower's simulation engine (Ray) on the trivial update; runs in its own environment. ``flower_worker.py CLIENTS UPDATES PARAMETERS``

Its message API as its documents recommend: a ClientApp for each node, FedAvg over all nodes, one CPU for each running client.
"""

import json
import sys
from time import perf_counter

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

CLIENTS, UPDATES, PARAMETERS = map(int, sys.argv[1:])
ROUNDS = -(-UPDATES // CLIENTS)

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    values = message.content["arrays"].to_numpy_ndarrays()[0]
    update = values + np.float32(int(context.node_config["partition-id"]) % 7)
    content = RecordDict({"arrays": ArrayRecord([update]), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid, context):
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    began = perf_counter()
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(PARAMETERS, np.float32)]), num_rounds=ROUNDS)
    wall_s = perf_counter() - began
    assert result.arrays.to_numpy_ndarrays()[0][0] > 0
    print(json.dumps({"updates": ROUNDS * CLIENTS, "wall_s": wall_s}), flush=True)


run_simulation(server_app=server, client_app=client, num_supernodes=CLIENTS, backend_config={"client_resources": {"num_cpus": 1}})
