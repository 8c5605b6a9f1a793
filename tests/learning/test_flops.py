"""Counted costs of a client step, against figures worked out by hand."""

from __future__ import annotations

import torch

from hosfl_async.learning.flops import step_cost
from hosfl_async.learning.settings import ModelSettings
from hosfl_async.learning.split_model import build_model


def test_dense_layers_cost_two_operations_per_weight_and_sample() -> None:
    model = build_model(ModelSettings(name="mlp", client_widths=(16, 7), server_widths=(5,), activation="relu"), (1, 8, 8), 10)
    cost = step_cost(model, torch.zeros(32, *model.input_shape), probes=3)
    assert cost.forward_flops == 2 * 32 * (64 * 16 + 16 * 7)
    parameters = 64 * 16 + 16 + 16 * 7 + 7
    largest = 32 * (64 + 16)
    assert cost.peak_bytes == 4 * (2 * parameters + 32 * 64 + largest + 4 * 32 * 7)


def test_convolutions_cost_two_operations_per_weight_and_pixel() -> None:
    model = build_model(ModelSettings(name="cnn", client_widths=(4,), server_widths=(5,), activation="relu"), (1, 8, 8), 10)
    assert step_cost(model, torch.zeros(2, *model.input_shape), probes=1).forward_flops == 2 * 2 * 4 * 9 * 64
    assert (
        step_cost(model, torch.zeros(4, *model.input_shape), probes=1).forward_flops
        == 2 * step_cost(model, torch.zeros(2, *model.input_shape), probes=1).forward_flops
    )
