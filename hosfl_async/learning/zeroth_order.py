"""The client half without back-propagation: anchor, probes, projection, and replay of the update log.

The server returns the dual variable lambda = d loss / d z, and the client has only to lower the scalar surrogate
<lambda, f_c(x; theta_c)>. It estimates the surrogate's slope along random directions u_p by forward passes (HO-SFL,
arXiv:2603.14773, section 3)::

    z   = f_c(x; theta_c)                                 anchor
    z_p = f_c(x; theta_c + mu u_p)                        probe p, same batch
    v_p = <lambda, z_p - z> / mu                          projected gradient: the difference first, then the inner product

and the mean of v_p u_p estimates the surrogate's gradient. The only error is the curvature of the client half, of the order of mu.

Parameters change in ``replay`` only. A probe writes theta + mu u into a scratch vector and never touches theta, since adding mu u
and subtracting it again would leave about half of all float32 parameters changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hosfl_async.learning.perturbation import DirectionAdder, Vector, add_scaled_directions, aligned_vector, direction_key, direction_keys
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.messages import LogEntry, StepId
from hosfl_async.scaling import unpack_coefficients

Activations = NDArray[np.float32]


def forward(half: Half, views: Views, batch: Tensor) -> Activations:
    """z = f_c(batch; theta) at the parameters that ``views`` show, (batch, *cut shape). Keeps no graph."""
    half.bind(views)
    with torch.inference_mode():
        activations: Activations = half.module(batch).numpy()
    return activations


class DifferenceMaker(Protocol):
    """Runs the perturbed forward passes of one client half."""

    def differences(
        self, theta: Vector, views: Views, batch: Tensor, anchor: Activations, step: StepId, probes: int, base_version: int | None = None
    ) -> Activations:
        """z_p - z for each probe p, (probes, batch, *cut shape), at ``theta`` and its ``views``, which are only read.

        ``anchor`` is z, the forward pass of the same ``batch`` at ``theta``. For ``base_version`` see ``direction_key``.
        """
        ...


class Prober:
    """Perturbed forward passes through one client half, in a scratch vector (one copy of the client half)."""

    def __init__(self, half: Half, run_key: bytes, mu: float, perturber: DirectionAdder) -> None:
        self._half = half
        self._run_key = run_key
        self._mu = mu
        self._perturber = perturber
        self._scratch = aligned_vector(half.size)
        self._scratch_views = half.views(self._scratch)

    def differences(
        self, theta: Vector, views: Views, batch: Tensor, anchor: Activations, step: StepId, probes: int, base_version: int | None = None
    ) -> Activations:
        """See ``DifferenceMaker``; ``views`` are not looked at."""
        differences = np.empty((probes, *anchor.shape), np.float32)
        for probe in range(probes):
            self._perturber.add_scaled_direction(
                theta, direction_key(self._run_key, step, probe, base_version), self._mu, out=self._scratch
            )
            np.subtract(forward(self._half, self._scratch_views, batch), anchor, out=differences[probe])
        return differences


def project(differences: Activations, dual: Activations, mu: float) -> tuple[float, ...]:
    """v_p = <dual, differences_p> / mu for each probe. Products and sums in float64, where each product is exact."""
    flat = dual.reshape(-1)
    return tuple(float(np.multiply(probe.reshape(-1), flat, dtype=np.float64).sum()) / mu for probe in differences)


def replay(theta: Vector, entries: Iterable[LogEntry], run_key: bytes, perturber: DirectionAdder, *, shared: bool = False) -> None:
    """Apply log entries to ``theta`` in place, in the entries' own order: theta -= c_p u_p for each probe of each term, or theta -= g
    for the dense gradient of a first-order term.

    ``shared``: directions are named by the term's base version; the first term of each base version carries the coefficients of all.
    Adding -c is the same IEEE operation as subtracting c, so that each element takes exactly one rounding for each probe.
    """
    for entry in entries:
        for term in entry.terms:
            if term.gradient:
                theta -= np.frombuffer(term.gradient, "<f4")
            base_version = term.base_version if shared else None
            coefficients = unpack_coefficients(term.coefficients)
            keys = direction_keys(run_key, term.step, range(len(coefficients)), base_version)
            add_scaled_directions(perturber, theta, keys, [-coefficient for coefficient in coefficients])
