"""Perturbed forward passes of any module along low-rank directions, with one layer perturbed at a time.

Just before a layer runs, its own parameters are exchanged for theta + mu u, written into a scratch of the largest layer's size, which
the next layer takes over; after the pass the real ones are back. So a probe's peak is that of inference and the largest layer, where a
scratch vector takes a whole copy of the client half; the activations are the same bits. What a layer is, torch says: a module that has
parameters of its own.

It works if each learnt parameter is used by its owner's forward pass and by nobody else. A module that reaches into its children (as
``nn.MultiheadAttention`` does) is found out at the first probe, since such a child is never called; then all probes take a scratch vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hosfl_async.learning.low_rank import Factors, LowRankPerturber
from hosfl_async.learning.perturbation import Vector, aligned_vector, direction_key
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations, Prober, forward
from hosfl_async.messages import StepId

Owned = tuple[tuple[nn.Module, tuple[int, ...]], ...]
"""Modules with learnt parameters of their own, and which of the half's parameters these are."""


def owners_of(half: Half) -> Owned | None:
    """Who owns which of the half's parameters; ``None`` if one has two owners."""
    position = {id(parameter): index for index, parameter in enumerate(half.parameters)}
    owned = []
    for module in half.module.modules():
        own = tuple(position[id(each)] for each in module.parameters(recurse=False) if id(each) in position)
        if own:
            owned.append((module, own))
    uses = Counter(index for _, own in owned for index in own)
    return tuple(owned) if set(uses.values()) <= {1} else None


def largest_layer(half: Half) -> int:
    """Learnt parameters of the layer that has the most; all of them where layers cannot be told apart."""
    owned = owners_of(half)
    if owned is None:
        return half.size
    return max((sum(prod(half.shapes[index]) for index in own) for _, own in owned), default=0)


class LayerwiseProber:
    """Differences z_p - z along low-rank directions, layer by layer."""

    def __init__(self, half: Half, run_key: bytes, mu: float, perturber: LowRankPerturber) -> None:
        owned = owners_of(half)
        if owned is None:
            raise ValueError("two modules share a parameter of the client half")
        self._half, self._run_key, self._mu, self._perturber = half, run_key, mu, perturber
        self._owned: Owned = owned
        sizes = [prod(shape) for shape in half.shapes]
        self._places = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        self._scratch: Vector | None = None
        self._whole: Prober | None = None

    def differences(
        self, theta: Vector, views: Views, batch: Tensor, anchor: Activations, step: StepId, probes: int, base_version: int | None = None
    ) -> Activations:
        """See ``DifferenceMaker``."""
        if self._scratch is None:
            self._scratch = aligned_vector(largest_layer(self._half))
        differences = np.empty((probes, *anchor.shape), np.float32)
        for probe in range(probes):
            if self._whole is None:
                factors = self._perturber.factors((direction_key(self._run_key, step, probe, base_version),))
                called: Counter[int] = Counter()
                with self._perturbing(theta, views, factors, called):
                    np.subtract(forward(self._half, views, batch), anchor, out=differences[probe])
                if len(called) == len(self._owned):
                    continue
                self._whole = Prober(self._half, self._run_key, self._mu, self._perturber)
            return self._whole.differences(theta, views, batch, anchor, step, probes, base_version)
        return differences

    @contextmanager
    def _perturbing(self, theta: Vector, views: Views, factors: Sequence[Factors], called: Counter[int]) -> Iterator[None]:
        """Within this block each layer runs with theta + mu u in place of its own parameters."""
        parameters, scratch = self._half.parameters, self._scratch
        assert scratch is not None

        def enter(layer: int, own: tuple[int, ...]) -> Any:
            def hook(module: nn.Module, given: Any) -> None:
                called[layer] += 1
                end = 0
                for index in own:
                    begin, end = end, end + views[index].numel()
                    target = scratch[begin:end]
                    self._perturber.add_to_parameter(index, theta[self._places[index]], factors[index], self._mu, target)
                    parameters[index].data = torch.from_numpy(target).view(views[index].shape)

            return hook

        hooks = []
        try:
            for layer, (module, own) in enumerate(self._owned):
                hooks.append(module.register_forward_pre_hook(enter(layer, own)))
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._half.bind(views)
