"""The method on one page: a plain loop, and the oracle that everything else is held against.

``synchronous`` is HO-SFL as the paper writes it (arXiv:2603.14773, section 3 and algorithm 1). ``scheduled`` computes the same steps in
any order that is given to it as a list, for instance the order that a recorded asynchronous run happened to take; the parameters must
come out equal **bit for bit**. Both know no agents, messages, queues or shared versions: they keep every version of theta_c in a
dictionary. The innermost numerics (forward, perturbation, backward, scaling) are those of the package, as bit-equality requires the
same floating-point operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hosfl_async.codec import dequantise
from hosfl_async.learning.activity_prober import ActivityProber
from hosfl_async.learning.cut_traffic import CutTraffic
from hosfl_async.learning.data import BatchSampler, load_dataset, partition
from hosfl_async.learning.directions import new_perturber, new_prober
from hosfl_async.learning.first_order import Dual, ServerTrainer, client_gradient
from hosfl_async.learning.losses import slopes
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, aligned_vector, direction_key
from hosfl_async.learning.randomness import named_key
from hosfl_async.learning.sequences import lengths_beside, take
from hosfl_async.learning.settings import (
    DEFAULT_CUT,
    DEFAULT_UPDATE,
    CutSettings,
    FirstOrderSettings,
    TaskSettings,
    UpdateSettings,
    ZerothOrderSettings,
)
from hosfl_async.learning.skip_feedback_causal import new_feedback
from hosfl_async.learning.split_model import initial_theta_c, initial_theta_s
from hosfl_async.learning.update_rule import power
from hosfl_async.learning.whole_model import local_delta
from hosfl_async.learning.zeroth_order import Activations, forward, project
from hosfl_async.learning.zeroth_order_server import ZerothOrderTrainer
from hosfl_async.messages import StepId
from hosfl_async.scaling import clipped, coefficients, combined, scaled_gradient, unpack_coefficients

ScheduleItem = tuple[Any, ...]
"""``("forward", step, base_version, batch_of or None)``, ``("backward", step, weight, steps)``,
``("backward_together", [(step, weight), ...], steps)``, ``("dual", step)``, ``("project", step, probes)``, ``("back_propagate", step)``,
``("feed_back", step)``, ``("probe_activities", step, probes)``,
``("perturbed", step, probes)`` and ``("estimate", step, weight, steps)``, ``("local_slopes", step, base_version, probes)``,
``("train_locally", step, base_version, steps, learning_rate)``, ``("clip", step, bound)`` or
``("commit", version, [(step, weight), ...])``."""


@dataclass(slots=True)
class _Step:
    """What is known of one client step so far."""

    base_version: int
    batch: torch.Tensor
    labels: torch.Tensor
    activations: Activations
    dual: Activations | None = None
    projected_gradients: tuple[float, ...] = ()
    gradient: bytes = b""
    perturbed: tuple[Activations, ...] = ()


@dataclass(slots=True)
class Outcome:
    """``theta_c[V]`` is the client half at version V, ``theta_s`` the server half at the end; ``losses`` those of the server's steps."""

    theta_c: dict[int, Vector]
    theta_s: Vector
    losses: list[float] = field(default_factory=list)


