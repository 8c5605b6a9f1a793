"""A split server that only runs forward passes: the rival in which *both* halves are zeroth-order (``method = "sfl_zeroth_order"``).

The client sends its activations and those of its P perturbed forwards; the server answers with the P slopes of the loss along the client's
directions, and moves its own half along directions of its own (MU-SplitFed, arXiv:2510.21155, whose tau is ``steps``; MeZO,
arXiv:2305.17333, for the estimate)::

    v_p = (loss(theta_s; z_p) - loss(theta_s; z)) / mu                            the answer, before the server moves
    w_q = (loss(theta_s + mu u_q; z) - loss(theta_s; z)) / mu,   g = mean of w_q u_q     as many directions as the client has, for each step

g goes into the server's own optimiser. The directions are named by the step, like the client's, under a key of their own.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from torch import Tensor

from hosfl_async.errors import LearnerError
from hosfl_async.learning.first_order import ServerTrainer
from hosfl_async.learning.losses import Logits, mean_loss, slopes
from hosfl_async.learning.perturbation import Perturber, aligned_vector, direction_key
from hosfl_async.messages import StepId


class ZerothOrderTrainer:
    """Moves the server half of ``trainer`` by forward passes. Holds two vectors of its size."""

    def __init__(self, trainer: ServerTrainer, run_key: bytes, mu: float) -> None:
        self._trainer, self._mu = trainer, mu
        self._key = blake2b(run_key, digest_size=16, person=b"server half").digest()
        self._perturber = Perturber()
        self._scratch, self._gradient = (aligned_vector(trainer.theta.size) for _ in range(2))

    def estimate(
        self, activations: Tensor, labels: Tensor, step: StepId, weight: float = 1.0, steps: int = 1, lengths: Tensor | None = None
    ) -> tuple[list[float], float]:
        """``activations``: (1 + P) batches, the anchor's first; ``lengths``, of sequences, are those of one batch. The slopes, and the loss
        at the anchor; then ``steps`` steps of the server half, whose estimate counts ``weight`` times. Raises ``LearnerError``, changing
        nothing, if a slope is not finite.
        """
        rows = len(labels) if lengths is None else int(lengths.sum())
        anchor, *probes = activations.split(rows)  # type: ignore[no-untyped-call]
        theta, known = self._trainer.theta, labels.numpy()
        base = self._trainer.forward(anchor, lengths)
        found = slopes(base, (self._trainer.forward(probe, lengths) for probe in probes), known, self._mu)
        if not np.isfinite(found).all():
            raise LearnerError(f"step {step}: a slope of the loss is not finite")
        for number in range(steps):
            self._gradient.fill(0)
            keys = [direction_key(self._key, step, number * len(probes) + probe) for probe in range(len(probes))]
            own = slopes(self._trainer.forward(anchor, lengths), (self._moved(key, anchor, lengths) for key in keys), known, self._mu)
            self._trainer.bind(theta)
            if not np.isfinite(own).all():
                break
            for key, slope in zip(keys, own, strict=True):
                self._perturber.add_scaled_direction(self._gradient, key, weight * slope / len(keys))
            self._trainer.apply(self._gradient)
        return list(found), mean_loss(base, known)

    def _moved(self, key: bytes, anchor: Tensor, lengths: Tensor | None) -> Logits:
        self._perturber.add_scaled_direction(self._trainer.theta, key, self._mu, out=self._scratch)
        self._trainer.bind(self._scratch)
        return self._trainer.forward(anchor, lengths)
