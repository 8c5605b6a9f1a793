"""Skip feedback of encoders: a gradient of the residual writers from the dual, by forward passes only (decoders: ``skip_feedback_causal``).

A transformer's block adds what it computes to a stream: x + f(x). Back-propagation sends the gradient both through f and past it. Here
the dual goes past only: down the skip connections, where nothing but normalisations lies in its way. Each *writer*, a matrix W whose
output is added to the stream, gets the outer product of what arrives there with its own input, as in back-propagation. In a
post-norm block (BERT) with writers k = 1..n from the embeddings to the cut, s_k the stream and w_k the writer's input::

    r_k = s_(k-1) + W_k w_k + b_k        s_k = LayerNorm_k(r_k), scale gamma_k, 1/std rho_k of each token
    delta_n = lambda                     the dual at the cut
    delta_(k-1) = rho_k gamma_k delta_k  past branch k, elementwise; the two directions that a normalisation takes out are left in
    grad W_k = sum over tokens of e_k w_k^T,    e_k = the derivative of LayerNorm_k at r_k, transposed, times delta_k

So e_k is exact given delta_k, and the last writer's gradient is exact. Those below miss what the branches above would add: it is direct
feedback (direct feedback alignment, arXiv:1609.01596; feedback alignment, arXiv:1411.0247) whose feedback matrix is the identity that
the architecture has itself. docs/results.md has the angles to the true gradient, and what it wins.

*Gated* feedback sends the dual down through the feed-forward branches W_k act(V u), too. Back-propagation wants the slope of the activation
function for each unit and token; here a unit has two, the mean over its values above zero and the mean over those below, so one bit says
which, the unit's *gate*, for each unit and token. With p = rho_k gamma_k delta_k less its mean over each token's elements, which a
normalisation takes out and a branch would amplify::

    delta_(k-1) = p + V^T ((W_k^T p) * slope of the gate)        past the branch, and through it

Attention branches are still passed by. This is back-propagation through the feed-forward branches, with activations compressed to a bit,
and not a forward-only method: docs/decisions/0012 says why it is here.

No graph and no activation is kept. The way down needs, of each writer, one number for each token, rho, noted by the anchor's forward pass,
and the gates if they are wanted. When the dual has come a second forward pass goes from the bottom up, and the outer product of a writer
is formed in passing, from the input that is there anyway. So it takes the memory of inference, with gates one stream for each block beside
it; two forward passes and the outer products, with gates two products of each feed-forward layer. What is learnt must be learnt in
writers: their matrices, adapters beside them (LoRA) and the vectors of their normalisations. Without gates no frozen matrix is ever
transposed, so they may be in int8 (``quantised``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.encoders import ClientBlocks
from hosfl_async.learning.perturbation import Vector, aligned_vector
from hosfl_async.learning.quantised import is_rounded
from hosfl_async.learning.sequences import PADDING
from hosfl_async.learning.settings import FED_BACK, Feedback
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations

SLOPE_STEP = 2.0**-6
"""Half the interval over which a slope is taken: by differences, so that any activation function will do."""
TOKENS_AT_ONCE = 512
"""Of which the units of a feed-forward layer are looked at together: bounds what the gates need for a moment."""


class Gates(NamedTuple):
    """Of one feed-forward branch. ``open``: bits, (tokens, units / 8); ``slopes``: of closed and open, (2, units)."""

    open: NDArray[np.uint8]
    slopes: Tensor

    def slope(self, tokens: slice) -> Tensor:
        """Of these tokens' units, (tokens, units)."""
        is_open = torch.from_numpy(np.unpackbits(self.open[tokens], axis=1, count=self.slopes.shape[1])).bool()
        return torch.where(is_open, self.slopes[1], self.slopes[0])


class Noted(NamedTuple):
    """What a forward pass leaves for the way down. ``rho``: (writers, tokens); ``gates``: one for each block, or none at all."""

    rho: Tensor
    gates: tuple[Gates, ...] = ()


