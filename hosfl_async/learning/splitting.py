"""Any torch module cut in two: by the name of the last part before the cut, or by the number of parts.

It must be a chain: a sequential module, or a list of blocks that are run one after another. A module whose ``forward`` does more than
that between its parts cannot be cut by its names, and a cut that changes what it computes would be worse than none; so whoever has such
a module hands over its blocks in order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.plugins import MODELS, called, find_plugin
from hosfl_async.learning.settings import MODEL_NAMES, ModelSettings
from hosfl_async.learning.split_model import Half, Shape, SplitModel

Blocks = nn.Module | Sequence[nn.Module] | Sequence[tuple[str, nn.Module]]


def split_module(model: Blocks, cut: str | int, input_shape: Shape, *, keep_values: bool = True, where: str = "cut") -> SplitModel:
    """Cut ``model`` after the part named ``cut`` (``"layer2"``, or ``"1.conv"`` within a nested sequential), or after ``cut`` parts.

    ``model``: a sequential module, or the blocks in order, with names or without. ``input_shape``: of one sample. ``keep_values``: training
    starts from the values that the module has; otherwise each run draws them from its seed. Parameters that need no gradient are frozen.
    Both halves are in inference mode. Raises ``SettingsError``, naming ``where``, if there is no such place, a half would learn nothing,
    halves share parameters, or the module does not take such samples.
    """
    parts = _chain(model, where)
    names = [name for name, _ in parts]
    before = _place(cut, names, where)
    if not 0 < before < len(parts):
        raise SettingsError(where, "nothing is left on one side", expected=f"a part of {_few(names[:-1])}", found=str(cut))
    modules = [module for _, module in parts]
    if len({id(each) for module in modules for each in module.parameters()}) < sum(len(list(module.parameters())) for module in modules):
        raise SettingsError(where, "parts share parameters, and the two halves could not agree on them", mend="untie them first")
    client, server = nn.Sequential(*modules[:before]).eval(), nn.Sequential(*modules[before:]).eval()
    cut_shape = _cut_shape(client, server, input_shape, where)
    if not all(any(each.requires_grad for each in half.parameters()) for half in (client, server)):
        raise SettingsError(where, "one half has nothing to learn", expected="parameters that require gradients before and after the cut")

    def drawn(name: str) -> bool:
        return not keep_values

    return SplitModel(client=Half(client, drawn), server=Half(server, drawn), input_shape=input_shape, cut_shape=cut_shape)


def own_model(settings: ModelSettings, sample_shape: Shape, classes: int) -> SplitModel:
    """The user's model that ``settings`` name. Values that it draws itself by torch are the same in every process."""
    function = find_plugin(MODELS, settings.name, "task.model.name", MODEL_NAMES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = called(function, "task.model.name", settings.name, sample_shape, classes)
    if isinstance(made, SplitModel):
        return made
    if not settings.cut_after:
        raise SettingsError(
            "task.model.cut_after", f"where is {settings.name} cut?", expected=_few([name for name, _ in _chain(made, "it")])
        )
    cut: str | int = int(settings.cut_after) if settings.cut_after.isdecimal() else settings.cut_after
    return split_module(made, cut, sample_shape, keep_values=settings.keep_values, where="task.model.cut_after")


def _chain(model: Blocks, where: str) -> list[tuple[str, nn.Module]]:
    """The parts in order; nested sequential modules are one chain, named by their path."""
    if isinstance(model, nn.Sequential):
        children: list[tuple[str, nn.Module]] = list(model.named_children())
    elif isinstance(model, nn.Module):
        raise SettingsError(
            where,
            f"{type(model).__name__} does not say in which order its parts are run",
            expected="a torch.nn.Sequential, or its blocks as a list",
        )
    else:
        children = [each if isinstance(each, tuple) else (str(index), each) for index, each in enumerate(model)]
    parts = []
    for name, child in children:
        if isinstance(child, nn.Sequential):
            parts += [(f"{name}.{inner}", module) for inner, module in _chain(child, where)]
        else:
            parts.append((name, child))
    return parts


def _place(cut: str | int, names: list[str], where: str) -> int:
    """How many parts lie before the cut; a name stands for all parts within it."""
    if isinstance(cut, int):
        return cut
    within = [index for index, name in enumerate(names) if name == cut or name.startswith(f"{cut}.")]
    if not within:
        raise SettingsError(where, "no part has this name", expected=_few(names), found=cut)
    return within[-1] + 1


def _cut_shape(client: nn.Module, server: nn.Module, input_shape: Shape, where: str) -> Shape:
    """Shape of one sample at the cut, tried out with two; sees to it that samples are treated one by one."""
    samples = torch.linspace(-1, 1, 2 * max(1, int(torch.tensor(input_shape).prod()))).reshape(2, *input_shape)
    try:
        with torch.inference_mode():
            both, one = client(samples), client(samples[:1])
            server(both)
    except (RuntimeError, TypeError, AttributeError) as problem:
        shape = "x".join(map(str, input_shape))
        raise SettingsError(where, f"the module does not take samples of {shape}: {str(problem).splitlines()[0]}") from problem
    if both.shape != (2, *one.shape[1:]) or not torch.allclose(both[:1], one, rtol=1e-3, atol=1e-5):
        raise SettingsError(where, "the client half mixes the samples of a batch, so a probe would depend on who shares it")
    return tuple(one.shape[1:])


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
