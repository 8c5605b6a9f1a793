"""A client that holds the whole model and computes alone: local training (FedBuff) and slopes of its own loss (DeComFL).

The client half is then the whole model, ``task.model.cut`` being "end", and the log holds what becomes of it. No activation and no dual is
sent to anybody; the split server only follows the log, to evaluate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hosfl_async.errors import LearnerError
from hosfl_async.learning.perturbation import Vector, aligned_vector
from hosfl_async.learning.split_model import Half


def local_delta(half: Half, theta: Vector, batches: Iterable[tuple[Tensor, Tensor]], learning_rate: float) -> Vector:
    """theta minus what plain SGD makes of it, one step for each (batch, labels): what a client of FedBuff sends (arXiv:2106.06639,
    algorithm 2), float32 (d,). ``theta`` is only read. Raises ``LearnerError`` if the training diverges.
    """
    own, gradient = aligned_vector(theta.size), aligned_vector(theta.size)
    own[:] = theta
    half.bind(half.views(own))
    half.record_graph(True)
    try:
        for batch, labels in batches:
            parts = torch.autograd.grad(cross_entropy(half.module(batch), labels), half.parameters)
            np.concatenate([part.numpy().reshape(-1) for part in parts], out=gradient)
            gradient *= np.float32(learning_rate)
            own -= gradient
    finally:
        half.record_graph(False)
    np.subtract(theta, own, out=own)
    if not np.isfinite(own).all():
        raise LearnerError("local training diverged: a parameter is not finite")
    return own