class Reference:
    """One run's data, model and parameters, and the things that can happen to them."""

    def __init__(
        self,
        task: TaskSettings,
        zeroth_order: ZerothOrderSettings,
        first_order: FirstOrderSettings,
        *,
        seed: int,
        clients: Sequence[str],
        learning_rate: float,
        contributions: float | None,
        cut: CutSettings = DEFAULT_CUT,
        update: UpdateSettings = DEFAULT_UPDATE,
        final_share: float = 1.0,
        client_steps: int = 1,
        location: str = "mean",
        trim_share: float = 0.0,
    ) -> None:
        """``contributions`` is K, the divisor of each entry; ``None`` divides by the sum of the entry's weights.

        ``final_share``: what is left of ``learning_rate`` when ``client_steps`` are in the log.
        ``location``, ``trim_share``: how scalars of shared directions are combined, see ``scaling.combined``.
        """
        data = load_dataset(task, seed)
        self.clients = clients
        self.model = build_model(task.model, data.image_shape, data.classes, data.vocabulary)
        self.data = data.shaped(self.model.input_shape)
        order, bounds = partition(data.train_labels, len(clients), task.partition, seed, data.train_owners)
        self.shards = {name: order[bounds[k] : bounds[k + 1]] for k, name in enumerate(clients)}
        self.sampler = BatchSampler(seed, task.batch_size)
        self.run_key = named_key("run", seed)
        self.mu, self.learning_rate, self.contributions = zeroth_order.mu, learning_rate, contributions
        self.final_share, self.client_steps, self.in_log = final_share, client_steps, 0
        self.feedback = zeroth_order.feedback
        self.prober = new_prober(self.model.client, self.run_key, zeroth_order)
        self.perturber = new_perturber(self.model.client, zeroth_order)
        self.shared, self.location, self.trim_share = zeroth_order.directions == "per_version", location, trim_share
        self.cut = CutTraffic(cut, self.run_key)
        self.server = ServerTrainer(self.model.server, initial_theta_s(self.model, seed), first_order)
        self.zeroth_order_server = ZerothOrderTrainer(self.server, self.run_key, self.mu)
        self.theta_c = {0: initial_theta_c(self.model, seed)}
        self.update, self.mean, self.square = update, np.zeros_like(self.theta_c[0]), np.zeros_like(self.theta_c[0])
        self.steps: dict[StepId, _Step] = {}
        self.duals: dict[StepId, Activations] = {}
        self.losses: list[float] = []

    def forward(self, step: StepId, base_version: int, batch_of: StepId | None = None) -> None:
        """The client draws its batch and runs the first half of the forward pass; or takes batch and dual of an earlier step again."""
        shard = self.shards[step.client]
        chosen = shard[self.sampler.draw(batch_of or step, len(shard))]
        batch = take(torch.from_numpy(self.data.train_images), chosen)
        activations = forward(self.model.client, self.model.client.views(self.theta_c[base_version]), batch)
        self.steps[step] = _Step(base_version, batch, torch.from_numpy(self.data.train_labels[chosen]), activations)
        if batch_of is not None:
            self.steps[step].dual = self.duals[batch_of]

    def backward(self, step: StepId, weight: float, steps: int = 1) -> None:
        """The server finishes the forward pass, back-propagates, steps theta_s and answers with the dual variable."""
        done = self.steps[step]
        answer = self.server.backward(self._sent(step), done.labels, weight, steps, lengths=lengths_beside(done.batch))
        done.dual = self.duals[step] = self._answered(step, answer)
        self.losses.append(answer.loss)

    def backward_together(self, steps_and_weights: Sequence[tuple[StepId, float]], steps: int = 1) -> None:
        """The server takes several clients' activations as one batch, and answers each with its own dual."""
        batches = [
            (self._sent(step), self.steps[step].labels, weight, lengths_beside(self.steps[step].batch))
            for step, weight in steps_and_weights
        ]
        answers = self.server.backward_together(batches, steps)
        for (step, _), answer in zip(steps_and_weights, answers, strict=True):
            self.steps[step].dual = self.duals[step] = self._answered(step, answer)
            self.losses.append(answer.loss)

    def dual(self, step: StepId) -> None:
        """Policy fresh: the server evaluates the dual of the step's activations anew, without a step of its own."""
        done = self.steps[step]
        answer = self.server.evaluate_dual(self._sent(step), done.labels, lengths=lengths_beside(done.batch))
        done.dual = self.duals[step] = self._answered(step, answer)

    def _sent(self, step: StepId) -> torch.Tensor:
        """The step's activations as the server gets them, quantised if so set; the anchor stays exact."""
        return torch.tensor(dequantise(self.cut.activations(self.steps[step].activations, step)))

    def _answered(self, step: StepId, answer: Dual) -> Activations:
        """The dual as the client gets it."""
        return dequantise(self.cut.dual(answer.dual.numpy(), step))

    def project(self, step: StepId, probes: int) -> None:
        """The client runs its perturbed forwards at the step's own version and projects them on the dual."""
        done = self.steps[step]
        assert done.dual is not None, f"step {step} is projected before its dual is known"
        theta = self.theta_c[done.base_version]
        views = self.model.client.views(theta)
        differences = self.prober.differences(theta, views, done.batch, done.activations, step, probes, self._named(done))
        done.projected_gradients = project(differences, done.dual, self.mu)

    def _named(self, done: _Step) -> int | None:
        """The base version, where it names the directions; see ``direction_key``."""
        return done.base_version if self.shared else None

    def back_propagate(self, step: StepId) -> None:
        """First order: the client back-propagates the dual at the step's own version."""
        done = self.steps[step]
        assert done.dual is not None, f"step {step} is back-propagated before its dual is known"
        views = self.model.client.views(self.theta_c[done.base_version])
        done.gradient = client_gradient(self.model.client, views, done.batch, torch.tensor(done.dual)).tobytes()

    def feed_back(self, step: StepId) -> None:
        """Skip feedback: the client carries the dual down to its residual writers, at the step's own version."""
        done = self.steps[step]
        assert done.dual is not None, f"step {step} is fed back before its dual is known"
        views, feedback = self.model.client.views(self.theta_c[done.base_version]), new_feedback(self.model.client, self.feedback)
        _, noted = feedback.forward(views, done.batch)
        done.gradient = feedback.gradient(views, done.batch, torch.tensor(done.dual), noted).tobytes()

    def probe_activities(self, step: StepId, probes: int) -> None:
        """Activity perturbation: the client moves what its units take in, and sends a dense gradient."""
        done = self.steps[step]
        assert done.dual is not None, f"step {step} is estimated before its dual is known"
        views, prober = self.model.client.views(self.theta_c[done.base_version]), ActivityProber(self.model.client, self.run_key, self.mu)
        differences = prober.differences(views, done.batch, done.activations, step, probes)
        done.gradient = prober.gradient(views, done.batch, done.dual, differences, step).tobytes()

    def perturbed(self, step: StepId, probes: int) -> None:
        """The rival without a dual: the activations of the perturbed forwards, which the client sends beside the anchor's."""
        done = self.steps[step]
        done.perturbed = tuple(self._perturbed(done, step, probes))

    def _perturbed(self, done: _Step, step: StepId, probes: int) -> list[Activations]:
        theta = self.theta_c[done.base_version]
        views = self.model.client.views(theta)
        differences = self.prober.differences(theta, views, done.batch, done.activations, step, probes, self._named(done))
        return [done.activations + difference for difference in differences]

    def estimate(self, step: StepId, weight: float, steps: int) -> None:
        """The server, by forward passes only, answers with the slopes of the loss and moves along directions of its own."""
        done = self.steps[step]
        sent = torch.tensor(np.concatenate([done.activations, *done.perturbed]))
        found, loss = self.zeroth_order_server.estimate(sent, done.labels, step, weight, steps, lengths_beside(done.batch))
        done.projected_gradients = tuple(float(np.float32(slope)) for slope in found)
        self.losses.append(loss)

    def local_slopes(self, step: StepId, base_version: int, probes: int) -> None:
        """Whole model at the client: slopes of its own loss."""
        self.forward(step, base_version)
        done = self.steps[step]
        done.projected_gradients = slopes(done.activations, self._perturbed(done, step, probes), done.labels.numpy(), self.mu)

    def train_locally(self, step: StepId, base_version: int, steps: int, learning_rate: float) -> None:
        """Whole model at the client: what SGD on so many batches changes."""
        shard, batches = self.shards[step.client], []
        for local in range(steps):
            chosen = shard[self.sampler.draw(step, len(shard), local)]
            batches.append((take(torch.from_numpy(self.data.train_images), chosen), torch.from_numpy(self.data.train_labels[chosen])))
        self.steps[step] = _Step(base_version, *batches[0], np.empty(0, np.float32))
        delta = local_delta(self.model.client, self.theta_c[base_version], batches, learning_rate)
        self.steps[step].gradient = delta.tobytes()

    def clip(self, step: StepId, bound: float) -> None:
        """The aggregator brings the step's projected gradients into [-bound, bound]."""
        self.steps[step].projected_gradients = clipped(self.steps[step].projected_gradients, bound)

    def commit(self, version: int, weights: Iterable[tuple[StepId, float]]) -> None:
        """theta_c <- theta_c - eta * (1/K) * sum_i s_i * (1/P) * sum_p v_ip u_ip, term by term in canonical order.

        First order: the mean over p of v_ip u_ip is replaced by the gradient itself. Shared directions: the steps of one base version
        are combined, and applied where the first of them stands.
        """
        weights = sorted(weights)
        divisor = self.contributions or sum(weight for _, weight in weights)
        plain, rate = self.update.rule == "sgd", 1.0 if self.update.rule == "adamw" else self.learning_rate
        rate *= 1.0 + (self.final_share - 1.0) * min(self.in_log / self.client_steps, 1.0)
        self.in_log += len(weights)
        theta = aligned_vector(self.model.client.size)
        theta[:] = self.theta_c[version - 1] if plain else 0
        for step, weight in self._combined(weights) if self.shared else weights:
            done = self.steps.pop(step)
            if not weight:
                continue
            if done.gradient:
                packed = scaled_gradient(done.gradient, learning_rate=rate, weight=weight, contributions=divisor)
                theta -= np.frombuffer(packed, "<f4")
                continue
            projected = done.projected_gradients
            scaled = coefficients(projected, learning_rate=rate, weight=weight, contributions=divisor)
            for probe, coefficient in enumerate(unpack_coefficients(scaled)):
                self.perturber.add_scaled_direction(theta, direction_key(self.run_key, step, probe, self._named(done)), -coefficient)
        self.theta_c[version] = theta if plain else self._moved(version, theta)

    def _moved(self, version: int, step: Vector) -> Vector:
        """Momentum or AdamW (see ``update_rule``), written as one writes it down; ``step`` is what plain SGD would add."""
        update, one = self.update, np.float32
        theta = aligned_vector(step.size)
        if update.rule == "momentum":
            self.mean = self.mean * one(update.momentum) + step
            theta[:] = self.theta_c[version - 1] + self.mean
            return theta
        self.mean = self.mean * one(update.beta1) + step * one(1 - update.beta1)
        self.square = self.square * one(update.beta2) + step * step * one(1 - update.beta2)
        mean = self.mean / one(1 - power(update.beta1, version))
        root = np.sqrt(self.square / one(1 - power(update.beta2, version))) + one(update.epsilon)
        rate = self.learning_rate
        if update.decay_versions:
            rate = rate * max(update.decay_versions - version, 0) / update.decay_versions
        kept = self.theta_c[version - 1] * one(1 - rate * update.weight_decay)
        theta[:] = kept + mean / root * one(rate)
        return theta

    def _combined(self, weights: Sequence[tuple[StepId, float]]) -> list[tuple[StepId, float]]:
        """One step for each base version: the first, with the weight and the scalars of all; those of weight 0 are left out."""
        first: dict[int, tuple[StepId, list[tuple[float, tuple[float, ...]]]]] = {}
        for step, weight in weights:
            if not weight:
                continue
            done = self.steps[step]
            first.setdefault(done.base_version, (step, []))[1].append((weight, done.projected_gradients))
        together = []
        for step, weighed in first.values():
            weight, self.steps[step].projected_gradients = combined(weighed, self.location, self.trim_share)
            together.append((step, weight))
        return together

    def accuracy(self, version: int) -> float:
        """Held-out accuracy of theta_c at ``version`` with theta_s as it stands."""
        views = self.model.client.views(self.theta_c[version])
        batch, labels = torch.from_numpy(self.data.test_images), torch.from_numpy(self.data.test_labels)
        activations = torch.from_numpy(forward(self.model.client, views, batch))
        correct, _ = self.server.evaluate(activations, labels, lengths=lengths_beside(batch))
        return correct / len(self.data.test_labels)

    def outcome(self) -> Outcome:
        return Outcome(self.theta_c, self.server.theta, self.losses)


def synchronous(
    reference: Reference, *, versions: int, probes: int, first_order: bool = False, incarnation: int = 1, first_number: int = 1
) -> Outcome:
    """The paper's loop: in each pass every client takes one step at the same version, and all of them make one log entry.

    The server takes the clients one after another, in the order of ``reference.clients``. ``probes`` 0 is the frozen client.
    ``first_order``: the clients back-propagate (SplitFed, arXiv:2004.12088, its client halves averaged after every step).
    """
    moves = bool(probes) or first_order
    for version in range(versions):
        steps = [StepId(client, incarnation, first_number + version) for client in reference.clients]
        for step in steps:
            reference.forward(step, version if moves else 0)
            reference.backward(step, 1.0)
            if first_order:
                reference.back_propagate(step)
            elif probes:
                reference.project(step, probes)
        if moves:
            reference.commit(version + 1, [(step, 1.0) for step in steps])
    return reference.outcome()


def scheduled(reference: Reference, schedule: Iterable[ScheduleItem]) -> Outcome:
    """The same steps in the order of ``schedule``; see ``ScheduleItem``."""
    for name, *arguments in schedule:
        getattr(reference, name)(*arguments)
    return reference.outcome()
