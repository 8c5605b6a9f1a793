"""Zeroth-order variance reduction, each way against plain probes at equal forward passes.

``python -m benchmarks.variance [--half 64-7] [--seeds 6] [--rate 0.4] [--only "plain, P = 5;memory, P = 5"] [--json FILE]`` trains digits
by the plain synchronous loop: four clients (Dirichlet 0.5), each version one step of each, the client halves of the quickstart (64-7) and
of ``sign_rank`` (64-64-7). Whatever a way does, each client runs as many forward passes, the anchors counted: more of them a step means
fewer steps, and fewer samples. The log's learning rate is chosen for each way among ``Size.rates`` by seeds that are not reported.
Accuracy at the end, on the held-out samples.

``python -m benchmarks.variance --error`` measures the estimates themselves: |estimate - gradient|^2 / |gradient|^2 on one batch of the
initial client half, beside what theory says (see ``expected_error``). ``docs/results.md`` has the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import SMALL_SEEDS, new_parser
from hosfl_async.errors import LearnerError
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.perturbation import Perturber, direction_key
from hosfl_async.learning.randomness import permutation
from hosfl_async.learning.reference import Reference
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.messages import StepId

Array = NDArray[np.float64]

CLIENTS, MU, BLOCK = ("client-0", "client-1", "client-2", "client-3"), 1e-3, 64
TUNED_ON = (100, 101)
COUNTED = ("independent", "orthogonal")
"""Directions of which ``expected_error`` knows the error."""
HALVES = {"7": (7,), "64-7": (64, 7)}
FIRST_RATE = 0.4


@dataclass(frozen=True)
class Size:
    """How much is run."""

    forwards: int
    """Of a client in a training, the anchors counted."""
    rates: tuple[float, ...]
    """To choose from; ``FIRST_RATE`` is one."""
    draws: int
    """Of directions, where estimates are measured."""


FULL, SMALL = Size(1800, (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2), 400), Size(41, (FIRST_RATE,), 4)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a client estimates, and what the log does with it."""

    probes: int
    directions: str = "independent"
    """independent: a sign for each weight. orthogonal: rows of a Hadamard matrix under common random signs. one_layer: a sign for each
    weight of one layer, zero elsewhere, the layers in turn. gaussian: for ``curvature`` only. none: the client half stays as it is.
    exact: back-propagation, what no estimate can be better than. activities: not weights are perturbed but what each unit takes in before
    its relu, by a sign for each unit and sample, and each sample has a slope of its own (arXiv:2210.03310). Its contribution is dense."""
    central: bool = False
    """Antithetic pairs: two forward passes a direction, at theta + mu u and theta - mu u."""
    update: str = "sgd"
    """momentum (0.9) and adamw: learning rates that stand for the same step size are ``rate`` times 0.1 and 0.025. memory: SEGA."""
    steps: str = "alike"
    """root: a layer's step size is in proportion to 1 / sqrt(its parameters). norm: to its root mean square."""

    @property
    def forwards(self) -> int:
        """Of one client step, with the anchor."""
        return 1 + self.probes * (2 if self.central else 1)


WAYS = {f"plain, P = {probes}": Way(probes=probes) for probes in (1, 2, 5, 10, 20, 40)} | {
    "frozen, as long as P = 5": Way(probes=5, directions="none"),
    "exact gradient, as long as P = 5": Way(probes=5, directions="exact"),
    "exact gradient, as long as P = 20": Way(probes=20, directions="exact"),
    "activities, P = 1": Way(probes=1, directions="activities"),
    "activities, P = 5": Way(probes=5, directions="activities"),
    "activities, P = 20": Way(probes=20, directions="activities"),
    "antithetic, P = 5": Way(probes=5, central=True),
    "antithetic, P = 10": Way(probes=10, central=True),
    "orthogonal, P = 5": Way(probes=5, directions="orthogonal"),
    "orthogonal, P = 20": Way(probes=20, directions="orthogonal"),
    "orthogonal, P = 40": Way(probes=40, directions="orthogonal"),
    "momentum, P = 5": Way(probes=5, update="momentum"),
    "adamw, P = 5": Way(probes=5, update="adamw"),
    "curvature, P = 5": Way(probes=5, directions="gaussian", central=True, update="curvature"),
    "step size by 1/sqrt(d), P = 5": Way(probes=5, steps="root"),
    "step size by norm, P = 5": Way(probes=5, steps="norm"),
    "a layer at a time, P = 5": Way(probes=5, directions="one_layer"),
    "memory, P = 1": Way(probes=1, update="memory"),
    "memory, P = 2": Way(probes=2, update="memory"),
    "memory, P = 5": Way(probes=5, update="memory"),
    "memory, P = 20": Way(probes=20, update="memory"),
}


