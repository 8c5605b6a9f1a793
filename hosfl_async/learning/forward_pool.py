"""Forward passes of many clients at one version of the client half, in one call.

A client's forward pass is a pure function of its step's name, its shard and the parameters at the base version, so it does not matter
when it is computed. In the simulator many clients have begun one at the same version before the first of them is due. Whoever is due first
computes those of up to ``together_max`` of them: their batches one after another, one pass through the client half.

Rows of a matrix product are bit-equal to the same rows alone only if the library happens to run the same kernel for both sizes. That
held for the shapes tried once on one machine (docs/results.md), and nobody promises it; so this is behind a
switch (``simulation.forwards_together_max``), and activations may differ by rounding, ``TOLERANCE`` of the largest of them. Equal runs with
the same switch stay equal.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hosfl_async import jobs
from hosfl_async.errors import SettingsError
from hosfl_async.learning.low_rank_prober import chain_of
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations, forward
from hosfl_async.messages import StepId

TOLERANCE = 1e-6
VERSIONS_KEPT_MAX = 64
"""Versions with forward passes that have begun; those of the oldest are forgotten first (their clients crashed) and computed alone."""

Batch = tuple[Tensor, NDArray[np.int64]]


class Draws(Protocol):
    """As much of a client's learner as is needed here."""

    def batch_of(self, job: jobs.Forward) -> Batch: ...


class ForwardPool:
    """One for all client learners of a simulation. ``calls`` and ``passes`` count what was computed."""

    def __init__(self, half: Half, together_max: int) -> None:
        if chain_of(half) is None:
            raise SettingsError(
                "simulation.forwards_together_max",
                "the client half is not a chain of layers that treat samples one by one",
                expected="1",
                found=str(together_max),
            )
        self._half, self._together_max = half, together_max
        self._begun: OrderedDict[int, dict[StepId, tuple[Draws, jobs.Forward]]] = OrderedDict()
        self._computed: OrderedDict[StepId, tuple[Batch, Activations]] = OrderedDict()
        self.calls = self.passes = 0

    def begin(self, learner: Draws, job: jobs.Forward) -> None:
        """A forward pass has begun on a client's device; its learner may be asked for its batch until it is due."""
        begun = self._begun.get(job.base_version)
        if begun is None:
            begun = self._begun[job.base_version] = {}
            if len(self._begun) > VERSIONS_KEPT_MAX:
                self._begun.popitem(last=False)
        begun[job.step] = (learner, job)

    def forward(self, learner: Draws, job: jobs.Forward, views: Views) -> tuple[Batch, Activations]:
        """The batch and the activations of a pass that is due, ``views`` being the parameters at its base version."""
        begun = self._begun.get(job.base_version, {})
        begun.pop(job.step, None)
        if not begun and job.base_version in self._begun:
            del self._begun[job.base_version]
        computed = self._computed.pop(job.step, None)
        if computed is not None:
            return computed
        due = {job.step: learner.batch_of(job)}
        while begun and len(due) < self._together_max:
            step = next(iter(begun))
            other, its_job = begun.pop(step)
            due[step] = other.batch_of(its_job)
        self._compute(due, views)
        return self._computed.pop(job.step)

    def _compute(self, due: dict[StepId, Batch], views: Views) -> None:
        activations = forward(self._half, views, torch.cat([batch for batch, _ in due.values()]))
        begin = 0
        for step, (batch, labels) in due.items():
            self._computed[step] = (batch, labels), activations[begin : begin + len(batch)]
            begin += len(batch)
        while len(self._computed) > VERSIONS_KEPT_MAX * self._together_max:
            self._computed.popitem(last=False)  # its client crashed; should it be due after all, it is computed again
        self.calls += 1
        self.passes += len(due)
