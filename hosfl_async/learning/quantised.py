"""A client half whose frozen matrices are kept in fewer bits: in int8, so that nothing but forward passes can train what is learnt beside
them, or in bfloat16.

int8 is torch's dynamic quantisation: one scale for each output of a matrix, inputs quantised as they come, products in whole numbers,
results in float32. Such a matrix has no backward pass: whatever lies below it gets no gradient, while a perturbed forward pass asks for
none. In bfloat16 a product's input is rounded, too, and its result is float32 again; it has a backward pass. On a processor without
instructions for it, it is no faster than float32, and right all the same.

What is learnt (adapters, normalisations) and theta_c's replay stay in float32. The rounding of int8 is of the size of what a probe of
mu = 1e-3 changes, so mu has to be larger; that of bfloat16 leaves such a probe nine tenths of its worth (``docs/results.md``). Activations
differ from one kind of processor to another by more than float32's do; scalars are computed once and replayed, so nothing else depends on
it.
"""

from __future__ import annotations

import warnings
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from hosfl_async.errors import SettingsError
from hosfl_async.learning.settings import ModelSettings

_DynamicLinear = torch.ao.nn.quantized.dynamic.Linear


class RoundedLinear(nn.Module):
    """A frozen matrix in bfloat16, in place of a ``torch.nn.Linear``: float32 in, float32 out."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.register_buffer("weight", plain.weight.detach().bfloat16())
        self.register_buffer("bias", None if plain.bias is None else plain.bias.detach().bfloat16())

    def forward(self, given: Tensor) -> Tensor:
        return functional.linear(given.bfloat16(), self.weight, self.bias).float()


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
    if settings.client_matrices == "bfloat16":
        for name in frozen:
            half.set_submodule(name, RoundedLinear(half.get_submodule(name)))  # type: ignore[arg-type]
        return half
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation, of the module's place and not of the operation
        rules = dict.fromkeys(frozen, torch.ao.quantization.per_channel_dynamic_qconfig)
        made: nn.Module = torch.ao.quantization.quantize_dynamic(half, rules, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
    return made


def is_quantised(module: nn.Module) -> bool:
    """In int8."""
    return isinstance(module, _DynamicLinear)


def is_rounded(module: nn.Module) -> bool:
    """In fewer bits than float32."""
    return isinstance(module, _DynamicLinear | RoundedLinear)


def product_operations(module: nn.Module, given: Tensor) -> int:
    """Multiplications and additions of a quantised matrix applied to this, which torch's counter does not see; 0 for other modules."""
    return 2 * prod(given.shape) * module.out_features if isinstance(module, _DynamicLinear) else 0


def packed_bytes(half: nn.Module) -> int:
    """Bytes of the matrices in fewer bits, which are no parameters any more."""
    rounded = (module for module in half.modules() if is_rounded(module))
    return sum(module.in_features * module.out_features * (1 if is_quantised(module) else 2) for module in rounded)  # type: ignore[operator, misc]