def hadamard(size: int) -> Array:
    """Sylvester's matrix of +-1 with orthogonal rows; ``size`` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


class Directions:
    """(probes, d) of each step, drawn from its name."""

    def __init__(self, way: Way, run_key: bytes, shapes: Sequence[tuple[int, ...]]) -> None:
        self._way, self._run_key, self._perturber = way, run_key, Perturber()
        ends = np.cumsum([prod(shape) for shape in shapes])[1::2]
        self.layers = [slice(begin, end) for begin, end in pairwise([0, *ends])]
        """Weights and biases of each layer; the chain has no other parameters."""
        self._size, self._rows = int(ends[-1]), np.tile(hadamard(BLOCK), -(-int(ends[-1]) // BLOCK))[:, : ends[-1]]

    def signs(self, step: StepId, size: int) -> Array:
        """One for each element, (probes, size)."""
        keys = [direction_key(self._run_key, step, probe) for probe in range(self._way.probes)]
        return self._perturber.written(keys, size).astype(np.float64)

    def of(self, step: StepId) -> Array:
        way = self._way
        if way.directions == "none":
            return np.zeros((way.probes, self._size))
        if way.directions == "orthogonal":
            rows = permutation(direction_key(self._run_key, step, 1), BLOCK)[: way.probes]
            return self._rows[rows] * self.signs(step, self._size)[:1]
        if way.directions == "gaussian":
            key = int.from_bytes(direction_key(self._run_key, step, 0), "little")
            return np.random.Generator(np.random.Philox(key)).standard_normal((way.probes, self._size))
        drawn = self.signs(step, self._size)
        if way.directions == "one_layer":
            for probe, direction in enumerate(drawn):
                layer = self.layers[(step.number + probe) % len(self.layers)]
                direction[: layer.start] = direction[layer.stop :] = 0
                direction *= len(self.layers) ** 0.5
        return drawn


def activations_at(
    thetas: Array, shapes: Sequence[tuple[int, ...]], batch: torch.Tensor, moves: Array | None = None
) -> tuple[Array, list[Array]]:
    """The client half (fully connected layers, each with relu) at each of these parameter vectors, (vectors, samples, cut width), and what
    goes into each layer. ``moves`` (vectors, samples, units of all layers) is added before the relus."""
    parameters, values, begin, units = torch.from_numpy(thetas), batch.double().flatten(1).expand(len(thetas), -1, -1), 0, 0
    inputs = []
    for rows, columns in shapes[::2]:
        middle, end = begin + rows * columns, begin + rows * columns + rows
        weights, biases = parameters[:, begin:middle].view(-1, rows, columns), parameters[:, None, middle:end]
        inputs.append(values.numpy())
        values, begin = torch.baddbmm(biases, values, weights.mT), end
        if moves is not None:
            values += torch.from_numpy(moves[..., units : units + rows])
            units += rows
        values = values.relu()
    return values.numpy(), inputs


class Run:
    """One training run. ``theta`` in float64: what is compared here is variance, not bits."""

    def __init__(self, way: Way, half: str, rate: float, seed: int) -> None:
        task = TaskSettings(model=ModelSettings(client_widths=HALVES[half]))
        clients = float(len(CLIENTS))
        self.reference = Reference(
            task, ZerothOrderSettings(), FirstOrderSettings(), seed=seed, clients=CLIENTS, learning_rate=rate, contributions=clients
        )
        self.way, self.rate, self.shapes = way, rate, self.reference.model.client.shapes
        self.directions = Directions(way, self.reference.run_key, self.shapes)
        self.theta = self.reference.theta_c[0].astype(np.float64)
        self.mean, self.square, self.curvature = np.zeros_like(self.theta), np.zeros_like(self.theta), np.ones_like(self.theta)

    def slopes(self, step: StepId, directions: Array) -> Array:
        """v of each direction; where curvature is asked for, it learns from the second differences."""
        done, mu = self.reference.steps[step], MU * directions
        assert done.dual is not None
        dual = done.dual.reshape(-1).astype(np.float64)
        here, there, back = (
            activations_at(self.theta + move, self.shapes, done.batch)[0].reshape(len(mu), -1)
            for move in (np.zeros_like(mu), mu, -mu if self.way.central else np.zeros_like(mu))
        )
        if not self.way.central:
            return (there - here) @ dual / MU
        if self.way.update == "curvature":
            bends = np.abs((there + back - 2 * here) @ dual) / MU**2
            seen = (bends[:, None] * directions**2).mean(0) * self._trusted() ** 2 / 2
            self.curvature += 0.01 * (seen - self.curvature)
        return (there - back) @ dual / (2 * MU)

    def estimate(self, step: StepId) -> Array:
        """Of the gradient, by one client; of what is left of it beside the memory, where there is one."""
        if self.way.directions == "exact":
            return self.gradient(step)
        if self.way.directions == "activities":
            return self.by_activities(step)
        directions = self.directions.of(step)
        if self.way.update == "curvature":
            directions /= np.sqrt(self._trusted())
        found = self.slopes(step, directions)
        if self.way.update == "memory":
            found -= directions @ self.mean
        return found @ directions / self.way.probes

    def by_activities(self, step: StepId) -> Array:
        """sum over samples and layers of v s x^T: the slope of the sample, the signs of the layer's units, what goes into the layer."""
        done, probes = self.reference.steps[step], self.way.probes
        assert done.dual is not None
        units = [rows for rows, _ in self.shapes[::2]]
        signs = self.directions.signs(step, len(done.batch) * sum(units)).reshape(probes, len(done.batch), -1)
        thetas = np.broadcast_to(self.theta, (probes, self.theta.size)).copy()
        here, inputs = activations_at(thetas[:1], self.shapes, done.batch)
        there, _ = activations_at(thetas, self.shapes, done.batch, MU * signs)
        slopes = np.sum((there - here) * done.dual, axis=-1, keepdims=True) / MU
        parts = []
        for given, own in zip(inputs, np.split(slopes * signs, np.cumsum(units)[:-1], axis=-1), strict=True):
            mean_of_probes = own.mean(0)
            parts += [(mean_of_probes.T @ given[0]).reshape(-1), mean_of_probes.sum(0)]
        return np.concatenate(parts)

    def gradient(self, step: StepId) -> Array:
        """Of the step's own batch, by back-propagation."""
        done, client = self.reference.steps[step], self.reference.model.client
        assert done.dual is not None
        views = client.views(self.reference.theta_c[done.base_version])
        gradient: Array = np.asarray(client_gradient(client, views, done.batch, torch.tensor(done.dual)), np.float64)
        return gradient

    def _trusted(self) -> Array:
        """The curvature relative to its mean, within a factor of ten."""
        trusted: Array = np.clip(self.curvature / self.curvature.mean(), 0.1, 10)
        return trusted

    def move(self, estimate: Array, version: int) -> None:
        way, rate = self.way, self.rate
        if way.update == "momentum":
            self.mean = 0.9 * self.mean + 0.1 * estimate
            estimate = self.mean
        elif way.update == "adamw":
            self.mean = 0.9 * self.mean + 0.1 * estimate
            self.square = 0.999 * self.square + 0.001 * estimate**2
            scale = np.sqrt(self.square / (1 - 0.999**version)) + 1e-8
            estimate = 0.025 * self.mean / (1 - 0.9**version) / scale
        elif way.update == "memory":
            residual, estimate = estimate, self.mean + estimate
            self.mean = self.mean + residual / (1 + self.theta.size / (way.probes * len(CLIENTS)))
        self.theta -= rate * estimate * self._step_sizes()

    def _step_sizes(self) -> Array | float:
        """Of each parameter; their mean is 1."""
        if self.way.steps == "alike":
            return 1.0
        sizes = np.empty_like(self.theta)
        for layer in self.directions.layers:
            part = self.theta[layer]
            sizes[layer] = part.size**-0.5 if self.way.steps == "root" else np.sqrt(np.mean(part**2))
        relative: Array = sizes / sizes.mean()
        return relative

    def trained(self, forwards: int) -> float:
        """Held-out accuracy at the end of so many forward passes; 0 if the loss ran out of bounds on the way."""
        versions = forwards // self.way.forwards
        for version in range(1, versions + 1):
            theta = self.reference.theta_c[version - 1]
            theta[:] = self.theta
            estimates = []
            for client in CLIENTS:
                step = StepId(client, 1, version)
                self.reference.forward(step, version - 1)
                try:
                    self.reference.backward(step, 1.0)
                except LearnerError:
                    return 0.0
                estimates.append(self.estimate(step))
                del self.reference.steps[step], self.reference.duals[step]
            self.move(np.mean(estimates, 0), version)
            self.reference.theta_c = {version: theta}
        self.reference.theta_c[versions][:] = self.theta
        return self.reference.accuracy(versions)