class SkipFeedback:
    """The skip feedback of one client half."""

    def __init__(self, half: Half, feedback: Feedback) -> None:
        """Raises ``SettingsError`` where the half has no skip path that we know, or learns something that no writer holds."""
        self._half, self._gated = half, feedback == "gated"
        self._writers = writers_of(half.module)
        held = {id(parameter) for writer in self._writers for part in _parts(writer) for parameter in part.parameters()}
        if not all(id(parameter) in held for parameter in half.parameters):
            expected = "what residual writers hold: " + ", ".join(FED_BACK)
            raise SettingsError("task.model.trainable", "skip feedback does not reach all that is learnt", expected=expected)
        if self._gated and any(is_rounded(module) for module in half.module.modules()):
            problem = "gated feedback multiplies by transposed matrices, which a half in int8 or bfloat16 cannot"
            raise SettingsError("zeroth_order.feedback", problem, expected="skip", found="gated")
        self._place = {id(parameter): index for index, parameter in enumerate(half.parameters)}

    def forward(self, views: Views, batch: Tensor) -> tuple[Activations, Noted]:
        """The anchor's forward pass: activations at the cut, the very ones of ``zeroth_order.forward``, and what the way down needs."""
        present = batch != PADDING
        rho: list[Tensor] = []
        gates: list[Gates] = []

        def note(norm: nn.LayerNorm) -> Callable[..., None]:
            return lambda module, given, made: rho.append(_one_over_std(given[0][present], norm.eps))

        def gate(act: Callable[[Tensor], Tensor]) -> Callable[..., None]:
            return lambda module, given, made: gates.append(_gates_of(made, present, act))

        hooks = [writer.LayerNorm.register_forward_hook(note(writer.LayerNorm)) for writer in self._writers]
        if self._gated:
            hooks += [inner.dense.register_forward_hook(gate(inner.intermediate_act_fn)) for inner in self._inner()]
        self._half.bind(views)
        with torch.inference_mode(), hooked(hooks):
            activations: Activations = self._half.module(batch).numpy()
            return activations, Noted(torch.stack(rho), tuple(gates))

    def gradient(self, views: Views, batch: Tensor, dual: Tensor, noted: Noted) -> Vector:
        """The gradient's stand-in, float32 (d,), by a second forward pass over the anchor's ``batch``; ``dual`` as the activations."""
        gradient, present = aligned_vector(self._half.size), batch != PADDING
        parts = self._half.views(gradient)
        self._half.bind(views)
        with torch.inference_mode():
            hooks = []
            for writer, arriving in zip(self._writers, self._arriving(dual, noted), strict=True):
                collect = _Collector(writer, arriving, present, self._place, parts)
                hooks += [writer.dense.register_forward_pre_hook(collect.input), writer.LayerNorm.register_forward_hook(collect.output)]
            with hooked(hooks):
                self._half.module(batch)
        return gradient

    def _inner(self) -> list[Any]:
        """The first layer of each feed-forward branch: its ``dense`` and the activation function behind it."""
        return [block.intermediate for block in self._half.module.blocks]  # type: ignore[union-attr]

    def _arriving(self, dual: Tensor, noted: Noted) -> list[Callable[[], Tensor]]:
        """delta_k of each writer, made when it is wanted: what is kept is a stream for each gated branch, and between them a scale for
        each token and one for each element."""
        ways: list[Callable[[], Tensor]] = []
        stream, by_token, by_element = dual, torch.ones(len(dual)), torch.ones(dual.shape[1])
        branches = self._branches(noted)
        for writer, own in zip(reversed(self._writers), reversed(noted.rho), strict=True):
            ways.append(lambda stream=stream, t=by_token, e=by_element: stream * e * t[:, None])  # type: ignore[misc]
            by_token, by_element = by_token * own, by_element * writer.LayerNorm.weight
            if writer in branches:
                inner, gates = branches[writer]
                past = stream * by_element * by_token[:, None]
                past -= past.mean(dim=1, keepdim=True)
                for begin in range(0, len(past), TOKENS_AT_ONCE):
                    rows = slice(begin, begin + TOKENS_AT_ONCE)
                    past[rows] += _through(_through(past[rows], writer.dense).mul_(gates.slope(rows)), inner.dense)
                stream = past
                by_token, by_element = torch.ones_like(by_token), torch.ones_like(by_element)
        return ways[::-1]

    def _branches(self, noted: Noted) -> dict[Any, tuple[Any, Gates]]:
        """Writer -> first layer and gates of the feed-forward branch that it ends. That of the lowest block leads to one writer more."""
        if not noted.gates:
            return {}
        return dict(zip(self._writers[1::2], zip(self._inner(), noted.gates, strict=True), strict=True))


