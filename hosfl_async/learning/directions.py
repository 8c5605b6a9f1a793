"""Which kind of direction the client half is probed along and replayed with (``zeroth_order.signs``), and who handles it."""

from __future__ import annotations

from math import prod

from torch import nn

from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.low_rank_prober import LowRankProber, chain_of
from hosfl_async.learning.perturbation import DirectionAdder, Perturber
from hosfl_async.learning.settings import ZerothOrderSettings
from hosfl_async.learning.split_model import Half
from hosfl_async.learning.zeroth_order import DifferenceMaker, Prober


def new_perturber(half: Half, settings: ZerothOrderSettings) -> DirectionAdder:
    """What adds a direction to the client half's vector."""
    return LowRankPerturber(half.shapes, settings.rank) if settings.signs == "low_rank" else Perturber()


def perturbed_floats(half: Half, settings: ZerothOrderSettings) -> int:
    """How many perturbed parameters a probe must hold: all, or those of the largest layer that has to be written out."""
    chain = chain_of(half)
    if settings.signs != "low_rank" or chain is None:
        return half.size
    shapes = iter(half.shapes)
    sizes = [(layer, sum(prod(next(shapes)) for _ in layer.parameters())) for layer in chain]
    return max((size for layer, size in sizes if not isinstance(layer, nn.Linear)), default=0)


def new_prober(half: Half, run_key: bytes, settings: ZerothOrderSettings) -> DifferenceMaker:
    """What runs the perturbed forwards: without perturbed weights where directions and layers allow it, else in a scratch vector."""
    perturber = new_perturber(half, settings)
    if isinstance(perturber, LowRankPerturber) and chain_of(half) is not None:
        return LowRankProber(half, run_key, settings.mu, perturber)
    return Prober(half, run_key, settings.mu, perturber)
