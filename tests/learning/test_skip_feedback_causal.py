"""Skip feedback of causal language models: against autograd with every branch cut off from the stream, for each family that it knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoders import CLASSES, TINY, TOKENS, VOCABULARY, batch_of

from hosfl_async.errors import SettingsError
from hosfl_async.learning.decoders import FAMILIES
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, signs
from hosfl_async.learning.sequences import PADDING, take
from hosfl_async.learning.settings import FED_BACK_CAUSAL
from hosfl_async.learning.skip_feedback_causal import causal_writers_of, new_feedback
from hosfl_async.learning.split_model import SplitModel, initial_theta_c
from hosfl_async.learning.zeroth_order import forward

KNOWN = [name for name, family in FAMILIES.items() if family.adds_branches]
BATCH = batch_of(5, 12, 1)


def built(family: str, trainable: str, **changes: Any) -> tuple[SplitModel, Vector]:
    """Away from its start, where adapters have no effect."""
    wanted: Any = replace(TINY, family=family, trainable=trainable, **changes)  # type: ignore[arg-type]
    model = build_model(wanted, (TOKENS,), CLASSES, VOCABULARY)
    theta = initial_theta_c(model, 0)
    theta += np.float32(0.1) * signs(bytes(16), theta.size)
    return model, theta


def dual_for(activations: Any) -> torch.Tensor:
    return torch.from_numpy(np.linspace(-1, 2, activations.size, dtype=np.float32).reshape(activations.shape) ** 3)


def fed_back(model: SplitModel, theta: Vector, batch: torch.Tensor, dual: torch.Tensor | None = None) -> Vector:
    feedback, views = new_feedback(model.client, "skip"), model.client.views(theta)
    activations, noted = feedback.forward(views, batch)
    assert activations.tobytes() == forward(model.client, views, batch).tobytes()
    return feedback.gradient(views, batch, dual_for(activations) if dual is None else dual, noted)


@pytest.mark.parametrize("trainable", FED_BACK_CAUSAL)
@pytest.mark.parametrize("family", KNOWN)
def test_every_writer_gets_its_own_product_with_the_dual_and_the_last_one_its_true_gradient(family: str, trainable: str) -> None:
    model, theta = built(family, trainable)
    views, given = model.client.views(theta), {}
    writers = causal_writers_of(model.client.module)
    assert len(writers) == 2 * TINY.cut_block
    hooks = [each.register_forward_pre_hook(lambda module, inputs: given.update({module: inputs[0]})) for each in writers]
    activations = forward(model.client, views, BATCH)
    for hook in hooks:
        hook.remove()
    dual, present = dual_for(activations), (BATCH != PADDING).flatten()
    true = dict(zip(map(id, model.client.parameters), model.client.views(client_gradient(model.client, views, BATCH, dual)), strict=True))
    found = dict(zip(map(id, model.client.parameters), model.client.views(fed_back(model, theta, BATCH, dual)), strict=True))
    seen = 0
    for writer in writers:
        own = [parameter for parameter in writer.parameters() if id(parameter) in found]
        for parameter in own:
            parameter.requires_grad_()
        made = writer(given[writer].clone()).flatten(0, -2)[present]
        for parameter, part in zip(own, torch.autograd.grad(made, own, dual), strict=True):
            torch.testing.assert_close(found[id(parameter)], part, rtol=1e-3, atol=1e-5)
            if writer is writers[-1]:
                torch.testing.assert_close(part, true[id(parameter)], rtol=1e-3, atol=1e-4)
            elif writer is writers[0]:
                assert not torch.allclose(part, true[id(parameter)], rtol=1e-2, atol=1e-4)
            parameter.requires_grad_(False)
            seen += 1
    assert seen == len(found)


@settings(max_examples=15)
@given(st.lists(st.integers(1, TOKENS), min_size=2, max_size=5))
def test_padding_and_company_change_nothing(lengths: list[int]) -> None:
    model, theta = built("llama", "writers")
    batch = batch_of(*lengths)
    dual = dual_for(forward(model.client, model.client.views(theta), batch))
    together = fed_back(model, theta, batch, dual)
    ends = np.cumsum(lengths)
    alone = [
        fed_back(model, theta, take(batch, [index]), dual[end - length : end]).astype(np.float64)
        for index, (end, length) in enumerate(zip(ends, lengths, strict=True))
    ]
    np.testing.assert_allclose(together, sum(alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("matrices", ["int8", "bfloat16"])
def test_frozen_matrices_in_fewer_bits_change_it_by_their_rounding_only(matrices: str) -> None:
    exact, rounded = (fed_back(*built("llama", "lora_writers", client_matrices=each), BATCH) for each in ("float32", matrices))
    assert 0.98 < float(exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)) < 1


@pytest.mark.parametrize(
    ("family", "trainable", "way", "text"),
    [
        ("gemma2", "lora_writers", "skip", "gemma2 normalises them"),
        ("gemma3_text", "lora_writers", "skip", "gemma3_text normalises them"),
        ("llama", "norms", "skip", "does not reach"),
        ("llama", "lora", "skip", "does not reach"),
        ("llama", "lora_writers", "gated", "encoders only"),
    ],
)
def test_what_it_cannot_reach_is_refused(family: str, trainable: str, way: Any, text: str) -> None:
    model, _ = built(family, trainable)
    with pytest.raises(SettingsError, match=text):
        new_feedback(model.client, way)
