"""Skip feedback of causal language models, and which half gets which.

In a pre-norm block (Llama, Gemma, OPT, GPT-2) a branch is added to the stream as it is, and the normalisations lie inside the branches::

    s_k = s_(k-1) + W_k w_k + b_k        w_k = what the branch makes of norm(s_(k-1))

So the skip path from the cut down to any writer W_k is the identity, delta_k = lambda for all k, and nothing need be noted of the anchor's
pass: the gradient of W_k is the sum over tokens of lambda w_k^T, formed in a second forward pass. It is exact for the last writer; those
below miss what the branches above them would add, as in ``skip_feedback``, which has the theory. What is learnt must be learnt in
writers: their matrices, or adapters beside them (LoRA); the normalisations are not on the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.decoders import FAMILIES, ClientDecoder
from hosfl_async.learning.perturbation import Vector, aligned_vector
from hosfl_async.learning.sequences import PADDING
from hosfl_async.learning.settings import FED_BACK_CAUSAL, Feedback
from hosfl_async.learning.skip_feedback import Noted, SkipFeedback, hooked, put_outer_product
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.zeroth_order import Activations, forward

_NOTHING = Noted(torch.empty(0))


class CausalSkipFeedback:
    """The skip feedback of one causal client half; the same two methods as ``SkipFeedback``."""

    def __init__(self, half: Half, feedback: Feedback) -> None:
        """Raises ``SettingsError`` where branches are not simply added, or something is learnt that no writer holds."""
        self._half, self._writers = half, causal_writers_of(half.module)
        held = {id(parameter) for writer in self._writers for parameter in writer.parameters()}
        if not all(id(parameter) in held for parameter in half.parameters):
            expected = "what residual writers hold: " + ", ".join(FED_BACK_CAUSAL)
            raise SettingsError("task.model.trainable", "skip feedback does not reach all that is learnt", expected=expected)
        if feedback == "gated":
            problem = "gated feedback knows the feed-forward layers of encoders only"
            raise SettingsError("zeroth_order.feedback", problem, expected="skip", found="gated")
        self._place = {id(parameter): index for index, parameter in enumerate(half.parameters)}

    def forward(self, views: Views, batch: Tensor) -> tuple[Activations, Noted]:
        """The anchor's forward pass, which leaves nothing behind."""
        return forward(self._half, views, batch), _NOTHING

    def gradient(self, views: Views, batch: Tensor, dual: Tensor, noted: Noted) -> Vector:
        """The gradient's stand-in, float32 (d,), by a second forward pass over the anchor's ``batch``; ``dual``: (tokens, hidden)."""
        gradient, present = aligned_vector(self._half.size), (batch != PADDING).flatten()
        parts = self._half.views(gradient)

        def put(parameter: Tensor, made: Callable[[], Tensor]) -> None:
            place = self._place.get(id(parameter))
            if place is not None:
                parts[place].copy_(made())

        def collect(writer: nn.Module, given: tuple[Tensor, ...]) -> None:
            put_outer_product(writer, dual, given[0].flatten(0, -2)[present], put)

        self._half.bind(views)
        with torch.inference_mode(), hooked([writer.register_forward_pre_hook(collect) for writer in self._writers]):
            self._half.module(batch)
        return gradient


def causal_writers_of(module: nn.Module) -> list[Any]:
    """The matrices whose outputs are added to the stream, from the embeddings to the cut. Raises ``SettingsError``."""
    config: Any = module.body.config  # type: ignore[union-attr]
    family = FAMILIES[config.model_type]
    if not family.adds_branches or not getattr(config, "do_layer_norm_before", True):
        able = " or ".join(name for name, each in FAMILIES.items() if each.adds_branches)
        problem = f"skip feedback needs branches that are added to the stream as they are, and {config.model_type} normalises them"
        raise SettingsError("task.model.name", problem, expected=able)
    blocks = module.get_submodule(f"body.{family.blocks}")
    return [part for name, part in blocks.named_modules() if re.fullmatch(rf".*\.{family.writers}", name)]


def new_feedback(half: Half, feedback: Feedback) -> SkipFeedback | CausalSkipFeedback:
    """The one for this half. Raises ``SettingsError`` if there is none."""
    return CausalSkipFeedback(half, feedback) if isinstance(half.module, ClientDecoder) else SkipFeedback(half, feedback)
