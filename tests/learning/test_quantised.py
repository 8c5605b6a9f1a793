"""A client half with frozen matrices in int8 or bfloat16: what it computes, what it costs, and what can be differentiated through it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_encoders import CLASSES, TINY, TOKENS, VOCABULARY, batch_of

from hosfl_async.errors import SettingsError
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.flops import step_cost
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import ModelSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c
from hosfl_async.learning.zeroth_order import forward

DECODER = ModelSettings(name="decoder", blocks=3, hidden=16, heads=2, cut_block=2, lora_rank=2)
BOTH = pytest.mark.parametrize("settings", [TINY, DECODER], ids=["encoder", "decoder"])


FEWER_BITS = pytest.mark.parametrize("matrices", ["int8", "bfloat16"])


def built(settings: ModelSettings, **changes: Any) -> SplitModel:
    return build_model(replace(settings, **changes), (TOKENS,), CLASSES, VOCABULARY)


def away_from_zero(model: SplitModel) -> Any:
    """Adapters that do something: at their start the product of each is zero."""
    theta = initial_theta_c(model, 0)
    theta += np.random.default_rng(0).normal(0, 0.1, theta.size).astype(np.float32)
    return theta


@BOTH
@FEWER_BITS
def test_the_same_adapters_give_nearly_the_same_activations(settings: ModelSettings, matrices: str) -> None:
    exact, rounded = built(settings), built(settings, client_matrices=matrices)
    assert exact.client.names == rounded.client.names
    theta, batch = away_from_zero(exact), batch_of(12, 7, 3, 9)
    expected, found = (forward(model.client, model.client.views(theta), batch) for model in (exact, rounded))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0 < error < 0.05


@pytest.mark.filterwarnings("ignore:quantized..linear_dynamic")
@BOTH
def test_nothing_can_be_differentiated_through_it(settings: ModelSettings) -> None:
    model = built(settings, client_matrices="int8")
    model.client.bind(model.client.views(away_from_zero(model)))
    model.client.record_graph(True)
    try:
        model.client.module(batch_of(12, 7)).sum().backward()
    except RuntimeError as problem:
        assert "does not require grad" in str(problem)
    gradients = [parameter.grad for parameter in model.client.parameters]
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) < len(gradients) / 2


@BOTH
def test_through_bfloat16_every_adapter_gets_nearly_the_gradient(settings: ModelSettings) -> None:
    exact, rounded = built(settings), built(settings, client_matrices="bfloat16")
    theta, batch = away_from_zero(exact), batch_of(12, 7)
    dual = torch.from_numpy(np.random.default_rng(1).normal(size=(19, 16)).astype(np.float32))
    expected, found = (client_gradient(model.client, model.client.views(theta), batch, dual) for model in (exact, rounded))
    assert 0 < np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


@BOTH
@FEWER_BITS
def test_it_costs_the_same_operations_and_less_memory(settings: ModelSettings, matrices: str) -> None:
    costs = [step_cost(built(settings, client_matrices=each), batch_of(12, 7), 5, 0) for each in ("float32", matrices)]
    assert costs[0].forward_flops == costs[1].forward_flops > 0
    assert costs[1].peak_bytes < costs[0].peak_bytes


def test_a_half_that_learns_all_its_matrices_is_refused() -> None:
    with pytest.raises(SettingsError, match="trainable all has no frozen matrix") as caught:
        built(TINY, trainable="all", client_matrices="int8")
    assert "lora" in str(caught.value)


@FEWER_BITS
def test_frozen_values_that_others_share_are_left_alone(matrices: str) -> None:
    before = [parameter.clone() for parameter in built(TINY).client.module.parameters() if parameter.numel()]
    built(TINY, client_matrices=matrices)
    after = [parameter for parameter in built(TINY).client.module.parameters() if parameter.numel()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
