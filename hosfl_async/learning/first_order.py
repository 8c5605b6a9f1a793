"""Back-propagation: the server half's step with its dual variable, and the gradient of a client half that can afford it.

The dual lambda = d(mean loss) / dz falls out of ordinary back-propagation at no extra cost (HO-SFL, arXiv:2603.14773, section 3).
The loss is the mean cross-entropy of the batch, so the dual already carries the 1/batch.

Parameters, gradients and the optimiser's memory are flat float32 vectors. The optimisers are written out in numpy: a few plain
operations in a fixed order, each correctly rounded, so that a step is the same with any number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from hosfl_async.errors import LearnerError
from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, Vector, aligned_vector
from hosfl_async.learning.settings import FirstOrderSettings
from hosfl_async.learning.split_model import Half, Views


class Optimizer:
    """SGD, momentum or AdamW on one flat vector, with decoupled weight decay."""

    def __init__(self, settings: FirstOrderSettings, size: int) -> None:
        self._settings = settings
        self._steps = 0
        self._mean = np.zeros(size if settings.optimizer != "sgd" else 0, np.float32)
        self._square = np.zeros(size if settings.optimizer == "adamw" else 0, np.float32)

    def step(self, theta: Vector, gradient: Vector) -> None:
        """Change ``theta`` in place; ``gradient`` is used up."""
        settings = self._settings
        self._steps += 1
        learning_rate = scheduled_rate(settings, self._steps)
        if settings.weight_decay:
            theta *= np.float32(1 - learning_rate * settings.weight_decay)
        if settings.optimizer == "adamw":
            theta -= self._adam_direction(gradient) * np.float32(learning_rate)
            return
        if settings.optimizer == "momentum":
            self._mean *= np.float32(settings.momentum)
            self._mean += gradient
            gradient[:] = self._mean
        gradient *= np.float32(learning_rate)
        theta -= gradient

    def state(self) -> dict[str, Vector | NDArray[np.int64]]:
        """Everything that the next step depends on, beside the parameters (not copied)."""
        return {"optimizer_steps": np.array([self._steps], np.int64), "optimizer_mean": self._mean, "optimizer_square": self._square}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of ``state``; shapes are the caller's to check."""
        self._steps = int(state["optimizer_steps"][0])
        self._mean[:] = state["optimizer_mean"]
        self._square[:] = state["optimizer_square"]

    def _adam_direction(self, gradient: Vector) -> Vector:
        """Mean gradient over root mean squared gradient, both freed of their bias towards zero (AdamW, arXiv:1711.05101)."""
        settings = self._settings
        self._mean *= np.float32(settings.beta1)
        self._mean += gradient * np.float32(1 - settings.beta1)
        self._square *= np.float32(settings.beta2)
        self._square += gradient * gradient * np.float32(1 - settings.beta2)
        root = np.sqrt(self._square / np.float32(1 - settings.beta2**self._steps))
        root += np.float32(settings.epsilon)
        direction: Vector = self._mean / np.float32(1 - settings.beta1**self._steps)
        direction /= root
        return direction


def scheduled_rate(settings: FirstOrderSettings, step: int) -> float:
    """The learning rate of step ``step``, counted from 1: up over the warm-up, then level, or down to zero at ``decay_steps``."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if not settings.decay_steps:
        return settings.learning_rate
    left = max(settings.decay_steps - step, 0)
    return settings.learning_rate * left / max(settings.decay_steps - settings.warmup_steps, 1)


def shorten(gradient: Vector, norm_max: float) -> None:
    """Bring the Euclidean length of ``gradient`` down to ``norm_max``, in place. Summed in float64."""
    chunks = (gradient[begin : begin + CHUNK_ELEMENTS] for begin in range(0, gradient.size, CHUNK_ELEMENTS))
    norm = sqrt(fsum(float(np.square(chunk, dtype=np.float64).sum()) for chunk in chunks))
    if norm > norm_max:
        gradient *= np.float32(norm_max / norm)


@dataclass(frozen=True, slots=True)
class Dual:
    """What a batch gives: d(mean loss)/dz in the shape of the activations, and the mean loss."""

    dual: Tensor
    loss: float
    logits: Tensor
    """(batch, classes)."""


class Part(NamedTuple):
    """One client's share of a micro-batch; ``lengths`` as in ``ServerTrainer.backward``."""

    activations: Tensor
    labels: Tensor
    weight: float = 1.0
    lengths: Tensor | None = None


