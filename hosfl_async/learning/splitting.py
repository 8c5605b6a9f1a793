"""Any torch module cut in two: by the name of the last part before the cut, or by the number of parts.

It must be a chain: a sequential module, or a list of blocks that are run one after another. A module whose ``forward`` does more than
that between its parts cannot be cut by its names, and a cut that changes what it computes would be worse than none; so whoever has such
a module hands over its blocks in order.

Where the data are tokens, the chain takes ids (batch, longest) and has rows (batch, longest, width) at the cut; of these the ones of tokens
that are there cross it, as with our own text models (``sequences``). A part whose ``forward`` names ``lengths`` is given those of the
samples: it must mask or leave out what lies beyond them, which is tried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.plugins import MODELS, called, find_plugin
from hosfl_async.learning.sequences import PADDING, lengths_of, padded, take
from hosfl_async.learning.settings import MODEL_NAMES, ModelSettings
from hosfl_async.learning.split_model import Half, Shape, SplitModel

Blocks = nn.Module | Sequence[nn.Module] | Sequence[tuple[str, nn.Module]] | Mapping[str, nn.Module]


class _Chain(nn.Module):
    """Parts one after another, token by token: those whose ``forward`` names ``lengths`` are given those of the samples."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._asks = [_asks_for_lengths(part) for part in parts]

    def run(self, batch: Tensor, lengths: Tensor) -> Tensor:
        for part, asks in zip(self.parts, self._asks, strict=True):
            batch = part(batch, lengths=lengths) if asks else part(batch)
        return batch


class ClientChain(_Chain):
    """Token ids (batch, longest), padded -> activations of the tokens that are there, (tokens, width)."""

    def forward(self, ids: Tensor) -> Tensor:
        rows, present = self.run(ids.clamp(min=0), lengths_of(ids)), ids != PADDING
        if rows.ndim != 3 or rows.shape[:2] != present.shape:
            problem = f"rows (batch, longest, width) are wanted at the cut, before tokens are pooled; there are {tuple(rows.shape)}"
            raise ValueError(problem)
        return rows[present]


class ServerChain(_Chain):
    """Activations (tokens, width) and lengths (batch,) -> logits (batch, classes)."""

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        return self.run(padded(rows, lengths)[0], lengths)


def _asks_for_lengths(part: nn.Module) -> bool:
    try:
        return "lengths" in signature(part.forward).parameters
    except ValueError:  # written in C
        return False


def split_module(
    model: Blocks,
    cut: str | int,
    input_shape: Shape,
    *,
    keep_values: bool = True,
    where: str = "cut",
    vocabulary: int = 0,
    classes: int = 0,
) -> SplitModel:
    """Cut ``model`` after the part named ``cut`` (``"layer2"``, or ``"1.conv"`` within a nested sequential), or after ``cut`` parts.

    ``model``: a sequential module, or the blocks in order, with names or without. ``input_shape``: of one sample. ``keep_values``: training
    starts from the values that the module has; otherwise each run draws them from its seed. ``vocabulary``: samples are up to
    ``input_shape`` token ids below it. ``classes``: how many logits are wanted, if known. Parameters that need no gradient are frozen.
    Both halves are in inference mode. Raises ``SettingsError``, naming ``where``, if there is no such place, a half would learn nothing,
    halves share parameters, or the module does not take such samples.
    """
    parts = _chain(model, where)
    names = [name for name, _ in parts]
    before = _place(cut, names, where)
    if not 0 < before < len(parts):
        expected = f"1 to {len(parts) - 1} parts" if isinstance(cut, int) else f"a part of {_few(names[:-1])}"
        raise SettingsError(where, "nothing is left on one side", expected=expected, found=str(cut))
    modules = [module for _, module in parts]
    if len({id(each) for module in modules for each in module.parameters()}) < sum(len(list(module.parameters())) for module in modules):
        raise SettingsError(where, "parts share parameters, and the two halves could not agree on them", mend="untie them first")
    client: nn.Module = (ClientChain(modules[:before]) if vocabulary else nn.Sequential(*modules[:before])).eval()
    server: nn.Module = (ServerChain(modules[before:]) if vocabulary else nn.Sequential(*modules[before:])).eval()
    try:
        with torch.inference_mode():
            tried = _try_tokens(client, server, input_shape, vocabulary) if vocabulary else _try_samples(client, server, input_shape)
    except Exception as problem:  # whatever a user's own module may raise
        shape = f"up to {input_shape[0]} tokens below {vocabulary}" if vocabulary else "x".join(map(str, input_shape))
        told = (str(problem).splitlines() or [""])[0]
        raise SettingsError(where, f"the module does not take samples of {shape}: {type(problem).__name__}: {told}") from problem
    if tried.problem:
        raise SettingsError(where, tried.problem)
    if len(tried.logits) != 2 or (classes and tried.logits != (2, classes)):
        expected = f"({classes or 'classes'},) for each sample"
        raise SettingsError(where, "the module gives no logits of the classes", expected=expected, found=f"{tried.logits[1:]}")
    if not all(any(each.requires_grad for each in half.parameters()) for half in (client, server)):
        raise SettingsError(where, "one half has nothing to learn", expected="parameters that require gradients before and after the cut")

    def drawn(name: str) -> bool:
        return not keep_values

    halves = {"client": Half(client, drawn), "server": Half(server, drawn)}
    return SplitModel(**halves, input_shape=input_shape, cut_shape=tried.cut_shape, sequences=bool(vocabulary))