def expected_error(way: Way, size: int) -> float:
    """Of one client's estimate, relative to |g|^2, for signs. Independent: (d - 1) / P, for E |v u|^2 = d |g|^2 and P of them are averaged.
    Mutually orthogonal: d / P - 1, the share of the space that was not seen. Where d is no multiple of the block, a little more."""
    return size / way.probes - 1 if way.directions == "orthogonal" else (size - 1) / way.probes


def measured_errors(way: Way, half: str, draws: int) -> list[float]:
    """|estimate - g|^2 / |g|^2, each draw with other directions on the same batch at the initial client half."""
    run, first = Run(way, half, 0.0, 0), StepId(CLIENTS[0], 1, 1)
    run.reference.forward(first, 0)
    run.reference.backward(first, 1.0)
    gradient = run.gradient(first)
    errors = []
    for number in range(2, draws + 2):
        again = StepId(CLIENTS[0], 1, number)
        run.reference.steps[again] = replace(run.reference.steps[first])
        errors.append(float(np.sum((run.estimate(again) - gradient) ** 2) / np.sum(gradient**2)))
    return errors


def tuned(way: Way, half: str, size: Size) -> float:
    """A learning rate that beats its neighbours on the seeds that are not reported; the only one where there is no other."""
    if len(size.rates) == 1:
        return size.rates[0]

    @cache
    def accuracy(place: int) -> float:
        return mean(Run(way, half, size.rates[place], seed).trained(size.forwards) for seed in TUNED_ON)

    place = size.rates.index(FIRST_RATE)
    while True:
        best = max(range(max(place - 1, 0), min(place + 2, len(size.rates))), key=accuracy)
        if best == place:
            return size.rates[place]
        place = best


