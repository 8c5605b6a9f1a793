"""A client half whose frozen matrices are kept in int8, so that nothing but forward passes can train what is learnt beside them.

torch's dynamic quantisation: one scale for each output of a matrix, inputs quantised as they come, products in whole numbers, results in
float32. What is learnt (adapters, normalisations) and theta_c's replay stay in float32. Such a matrix has no backward pass: whatever
lies below it gets no gradient, while a perturbed forward pass asks for none. The rounding is of the size of what a probe of mu = 1e-3
changes, so mu has to be larger (``docs/results.md``). Activations differ from one kind of processor to another by more than
float32's do; scalars are computed once and replayed, so nothing else depends on it.
"""

from __future__ import annotations

import warnings
from math import prod

import torch
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.settings import ModelSettings

_DynamicLinear = torch.ao.nn.quantized.dynamic.Linear


def with_wanted_matrices(half: nn.Module, settings: ModelSettings) -> nn.Module:
    """The client half as ``client_matrices`` wants it, once what is learnt is chosen. Raises ``SettingsError`` if no matrix is frozen."""
    if settings.client_matrices == "float32":
        return half
    frozen = [
        name
        for name, module in half.named_modules()
        if type(module) is nn.Linear and "lora_" not in name and not any(each.requires_grad for each in module.parameters())
    ]
    if not frozen:
        problem = f"{settings.name} with trainable {settings.trainable} has no frozen matrix in its client half"
        expected = "float32, or adapters (trainable = lora) beside frozen matrices"
        raise SettingsError("task.model.client_matrices", problem, expected=expected, found=settings.client_matrices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation, of the module's place and not of the operation
        rules = dict.fromkeys(frozen, torch.ao.quantization.per_channel_dynamic_qconfig)
        made: nn.Module = torch.ao.quantization.quantize_dynamic(half, rules, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return made


def is_quantised(module: nn.Module) -> bool:
    return isinstance(module, _DynamicLinear)


def product_operations(module: nn.Module, given: Tensor) -> int:
    """Multiplications and additions of a quantised matrix applied to this, which torch's counter does not see; 0 for other modules."""
    return 2 * prod(given.shape) * module.out_features if isinstance(module, _DynamicLinear) else 0


def packed_bytes(half: nn.Module) -> int:
    """Bytes of the quantised matrices, which are no parameters any more."""
    return sum(module.in_features * module.out_features for module in half.modules() if isinstance(module, _DynamicLinear))
