"""What one client step costs a device, counted: operations of a forward pass, and the memory of a step.

Operations are those of matrix products and convolutions, as torch's own counter sees them in one forward pass; a multiplication and an
addition are two. Element-wise work is not counted. Memory is what the step must hold at once if nothing is wasted: the parameters, as
much of a perturbed copy as its kind of direction needs (``directions.perturbed_floats``), the batch, the largest input and output of
one layer, and the cut's activations with each probe's difference. It is a model of a lean device, which runs one probe at a time, not a
measurement of this process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hosfl_async.learning.perturbation import aligned_vector
from hosfl_async.learning.quantised import is_quantised, packed_bytes, product_operations
from hosfl_async.learning.split_model import SplitModel

_FLOAT_BYTES = 4


class StepCost(NamedTuple):
    forward_flops: int
    """Of one forward pass of the client half over one batch."""
    peak_bytes: int
    """Held at once in one step."""
    cut_values: int = 0
    """Numbers of a batch that cross the cut, each way."""


def step_cost(model: SplitModel, batch: Tensor, probes: int, floats_beside: int) -> StepCost:
    """Of a step with ``probes`` over this ``batch``, on a device that holds so many values beside the parameters themselves: what is
    written out of a perturbed copy, and the moments of the log's update rule.

    Leaves the client half bound to parameters of its own.
    """
    vector = aligned_vector(model.client.size)
    vector[:] = 0
    model.client.bind(model.client.views(vector))
    largest = quantised = 0

    def measure(module: Any, given: Any, made: Any) -> None:
        nonlocal largest, quantised
        quantised += product_operations(module, given[0]) if given else 0
        tensors = (*given, *made) if isinstance(made, tuple) else (*given, made)
        largest = max(largest, sum(each.numel() for each in tensors if isinstance(each, Tensor)))

    layers = [each for each in model.client.module.modules() if is_quantised(each) or not list(each.children())]
    hooks = [each.register_forward_hook(measure) for each in layers]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cut = model.client.module(batch)
    for hook in hooks:
        hook.remove()
    parameters = sum(each.numel() for each in model.client.module.parameters())
    floats = parameters + floats_beside + batch.numel() + largest + (probes + 1) * cut.numel()
    operations = int(counter.get_total_flops()) + quantised
    return StepCost(operations, _FLOAT_BYTES * floats + packed_bytes(model.client.module), cut.numel())