class ServerTrainer:
    """The server half with its optimiser. ``theta`` is the parameter vector; only ``backward`` and ``apply`` change it."""

    def __init__(self, half: Half, theta: Vector, settings: FirstOrderSettings) -> None:
        self.theta = theta
        self._half = half
        self._settings = settings
        self._optimizer = Optimizer(settings, half.size)
        self._gradient = aligned_vector(half.size)
        half.bind(half.views(theta))
        for parameter, view in zip(half.parameters, half.views(self._gradient), strict=True):
            parameter.grad = view

    def backward(self, activations: Tensor, labels: Tensor, weight: float = 1.0, steps: int = 1, *, lengths: Tensor | None = None) -> Dual:
        """``steps`` steps on a batch of activations (batch, *cut shape) and labels (batch,); the gradient counts ``weight`` times.

        Sequences: activations (tokens, *cut shape) and ``lengths`` (batch,), see ``sequences``.
        The dual is that of the parameters before the first step, unweighted. Raises ``LearnerError``, changing nothing, if the loss or
        the gradient is not finite there; later steps that are not finite are not taken.
        """
        return self._train(activations, labels, lengths, None, weight, steps)

    def backward_together(self, parts: Sequence[tuple[Any, ...]], steps: int = 1) -> list[Dual]:
        """A micro-batch: ``steps`` steps on several clients' ``Part``s as one batch.

        The loss is the mean over all samples, so with equal weights this is ``backward`` of the concatenated batch; otherwise each sample's
        gradient counts its client's weight times. Each client gets the dual and the loss of its own samples' mean, unweighted, as if it had
        come alone: its surrogate must not depend on who else was there. Errors as for ``backward``, for all of them.
        """
        each = [Part(*part) for part in parts]
        if len(each) == 1:
            return [self.backward(*each[0][:3], steps, lengths=each[0].lengths)]
        activations, labels = torch.cat([part.activations for part in each]), torch.cat([part.labels for part in each])
        lengths = None if each[0].lengths is None else torch.cat([part.lengths for part in each if part.lengths is not None])
        sizes, weights = [len(part.labels) for part in each], [part.weight for part in each]
        equal = len(set(weights)) == 1
        by_sample = None if equal else torch.repeat_interleave(torch.tensor(weights), torch.tensor(sizes))
        together = self._train(activations, labels, lengths, by_sample, weights[0] if equal else 1.0, steps)
        duals, logits = torch.split(together.dual, [len(part.activations) for part in each]), torch.split(together.logits, sizes)
        answers = []
        for part, dual, own_logits in zip(each, duals, logits, strict=True):
            own = len(part.labels) * (1.0 if equal else part.weight)
            answers.append(Dual(dual * (len(labels) / own), float(cross_entropy(own_logits, part.labels)), own_logits))
        return answers

    def _train(
        self, activations: Tensor, labels: Tensor, lengths: Tensor | None, by_sample: Tensor | None, weight: float, steps: int
    ) -> Dual:
        dual = self._back_propagate(activations, labels, lengths, by_sample)
        if not np.isfinite(self._gradient).all():
            raise LearnerError("the server half's gradient is not finite: nothing was changed")
        self._step(weight)
        for _ in range(steps - 1):
            try:
                self._back_propagate(activations, labels, lengths, by_sample)
            except LearnerError:
                break
            if not np.isfinite(self._gradient).all():
                break
            self._step(weight)
        return dual

    def state(self) -> dict[str, Vector | NDArray[np.int64]]:
        """The half's parameters and the optimiser's memory, by name (not copied)."""
        return {"theta_s": self.theta, **self._optimizer.state()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of ``state``. Raises ``LearnerError``, changing nothing, if names or shapes differ from ours: another model or
        optimiser."""
        ours = self.state()
        if {name: array.shape for name, array in ours.items()} != {name: array.shape for name, array in state.items()}:
            found = ", ".join(f"{name} {array.shape}" for name, array in state.items())
            expected = ", ".join(f"{name} {array.shape}" for name, array in ours.items())
            raise LearnerError(f"the checkpoint belongs to another server half or optimiser: expected {expected}; found {found}")
        self.theta[:] = state["theta_s"]
        self._optimizer.restore(state)

    def _step(self, weight: float) -> None:
        if self._settings.gradient_norm_max:
            shorten(self._gradient, self._settings.gradient_norm_max)
        if weight != 1.0:
            self._gradient *= np.float32(weight)
        self._optimizer.step(self.theta, self._gradient)

    def evaluate_dual(self, activations: Tensor, labels: Tensor, *, lengths: Tensor | None = None) -> Dual:
        """Dual and loss at the parameters as they stand; changes nothing."""
        return self._back_propagate(activations, labels, lengths)

    def evaluate(self, activations: Tensor, labels: Tensor, *, lengths: Tensor | None = None) -> tuple[int, float]:
        """Number of correct predictions and *summed* loss on a batch."""
        with torch.inference_mode():
            logits = self._logits(activations, lengths)
            correct = int((logits.argmax(dim=1) == labels).sum())
            return correct, float(cross_entropy(logits, labels, reduction="sum"))

    def forward(self, activations: Tensor, lengths: Tensor | None = None) -> NDArray[np.float32]:
        """Logits of a batch, at the vector that is bound; ``lengths`` beside sequences."""
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._logits(activations, lengths).numpy()
        return logits

    def bind(self, vector: Vector) -> None:
        """Compute with ``vector`` from now on, in place of ``theta`` or again with it."""
        self._half.bind(self._half.views(vector))

    def apply(self, gradient: Vector) -> None:
        """One step of the optimiser with a gradient from elsewhere, which is used up."""
        self._optimizer.step(self.theta, gradient)

    def _logits(self, activations: Tensor, lengths: Tensor | None) -> Tensor:
        logits: Tensor = self._half.module(activations) if lengths is None else self._half.module(activations, lengths)
        return logits

    def _back_propagate(self, activations: Tensor, labels: Tensor, lengths: Tensor | None, by_sample: Tensor | None = None) -> Dual:
        """``by_sample`` weighs each sample's loss; without it all count once."""
        self._check_size(activations)
        self._gradient.fill(0)
        cut = activations.detach().requires_grad_()
        logits = self._logits(cut, lengths)
        if by_sample is None:
            mean_loss = cross_entropy(logits, labels)
        else:
            mean_loss = (cross_entropy(logits, labels, reduction="none") * by_sample).mean()
        mean_loss.backward()  # type: ignore[no-untyped-call]
        loss = float(mean_loss.detach())
        if not isfinite(loss) or cut.grad is None:
            raise LearnerError(f"the loss is {loss}: nothing was changed")
        return Dual(cut.grad, loss, logits.detach())

    def _check_size(self, activations: Tensor) -> None:
        bound = self._settings.activation_rms_max
        if bound and activations.numel():
            largest = float(activations.detach().flatten(1).double().square().mean(dim=1).max().sqrt())
            if largest > bound:
                raise LearnerError(
                    f"activations with a root mean square of {largest:.4g}, at most {bound:g} are allowed: nothing was changed"
                )


def client_gradient(half: Half, views: Views, batch: Tensor, dual: Tensor) -> Vector:
    """<dual, d f_c(batch; theta) / d theta>, float32 (d,): what the client of split learning computes (SplitFed, arXiv:2004.12088).

    The upper reference that zeroth-order estimates are held against. ``views`` show theta and are only read; ``dual`` has the shape of
    the activations.
    """
    gradient = aligned_vector(half.size)
    half.bind(views)
    half.record_graph(True)
    try:
        parts = torch.autograd.grad(half.module(batch), half.parameters, dual)
    finally:
        half.record_graph(False)  # everywhere else the client half records none
    np.concatenate([part.numpy().reshape(-1) for part in parts], out=gradient)
    return gradient
