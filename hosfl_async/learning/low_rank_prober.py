"""Perturbed forward passes along low-rank directions, several at once, without a perturbed copy of the client half.

A linear layer whose weights move by mu u, u_ij = a_i B_qj, and whose bias moves by mu s gives W x + w + mu (a_i (B_q . x) + s_i): the
plain layer for all probes in one matrix product, and a thin correction for each. The first layer with parameters sees the same input in
every probe, so its plain part is computed once. A layer of another kind (a convolution) is run with its own parameters written out,
one probe after another: the memory of one layer.

It needs to know what the layers do: a chain of known layers, each of which treats the samples of a batch one by one. Any other
module is probed in a scratch vector (``zeroth_order.Prober``), along the same directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, zip_longest

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hosfl_async.learning.low_rank import Factors, LowRankPerturber, Matrix, written_out
from hosfl_async.learning.perturbation import Vector, direction_key
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations
from hosfl_async.messages import StepId

AT_ONCE_FLOATS_MIN = 1 << 18
"""Values in flight that several probes may always take together (1 MiB); a larger client half allows as many as it has parameters."""

_SAMPLE_BY_SAMPLE = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.MaxPool2d, nn.AvgPool2d, nn.Identity)


def chain_of(half: Half) -> tuple[nn.Module, ...] | None:
    """The half's layers in order, or ``None`` if one of them is frozen, or not known to go sample by sample."""
    chain = _layers_of(half.module)
    if chain is None or any(one is not other for one, other in zip_longest(half.module.parameters(), half.parameters)):
        return None
    return chain


def _layers_of(module: nn.Module) -> tuple[nn.Module, ...] | None:
    """The layers of a (nested) sequential module in order, each one once."""
    if type(module) is nn.Sequential:
        inner = [_layers_of(each) for each in module]
        layers = tuple(layer for each in inner for layer in each or ())
        return None if None in inner or len(set(layers)) < len(layers) else layers
    apart = type(module) in _SAMPLE_BY_SAMPLE or (isinstance(module, nn.Flatten) and module.start_dim == 1)
    return (module,) if apart else None


class LowRankProber:
    """Differences z_p - z of a chain along low-rank directions."""

    def __init__(self, half: Half, run_key: bytes, mu: float, perturber: LowRankPerturber) -> None:
        chain = chain_of(half)
        if chain is None:
            raise ValueError("the client half is not a chain of layers that go sample by sample")
        self._half = half
        self._run_key = run_key
        self._mu = mu
        self._perturber = perturber
        self._matrices = perturber.matrices
        self._blocks = tuple(_block_rows(matrix) for matrix in self._matrices)
        counts = [len(list(layer.parameters())) for layer in chain]
        self._layers = [(layer, slice(end - count, end)) for layer, count, end in zip(chain, counts, accumulate(counts), strict=True)]
        self._widest: dict[torch.Size, int] = {}

    def differences(
        self, theta: Vector, views: Views, batch: Tensor, anchor: Activations, step: StepId, probes: int, base_version: int | None = None
    ) -> Activations:
        """z_p - z for each probe p, (probes, batch, *cut shape); see ``DifferenceMaker``. ``theta`` itself is not looked at."""
        self._half.bind(views)
        differences = np.empty((probes, *anchor.shape), np.float32)
        with torch.inference_mode():
            together = self.probes_at_once(batch)
            for begin in range(0, probes, together):
                numbers = range(begin, min(begin + together, probes))
                keys = [direction_key(self._run_key, step, probe, base_version) for probe in numbers]
                there = self._forward(views, batch, len(keys), self._perturber.factors(keys)).numpy()
                np.subtract(there.reshape(-1, *anchor.shape), anchor, out=differences[begin : begin + len(keys)])
        return differences

    def probes_at_once(self, batch: Tensor) -> int:
        """How many probes run together: all of them may hold as many values between layers as the half has parameters (or 1 MiB)."""
        widest = self._widest.get(batch.shape)
        if widest is None:
            values, widest = batch[:1], 0
            for layer, _ in self._layers:
                before, values = values.numel(), layer(values)
                widest = max(widest, before + values.numel())
            widest = self._widest[batch.shape] = widest * len(batch)
        return max(1, max(self._half.size, AT_ONCE_FLOATS_MIN) // max(widest, 1))

    def _forward(self, views: Views, batch: Tensor, probes: int, factors: Sequence[Factors]) -> Tensor:
        """The activations of all these probes, one probe's batch after another's; one batch as long as no parameter was met."""
        values, shared = batch, True
        for layer, place in self._layers:
            if place.start == place.stop:
                values = layer(values)
                continue
            given = values.expand(probes, *values.shape) if shared else values.view(probes, -1, *values.shape[1:])
            if isinstance(layer, nn.Linear) and given.ndim == 3:
                values = self._linear(layer(values), given, place, factors)
            else:
                directions = map(written_out, self._matrices[place], factors[place])
                moves = [self._mu * torch.from_numpy(direction) for direction in directions]
                values = _moved(layer, views[place], given, moves)
            shared = False
        return values.expand(probes, *values.shape) if shared else values

    def _linear(self, plain: Tensor, given: Tensor, place: slice, factors: Sequence[Factors]) -> Tensor:
        """W x + w + mu (a_i (B_q . x) + s_i), from W x + w, which is the probes' own or common to them."""
        probes, samples, _ = given.shape
        made = (plain.repeat(probes, 1) if len(plain) == samples else plain).view(probes, samples, -1)
        a, b = map(torch.from_numpy, factors[place.start])
        made.baddbmm_(torch.bmm(given, b.mT), self._blocks[place.start] * a.unsqueeze(1), alpha=self._mu)
        for signs, sign in factors[place][1:]:
            made.add_(torch.from_numpy(signs[:, None] * sign), alpha=self._mu)
        return made.view(probes * samples, -1)


def _moved(layer: nn.Module, views: Views, given: Tensor, moves: Sequence[Tensor]) -> Tensor:
    """The layer with moved parameters in place of its own, probe by probe."""
    names = [name for name, _ in layer.named_parameters()]
    made = []
    for probe, values in enumerate(given):
        moved = {name: view + move[probe].view(view.shape) for name, view, move in zip(names, views, moves, strict=True)}
        made.append(functional_call(layer, moved, (values,)))
    return made[0] if len(made) == 1 else torch.cat(made)


def _block_rows(matrix: Matrix) -> Tensor:
    """(blocks, rows): 1 where the row belongs to the block."""
    return (torch.arange(matrix.rows) // matrix.height == torch.arange(matrix.blocks).unsqueeze(1)).float()
