"""Which kind of direction the client half is probed along and replayed with (``zeroth_order.signs``), and who handles it."""

from __future__ import annotations

from math import prod

from torch import nn

from hosfl_async.learning.layerwise_prober import LayerwiseProber, largest_layer, owners_of
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.low_rank_prober import LowRankProber, chain_of
from hosfl_async.learning.perturbation import DirectionAdder, Perturber
from hosfl_async.learning.settings import ZerothOrderSettings
from hosfl_async.learning.split_model import Half
from hosfl_async.learning.zeroth_order import DifferenceMaker, Prober

SAVED_FLOATS_MIN = 1 << 20
"""Layers are perturbed one at a time where that saves so many values (4 MiB); where it saves less, a scratch vector is as good."""


def new_perturber(half: Half, settings: ZerothOrderSettings) -> DirectionAdder:
    """What adds a direction to the client half's vector."""
    return LowRankPerturber(half.shapes, settings.rank) if settings.signs == "low_rank" else Perturber()


def perturbed_floats(half: Half, settings: ZerothOrderSettings) -> int:
    """How many perturbed parameters a probe must hold: all, or those of the largest layer that has to be written out."""
    chain = chain_of(half)
    if settings.signs != "low_rank":
        return half.size
    if chain is None:
        return largest_layer(half) if _layer_by_layer(half) else half.size
    shapes = iter(half.shapes)
    sizes = [(layer, sum(prod(next(shapes)) for _ in layer.parameters())) for layer in chain]
    return max((size for layer, size in sizes if not isinstance(layer, nn.Linear)), default=0)


def new_prober(half: Half, run_key: bytes, settings: ZerothOrderSettings) -> DifferenceMaker:
    """What runs the perturbed forwards: without perturbed weights where directions and layers allow it, else with one layer's
    at a time, else in a scratch vector of them all."""
    perturber = new_perturber(half, settings)
    if isinstance(perturber, LowRankPerturber) and chain_of(half) is not None:
        return LowRankProber(half, run_key, settings.mu, perturber)
    if isinstance(perturber, LowRankPerturber) and _layer_by_layer(half):
        return LayerwiseProber(half, run_key, settings.mu, perturber)
    return Prober(half, run_key, settings.mu, perturber)


def _layer_by_layer(half: Half) -> bool:
    return owners_of(half) is not None and half.size - largest_layer(half) >= SAVED_FLOATS_MIN