def measure(way: Way, half: str, seeds: int, size: Size, rate: float | None = None) -> dict[str, Any]:
    rate = rate or tuned(way, half, size)
    samples = size.forwards // way.forwards * len(CLIENTS) * TaskSettings().batch_size
    return {"rate": rate, "samples": samples, "accuracy": [Run(way, half, rate, seed).trained(size.forwards) for seed in range(seeds)]}


def _size(arguments: argparse.Namespace) -> Size:
    return SMALL if arguments.small else FULL


def told_error(name: str, way: Way, arguments: argparse.Namespace) -> list[float]:
    errors = measured_errors(way, arguments.half, _size(arguments).draws)
    size = Run(way, arguments.half, 0.0, 0).theta.size
    spread = stdev(errors) / len(errors) ** 0.5
    print(f"{name:>34}  {mean(errors):8.2f} +- {spread:.2f}  expected {expected_error(way, size):8.2f}", flush=True)
    return errors


def told_training(name: str, way: Way, arguments: argparse.Namespace) -> dict[str, Any]:
    figures = measure(way, arguments.half, arguments.seeds, _size(arguments), arguments.rate)
    measured = figures["accuracy"]
    print(
        f"{name:>34}  rate {figures['rate']:<5}  {figures['samples']:>7,} samples  mean {mean(measured):.3f}  "
        f"median {median(measured):.3f}  {min(measured):.3f} to {max(measured):.3f}",
        flush=True,
    )
    return figures


def main() -> None:
    parser = new_parser(__doc__, as_json=False)
    parser.add_argument("--half", choices=list(HALVES), default="7")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rate", type=float, help="the learning rate of all, instead of the best of each")
    parser.add_argument("--only", default="", help="names of ways, separated by semicolons")
    parser.add_argument("--error", action="store_true", help="measure the estimates, not the training")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.seeds = min(arguments.seeds, SMALL_SEEDS)
    torch.set_num_threads(1)
    ways = {name: WAYS[name] for name in arguments.only.split(";")} if arguments.only else WAYS
    if arguments.error:
        ways = {name: way for name, way in ways.items() if (way.update, way.steps) == ("sgd", "alike") and way.directions in COUNTED}
    told = told_error if arguments.error else told_training
    found = {name: told(name, way, arguments) for name, way in ways.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