def _gates_of(values: Tensor, present: Tensor, act: Callable[[Tensor], Tensor]) -> Gates:
    """Of one branch's ``values`` before the activation function, (samples, longest, units); ``present`` tells tokens from padding."""
    flat = values.flatten(0, 1)
    summed, counted = torch.zeros(2, flat.shape[1]), torch.zeros(2, flat.shape[1])
    bits = []
    for tokens in present.flatten().nonzero()[:, 0].split(TOKENS_AT_ONCE):  # type: ignore[no-untyped-call]
        rows = flat[tokens]
        is_open = rows > 0
        slope = (act(rows + SLOPE_STEP) - act(rows - SLOPE_STEP)).div_(2 * SLOPE_STEP)
        for side, mine in enumerate((~is_open, is_open)):
            summed[side] += (slope * mine).sum(dim=0)
            counted[side] += mine.sum(dim=0)
        bits.append(np.packbits(is_open.numpy(), axis=1))
    return Gates(np.concatenate(bits), summed / counted.clamp_(min=1))


def _through(error: Tensor, dense: Any) -> Tensor:
    """``error`` at a layer's outputs, brought to its inputs: times the transposed matrix, adapters included."""
    adapter = getattr(dense, "lora_A", None)
    if adapter is None:
        return error @ dense.weight  # type: ignore[no-any-return]
    [name] = adapter
    beside: Tensor = ((error * dense.scaling[name]) @ dense.lora_B[name].weight) @ adapter[name].weight
    return beside.addmm_(error, dense.base_layer.weight)


class _Collector:
    """Forms one writer's part of the gradient while the forward pass goes by."""

    def __init__(self, writer: Any, arriving: Callable[[], Tensor], present: Tensor, place: dict[int, int], parts: Views) -> None:
        self._dense, self._norm, self._arriving, self._present = writer.dense, writer.LayerNorm, arriving, present
        self._place, self._parts = place, parts
        self._input: Tensor | None = None

    def input(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._input = given[0]

    def output(self, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        assert self._input is not None
        inputs, self._input = self._input[self._present], None
        rows = given[0][self._present]
        rho = _one_over_std(rows, self._norm.eps)[:, None]
        normalised = (rows - rows.mean(dim=-1, keepdim=True)) * rho
        delta = self._arriving()
        self._put(self._norm.weight, lambda: (delta * normalised).sum(dim=0))
        self._put(self._norm.bias, lambda: delta.sum(dim=0))
        error = delta * self._norm.weight
        along = normalised * (error * normalised).mean(dim=-1, keepdim=True)
        error = (error - error.mean(dim=-1, keepdim=True) - along) * rho
        put_outer_product(self._dense, error, inputs, self._put)

    def _put(self, parameter: Tensor, made: Callable[[], Tensor]) -> None:
        """Only what is learnt is computed."""
        place = self._place.get(id(parameter))
        if place is not None:
            self._parts[place].copy_(made())


def put_outer_product(dense: Any, error: Tensor, inputs: Tensor, put: Callable[[Tensor, Callable[[], Tensor]], None]) -> None:
    """What ``error`` (tokens, outputs) says of a layer's matrix and bias, or of the adapters beside it, given the layer's ``inputs``."""
    adapter = getattr(dense, "lora_A", None)
    if adapter is None:
        is_transposed = not isinstance(dense, nn.Linear)  # GPT-2's are stored input first
        put(dense.weight, lambda: inputs.T @ error if is_transposed else error.T @ inputs)
        put(dense.bias, lambda: error.sum(dim=0))
        return
    [name] = adapter
    down, up = adapter[name].weight, dense.lora_B[name].weight
    error = error * dense.scaling[name]
    put(down, lambda: (error @ up).T @ inputs)
    put(up, lambda: error.T @ (inputs @ down.T))


def writers_of(module: nn.Module) -> list[Any]:
    """The residual writers from the embeddings to the cut: each has a ``dense`` and the ``LayerNorm`` behind its skip connection."""
    if not isinstance(module, ClientBlocks):
        expected = "a text model"
        raise SettingsError("task.model.name", "skip feedback needs skip connections, and this model has none", expected=expected)
    return [writer for block in module.blocks for writer in (block.attention.output, block.output)]  # type: ignore[union-attr]


def _parts(writer: Any) -> tuple[nn.Module, nn.Module]:
    return writer.dense, writer.LayerNorm


def _one_over_std(rows: Tensor, eps: float) -> Tensor:
    """rho of each row."""
    return (rows.var(dim=-1, unbiased=False) + eps).rsqrt()


@contextmanager
def hooked(hooks: list[Any]) -> Iterator[None]:
    """The hooks are gone afterwards, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
