"""What clients without back-propagation win on a pretrained text encoder: MiniLM on `snippets`, between a frozen client and first order.

``python -m benchmarks.skip_feedback [--seeds 3] [--ways frozen,hosfl] [--cut 4] [--steps 240] [--forwards 0] [--falling] [--json]`` trains
one client and the server step by step (no staleness: what is compared is the estimate) and prints, for each way, held-out accuracy and
loss, final and best, over the seeds. All ways see the same batches and the same initial server half; both halves are moved by AdamW, with
``--falling`` at rates that fall to zero at the last step. ``--forwards`` gives every way the same forward passes of the client half
instead of the same steps.

``--angles`` prints instead the cosine between what a way estimates and the true gradient, for each learnt parameter and for all together,
after a few server steps, and the square of the latter: the share of the true gradient's energy that the estimate sees.

It needs `hosfl data fetch snippets minilm`. A seed takes about three minutes for each way on a quiet core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from benchmarks import SMALL_SEEDS, new_parser
from hosfl_async.learning.data import BatchSampler, Dataset, load_dataset
from hosfl_async.learning.directions import new_perturber, new_prober
from hosfl_async.learning.first_order import Optimizer, ServerTrainer, client_gradient
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, aligned_vector, direction_key
from hosfl_async.learning.randomness import named_key
from hosfl_async.learning.sequences import lengths_of, take
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, Trainable, ZerothOrderSettings
from hosfl_async.learning.skip_feedback import SkipFeedback
from hosfl_async.learning.split_model import SplitModel, Views, initial_theta_c, initial_theta_s
from hosfl_async.learning.zeroth_order import Activations, forward, project
from hosfl_async.messages import StepId

PROBES, MANY = 5, 20
SERVER_RATE = 5e-5
TEST_BATCH = 50
ANGLES_AFTER = 40
"""Server steps."""
ANGLE_BATCHES = 12
EVALUATIONS = 3
"""Of a run at equal forward passes, whose steps differ from way to way."""
SMALL = {"steps": 2, "every": 1, "batch": 4, "tokens": 8}
SMALL_FORWARDS = 12


class Way(NamedTuple):
    """How the client half is learnt; ``forwards``: what a client step costs in forward passes, a backward pass counting two."""

    estimator: str
    trainable: Trainable
    learning_rate: float
    forwards: float
    probes: int = PROBES
    signs: Literal["independent", "low_rank"] = "low_rank"


class Schedule(NamedTuple):
    """How many steps a run takes, and how many there are between two evaluations."""

    steps: int
    every: int


def schedule(way: Way, options: argparse.Namespace) -> Schedule:
    """``options.steps``, or as many as ``options.forwards`` forward passes of the client half pay for."""
    if not options.forwards:
        return Schedule(options.steps, options.every)
    every = max(1, round(options.forwards / way.forwards / EVALUATIONS))
    return Schedule(every * EVALUATIONS, every)


WAYS: dict[str, Way] = {
    "frozen": Way("none", "lora_writers", 0.0, 1),
    "hosfl": Way("probes", "lora_writers", 1e-3, 1 + PROBES),
    "hosfl_independent": Way("probes", "lora_writers", 1e-3, 1 + PROBES, signs="independent"),
    "hosfl_many": Way("probes", "lora_writers", 1e-3, 1 + MANY, MANY),
    "hosfl_norms": Way("probes", "norms", 3e-3, 1 + PROBES),
    "skip_norms": Way("skip", "norms", 3e-3, 2.1),
    "first_norms": Way("gradient", "norms", 3e-3, 3),
    "skip_lora": Way("skip", "lora_writers", 1e-3, 2.1),
    "gated_lora": Way("gated", "lora_writers", 1e-3, 2.9),
    "first_lora": Way("gradient", "lora_writers", 1e-3, 3),
    "first_lora_qv": Way("gradient", "lora", 1e-3, 3),
    "skip_writers": Way("skip", "writers", 1e-4, 2.5),
    "gated_writers": Way("gated", "writers", 1e-4, 3.3),
    "first_writers": Way("gradient", "writers", 1e-4, 3),
    "hosfl_blocks": Way("probes", "blocks", 5e-5, 1 + PROBES),
    "first_blocks": Way("gradient", "blocks", 5e-5, 3),
    "last_writer": Way("last", "writers", 1e-4, 2.2),
}


FED_BACK_BY = ("skip", "gated", "last")


class Client:
    """The client half, and one step of it by one way."""

    def __init__(self, way: Way, model: SplitModel, seed: int, decay_steps: int) -> None:
        self.way, self.half, self.run_key = way, model.client, named_key("run", seed)
        self.theta = initial_theta_c(model, seed)
        self.views: Views = self.half.views(self.theta)
        self.optimizer = Optimizer(FirstOrderSettings(learning_rate=way.learning_rate or 1.0, decay_steps=decay_steps), self.half.size)
        settings = ZerothOrderSettings(signs=way.signs)
        self.mu, self.prober = settings.mu, new_prober(self.half, self.run_key, settings)
        self.perturber = new_perturber(self.half, settings)
        self.feedback = SkipFeedback(self.half, "gated" if way.estimator == "gated" else "skip") if way.estimator in FED_BACK_BY else None

    def forward(self, batch: torch.Tensor) -> tuple[Activations, Any]:
        return self.feedback.forward(self.views, batch) if self.feedback else (forward(self.half, self.views, batch), None)

    def gradient(self, step: StepId, batch: torch.Tensor, activations: Activations, noted: Any, dual: torch.Tensor) -> Vector:
        if self.feedback:
            found = self.feedback.gradient(self.views, batch, dual, noted)
            if self.way.estimator == "last":
                found[: -sum(part.numel() for part in self.views[-2:])] = 0
            return found
        if self.way.estimator == "gradient":
            return client_gradient(self.half, self.views, batch, dual)
        differences = self.prober.differences(self.theta, self.views, batch, activations, step, self.way.probes)
        found = aligned_vector(self.half.size)
        found[:] = 0
        for probe, slope in enumerate(project(differences, dual.numpy(), self.mu)):
            self.perturber.add_scaled_direction(found, direction_key(self.run_key, step, probe, None), slope / self.way.probes)
        return found


class Trial:
    """One way, one seed: data, both halves, and the steps."""

    def __init__(self, way: Way, options: argparse.Namespace, seed: int) -> None:
        settings = ModelSettings(name="minilm", cut_block=options.cut, trainable=way.trainable)
        task = TaskSettings(data="snippets", batch_size=options.batch, tokens_max=options.tokens, model=settings)
        self.data: Dataset = load_dataset(task, seed)
        model = build_model(settings, self.data.image_shape, self.data.classes, self.data.vocabulary)
        decay_steps = schedule(way, options).steps if options.falling else 0
        self.client = Client(way, model, seed, decay_steps)
        server = FirstOrderSettings(learning_rate=SERVER_RATE, decay_steps=decay_steps)
        self.server = ServerTrainer(model.server, initial_theta_s(model, seed), server)
        self.sampler = BatchSampler(seed, options.batch)
        self.images, self.labels = torch.from_numpy(self.data.train_images), torch.from_numpy(self.data.train_labels)

    def batch(self, step: StepId) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.as_tensor(self.sampler.draw(step, len(self.labels)))
        return take(self.images, chosen), self.labels[chosen]

    def step(self, number: int) -> None:
        step = StepId("client-1", 1, number)
        batch, labels = self.batch(step)
        activations, noted = self.client.forward(batch)
        dual = self.server.backward(torch.tensor(activations), labels, lengths=lengths_of(batch)).dual
        if self.client.way.estimator != "none":
            self.client.optimizer.step(self.client.theta, self.client.gradient(step, batch, activations, noted, dual))

    def evaluate(self) -> tuple[float, float]:
        """Held-out accuracy and mean loss."""
        images, labels = torch.from_numpy(self.data.test_images), torch.from_numpy(self.data.test_labels)
        correct, loss = 0, 0.0
        for begin in range(0, len(labels), TEST_BATCH):
            batch = take(images, slice(begin, begin + TEST_BATCH))
            activations = torch.from_numpy(forward(self.client.half, self.client.views, batch))
            hits, summed = self.server.evaluate(activations, labels[begin : begin + TEST_BATCH], lengths=lengths_of(batch))
            correct, loss = correct + hits, loss + summed
        return correct / len(labels), loss / len(labels)


def run(name: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one trial; the evaluations on the way."""
    trial, accuracies, losses = Trial(WAYS[name], options, seed), [], []
    steps, every = schedule(WAYS[name], options)
    for number in range(1, steps + 1):
        trial.step(number)
        if number % every == 0:
            accuracy, loss = trial.evaluate()
            accuracies.append(accuracy)
            losses.append(loss)
            print(f"{name} seed {seed} step {number}: accuracy {accuracy:.3f}, loss {loss:.4f}", file=sys.stderr, flush=True)
    return {"way": name, "seed": seed, "steps": steps, "parameters": trial.client.half.size, "accuracy": accuracies, "loss": losses}


