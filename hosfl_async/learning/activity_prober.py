"""Activity perturbation: a gradient from the dual, by forward passes that move what units take in instead of their weights.

A weight's gradient is a sum over the batch's samples of e_b x_b^T, where x_b goes into the layer and e_b is the slope of the surrogate
<lambda_b, z_b> with respect to what the layer gives out. Samples do not meet in a chain of fully connected layers, so one forward pass of
the batch probes every sample along signs of its own, and each has a slope of its own. With s_pb a sign for each unit of all layers::

    z_pb = f_c(x_b), mu s_pb added to what the layers give out       P forward passes
    v_pb = <lambda_b, z_pb - z_b> / mu                               a slope for each probe and sample
    e_b  = mean over p of v_pb s_pb                                  an estimate in as many dimensions as there are units
    grad W_l = sum over b of e_lb x_lb^T,  grad w_l = sum of e_lb    by one more forward pass, which has the x_lb

It is unbiased up to the order of mu, and its squared error is::

    1 / P  sum over b and l of (|x_lb|^2 + 1) (U_l |e_b|^2 - |e_lb|^2),    U_l units in layer l

where probing d weights gives (d - 1) / P |g|^2: units are fewer than weights, and the samples' errors are independent, so they average
out. The price is the contribution, d float32 instead of P scalars. Ren et al., arXiv:2210.03310; node perturbation goes back to the 1990s.

No graph and no activation is kept, only the differences z_pb - z_b while the dual is under way. Signs are raw bits of the probe's stream,
sample by sample, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.low_rank_prober import chain_of
from hosfl_async.learning.perturbation import Perturber, Vector, aligned_vector, direction_keys
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations, forward
from hosfl_async.messages import StepId


class ActivityProber:
    """The perturbed forward passes and the gradient of one client half. Buffers of its own: one for each thread."""

    def __init__(self, half: Half, run_key: bytes, mu: float) -> None:
        """Raises ``SettingsError`` unless the half is a chain of which only fully connected layers learn."""
        learning = [layer for layer in chain_of(half) or () if list(layer.parameters())]
        layers = [layer for layer in learning if isinstance(layer, nn.Linear)]
        if not layers or len(layers) < len(learning):
            raise SettingsError("task.model.name", "activity perturbation needs a chain of fully connected layers", expected="mlp")
        self._half, self._run_key, self._mu, self._perturber = half, run_key, mu, Perturber()
        self._layers = layers
        ends = list(accumulate(layer.out_features for layer in layers))
        self._units = [slice(end - layer.out_features, end) for end, layer in zip(ends, layers, strict=True)]

    def signs(self, step: StepId, probes: int, samples: int) -> Vector:
        """(probes, samples, units of all layers) of +-1."""
        keys = direction_keys(self._run_key, step, range(probes))
        return self._perturber.written(keys, samples * self._units[-1].stop).reshape(probes, samples, -1)

    def differences(self, views: Views, batch: Tensor, anchor: Activations, step: StepId, probes: int) -> Activations:
        """z_p - z of each probe, (probes, batch, cut); ``anchor`` is z, the forward pass of this ``batch`` at these ``views``."""
        differences = np.empty((probes, *anchor.shape), np.float32)
        for signs, difference in zip(self.signs(step, probes, len(batch)), differences, strict=True):
            moves = torch.from_numpy(signs * np.float32(self._mu))
            with self._hooked(lambda layer, units, moves=moves: layer.register_forward_hook(_moved_by(moves[:, units]))):
                np.subtract(forward(self._half, views, batch), anchor, out=difference)
        return differences

    def gradient(self, views: Views, batch: Tensor, dual: Activations, differences: Activations, step: StepId) -> Vector:
        """The estimate, float32 (d,), from the ``differences`` of this step and the ``dual``, (batch, cut)."""
        probes, samples = len(differences), len(batch)
        slopes = np.multiply(differences, dual, dtype=np.float64).reshape(probes, samples, -1).sum(-1, keepdims=True) / self._mu
        estimates = np.mean(slopes * self.signs(step, probes, samples), axis=0).astype(np.float32)
        gradient = aligned_vector(self._half.size)
        parts: Iterator[Tensor] = iter(self._half.views(gradient))
        inputs: list[Tensor] = []
        with self._hooked(lambda layer, units: layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))):
            forward(self._half, views, batch)
        with torch.inference_mode():
            for layer, units, given in zip(self._layers, self._units, inputs, strict=True):
                arriving = torch.from_numpy(np.ascontiguousarray(estimates[:, units]))
                torch.mm(arriving.mT, given, out=next(parts))
                if layer.bias is not None:
                    torch.sum(arriving, dim=0, out=next(parts))
        return gradient

    @contextmanager
    def _hooked(self, hook: Callable[..., torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
        """Within this block each layer has the hook that is made for it and its units."""
        hooks: Sequence[torch.utils.hooks.RemovableHandle] = [
            hook(layer, units) for layer, units in zip(self._layers, self._units, strict=True)
        ]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()


def _moved_by(move: Tensor) -> Callable[..., Tensor]:
    return lambda module, given, made: made + move