def own_model(settings: ModelSettings, sample_shape: Shape, classes: int, vocabulary: int = 0) -> SplitModel:
    """The user's model that ``settings`` name, called with the size of the vocabulary, too, where the data are tokens. Values that it draws
    itself by torch are the same in every process."""
    function = find_plugin(MODELS, settings.name, "task.model.name", MODEL_NAMES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = called(function, "task.model.name", settings.name, sample_shape, classes, *([vocabulary] if vocabulary else []))
    if isinstance(made, SplitModel):
        return made
    if not settings.cut_after:
        names = [name for name, _ in _chain(made, "task.model.name")]
        raise SettingsError("task.model.cut_after", f"where is {settings.name} cut?", expected=_few(names))
    cut: str | int = int(settings.cut_after) if settings.cut_after.isdecimal() else settings.cut_after
    told: dict[str, Any] = {"where": "task.model.cut_after", "vocabulary": vocabulary, "classes": classes}
    return split_module(made, cut, sample_shape, keep_values=settings.keep_values, **told)


def _chain(model: Blocks, where: str) -> list[tuple[str, nn.Module]]:
    """The parts in order; nested sequential modules are one chain, named by their path."""
    children: list[tuple[str, nn.Module]]
    if isinstance(model, nn.Sequential | nn.ModuleList):
        children = list(model.named_children())
    elif isinstance(model, Mapping | nn.ModuleDict):
        children = list(model.items())
    elif isinstance(model, list | tuple):
        children = [part if isinstance(part, tuple) else (str(index), part) for index, part in enumerate(model)]
    else:
        problem = f"{type(model).__name__} does not say in which order its parts are run"
        raise SettingsError(where, problem, expected="a torch.nn.Sequential, or its blocks as a list")
    for index, each in enumerate(children):
        if len(each) != 2 or not isinstance(each[0], str) or not isinstance(each[1], nn.Module):
            expected = "a torch.nn.Module, or (name, module)"
            raise SettingsError(where, f"part {index} is no module", expected=expected, found=type(each[-1]).__name__)
    parts: list[tuple[str, nn.Module]] = []
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


class _Tried(NamedTuple):
    """What the halves did with two samples."""

    cut_shape: Shape
    logits: Shape
    problem: str = ""


def _try_samples(client: nn.Module, server: nn.Module, input_shape: Shape) -> _Tried:
    """Sees to it that samples are treated one by one."""
    samples = torch.linspace(-1, 1, 2 * max(1, prod(input_shape))).reshape(2, *input_shape)
    both, one = client(samples), client(samples[:1])
    mixed = both.shape != (2, *one.shape[1:]) or not _alike(both[:1], one)
    problem = "the client half mixes the samples of a batch, so a probe would depend on who shares it" if mixed else ""
    return _Tried(tuple(one.shape[1:]), tuple(server(both).shape), problem)


def _try_tokens(client: nn.Module, server: nn.Module, input_shape: Shape, vocabulary: int) -> _Tried:
    """Sees to it that neither padding nor who shares a batch changes anything: a long sample and a short one, together and alone."""
    longest, short = input_shape[0], max(1, input_shape[0] // 2)
    ids = (torch.arange(2 * longest, dtype=torch.int32) * 7 + vocabulary - 1).remainder(vocabulary).reshape(2, longest)
    ids[1, short:] = PADDING
    alone = take(ids, [1])
    both, one = client(ids), client(alone)
    logits = server(both, lengths_of(ids))
    problem = ""
    if not _alike(both[longest:], one) or not _alike(logits[1:], server(one, lengths_of(alone))):
        problem = "padding changes what a sample gives: let parts that look at other tokens take lengths, and mask what lies beyond them"
    return _Tried(tuple(both.shape[1:]), tuple(logits.shape), problem)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
