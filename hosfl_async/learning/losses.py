"""Losses by forward passes alone, for the methods that have no dual: the mean cross-entropy, and its slopes along perturbation directions.

All in float64: a slope is a small difference of two losses, divided by mu. A loss is computed by one machine and leaves it as a number, so
it need not be the same bits elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[Any]


def mean_loss(logits: Logits, labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy of a batch: logits (batch, classes), labels (batch,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())


def slopes(anchor: Logits, perturbed: Iterable[Logits], labels: NDArray[np.int64], mu: float) -> tuple[float, ...]:
    """(loss at each perturbed forward pass - loss at the anchor) / mu: the projected gradients of methods that have no dual."""
    base = mean_loss(anchor, labels)
    return tuple((mean_loss(each, labels) - base) / mu for each in perturbed)
