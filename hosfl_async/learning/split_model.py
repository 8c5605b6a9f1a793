"""A model cut in two; each half's parameters live in one contiguous float32 vector.

HO-SFL (arXiv:2603.14773, section 3) cuts a model at the *cut layer* into a client half f_c(x; theta_c) and a server half
f_s(z; theta_s). Here theta_c and theta_s are plain vectors: directions, replay, digests and snapshots speak of vectors, and know
no layers. A ``Half`` is a torch module whose parameters are *views* of such a vector, so nothing is ever copied between the two;
binding it to another vector (a perturbed one, another version) exchanges pointers.

Which model a name stands for is told in ``models``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, Vector, aligned_vector
from hosfl_async.learning.randomness import named_key, uniform_stream

Shape = tuple[int, ...]
Views = tuple[Tensor, ...]


class Half:
    """One half of a model: a module whose trainable parameters are views of a vector of ``size`` float32, in the module's own order.

    What does not require a gradient is frozen: it stays in the module as it is, and the vector knows nothing of it.
    """

    def __init__(self, module: nn.Module, drawn: Callable[[str], bool] = lambda name: True) -> None:
        """``drawn``: whether a parameter of this name starts at random; the others start with the values that they have now."""
        self.module = module
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.names = tuple(name for name, _ in named)
        self.parameters = tuple(parameter for _, parameter in named)
        self.shapes = tuple(tuple(parameter.shape) for parameter in self.parameters)
        self._given = tuple(None if drawn(name) else parameter.detach().flatten().numpy().copy() for name, parameter in named)
        self.size = sum(map(prod, self.shapes))
        for parameter in self.parameters:
            parameter.data = torch.empty(0)  # the constructor's own copy; ``bind`` brings the real one

    def record_graph(self, wanted: bool) -> None:
        """Whether a forward pass keeps what back-propagation to the trainable parameters needs."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)

    def views(self, vector: Vector) -> Views:
        """The parameters as views of ``vector``: changing one changes the other."""
        whole = torch.from_numpy(vector)
        ends = accumulate(map(prod, self.shapes))
        return tuple(whole[end - prod(shape) : end].view(shape) for end, shape in zip(ends, self.shapes, strict=True))

    def bind(self, views: Views) -> None:
        """Let the module compute with these views from now on."""
        for parameter, view in zip(self.parameters, views, strict=True):
            parameter.data = view

    def initial(self, key: bytes) -> Vector:
        """theta(0): given values, and others uniform in +-1/sqrt(fan-in), the same bits on every machine (float64, rounded once)."""
        vector, end = aligned_vector(self.size), 0
        stream = uniform_stream(key)
        for (shape, fan_in), given in zip(self._fan_ins(), self._given, strict=True):
            begin, end = end, end + prod(shape)
            if given is not None:
                vector[begin:end] = given
                continue
            for start in range(begin, end, CHUNK_ELEMENTS):
                part = vector[start : min(start + CHUNK_ELEMENTS, end)]
                part[:] = (stream(part.size) * 2 - 1) * (1 / sqrt(fan_in))
        return vector

    def _fan_ins(self) -> Iterable[tuple[Shape, int]]:
        """Shape and fan-in of each parameter; a bias has the fan-in of the weight before it."""
        fan_in = 1
        for shape in self.shapes:
            fan_in = prod(shape[1:]) if len(shape) > 1 else fan_in
            yield shape, fan_in


@dataclass(frozen=True, slots=True)
class SplitModel:
    """Both halves and the shapes, per sample, that go into the client half and come out of it at the cut."""

    client: Half
    server: Half
    input_shape: Shape
    cut_shape: Shape
    sequences: bool = False
    """Samples are sequences: ``cut_shape`` is that of one token, and the server half takes their lengths beside the activations."""
    tail: Half | None = None
    """Where the client half is the whole model: the part of it that would be the server's, for its initial values."""

    @classmethod
    def from_module(
        cls, model: Any, cut: str | int, input_shape: Shape, *, keep_values: bool = True, vocabulary: int = 0, classes: int = 0
    ) -> SplitModel:
        """Any sequential module, or list of blocks, cut after the part of this name or after so many parts; see ``splitting``."""
        from hosfl_async.learning.splitting import split_module

        return split_module(model, cut, input_shape, keep_values=keep_values, vocabulary=vocabulary, classes=classes)


def named_values(model: SplitModel, theta_c: Vector, theta_s: Vector) -> dict[str, NDArray[np.float32]]:
    """What was learnt, by the names of the modules' parameters: ``client.`` and ``server.`` before each. Views of the vectors."""
    parts = ("client", model.client, theta_c), ("server", model.server, theta_s)
    return {
        f"{which}.{name}": view.numpy() for which, half, vector in parts for name, view in zip(half.names, half.views(vector), strict=True)
    }


def initial_theta_c(model: SplitModel, seed: int) -> Vector:
    """theta_c(0): the client half's parameters from which the update log starts."""
    theta = model.client.initial(named_key("client half", seed))
    if model.tail is not None:  # the very values with which the two halves would have started
        theta[-model.tail.size :] = model.tail.initial(named_key("server half", seed))
    return theta


def initial_theta_s(model: SplitModel, seed: int) -> Vector:
    """theta_s(0): the server half's parameters before its first step."""
    return model.server.initial(named_key("server half", seed))