def angles(options: argparse.Namespace) -> None:
    """Cosine with the true gradient, for each learnt parameter from the bottom up, over a few batches."""
    for name in ("hosfl", "skip_lora", "gated_lora", "skip_writers", "gated_writers"):
        trial = Trial(WAYS[name], options, 0)
        client, found, whole = trial.client, [], []
        server_only = Trial(WAYS["frozen"]._replace(trainable=WAYS[name].trainable), options, 0)
        for number in range(1, (SMALL["steps"] if options.small else ANGLES_AFTER) + 1):
            server_only.step(number)
        for number in range(1000, 1000 + (2 if options.small else ANGLE_BATCHES)):
            step = StepId("client-1", 1, number)
            batch, labels = trial.batch(step)
            activations, noted = client.forward(batch)
            dual = server_only.server.evaluate_dual(torch.tensor(activations), labels, lengths=lengths_of(batch)).dual
            estimate = client.gradient(step, batch, activations, noted, dual)
            true = client_gradient(client.half, client.views, batch, dual)
            parts = zip(client.half.views(estimate), client.half.views(true), strict=True)
            found.append([_cosine(one, other) for one, other in parts])
            whole.append(_cosine(torch.from_numpy(estimate), torch.from_numpy(true)))
        print(f"{name}: " + " ".join(f"{value:.2f}" for value in np.mean(found, axis=0)))
        square = f"{np.mean(np.square(whole)):.6f} over {len(whole)} batches"
        expected = f"; expected P / (d + P - 1) = {PROBES / (client.half.size + PROBES - 1):.6f}" if name == "hosfl" else ""
        print(f"{name}, all together: cosine {np.mean(whole):.4f}, its square {square}{expected}")


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0))


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line a way: over the seeds, mean and standard deviation."""
    lines = ["way            forwards  steps  parameters  accuracy: final        best           mean of the second half   loss: final"]
    for name in dict.fromkeys(each["way"] for each in results):
        mine = [each for each in results if each["way"] == name]
        late = [mean(each["accuracy"][len(each["accuracy"]) // 2 :]) for each in mine]
        columns = [
            [each["accuracy"][-1] for each in mine],
            [max(each["accuracy"]) for each in mine],
            late,
            [each["loss"][-1] for each in mine],
        ]
        shown = "  ".join(f"{mean(column):.4f} +- {stdev(column) if len(column) > 1 else 0:.4f}" for column in columns)
        lines.append(
            f"{name:15}{WAYS[name].forwards:8.1f}  {mine[0]['steps']:5}  {mine[0]['parameters']:10,}  {shown}  ({len(mine)} seeds)"
        )
    return "\n".join(lines)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--seeds", default="3", help="how many, or a list such as 0,2 or 7,")
    parser.add_argument("--ways", default="frozen,skip_lora,first_lora", help=f"of {', '.join(WAYS)}")
    for name, value in (("cut", 4), ("steps", 240), ("every", 60), ("batch", 16), ("tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--forwards", type=int, default=0, help="forward passes of the client half that every way may take, in place of --steps"
    )
    parser.add_argument("--falling", action="store_true", help="the rates of both halves fall in a straight line to zero at the last step")
    parser.add_argument("--angles", action="store_true", help="cosines with the true gradient instead")
    options = parser.parse_args()
    if options.small:
        vars(options).update(SMALL, forwards=min(options.forwards, SMALL_FORWARDS))
    torch.set_num_threads(1)
    if options.angles:
        angles(options)
        return
    seeds = [int(each) for each in options.seeds.split(",") if each] if "," in options.seeds else [*range(int(options.seeds))]
    results = []
    for seed in seeds[:SMALL_SEEDS] if options.small else seeds:
        for name in options.ways.split(","):
            results.append(run(name, options, seed))
            if options.json:
                print(json.dumps(results[-1]), flush=True)
    if not options.json:
        print(table(results))


if __name__ == "__main__":
    main()
