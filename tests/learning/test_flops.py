"""Counted costs of a client step, against figures worked out by hand."""

from __future__ import annotations

import torch

from hosfl_async.learning.directions import perturbed_floats
from hosfl_async.learning.flops import step_cost
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import ModelSettings, ZerothOrderSettings


def test_dense_layers_cost_two_operations_per_weight_and_sample() -> None:
    model = build_model(ModelSettings(name="mlp", client_widths=(16, 7), server_widths=(5,), activation="relu"), (1, 8, 8), 10)
    cost = step_cost(model, torch.zeros(32, *model.input_shape), probes=3, floats_beside=1000)
    assert cost.forward_flops == 2 * 32 * (64 * 16 + 16 * 7)
    parameters = 64 * 16 + 16 + 16 * 7 + 7
    largest = 32 * (64 + 16)
    assert cost.peak_bytes == 4 * (parameters + 1000 + 32 * 64 + largest + 4 * 32 * 7)


def test_convolutions_cost_two_operations_per_weight_and_pixel() -> None:
    model = build_model(ModelSettings(name="cnn", client_widths=(4,), server_widths=(5,), activation="relu"), (1, 8, 8), 10)
    assert step_cost(model, torch.zeros(2, *model.input_shape), probes=1, floats_beside=0).forward_flops == 2 * 2 * 4 * 9 * 64
    assert (
        step_cost(model, torch.zeros(4, *model.input_shape), probes=1, floats_beside=0).forward_flops
        == 2 * step_cost(model, torch.zeros(2, *model.input_shape), probes=1, floats_beside=0).forward_flops
    )


def test_only_what_must_be_written_out_is_held_beside_the_parameters() -> None:
    dense = build_model(ModelSettings(name="mlp", client_widths=(16, 7)), (1, 8, 8), 10).client
    convolutions = build_model(ModelSettings(name="cnn", client_widths=(4, 3)), (1, 8, 8), 10).client
    low_rank, independent = ZerothOrderSettings(), ZerothOrderSettings(signs="independent")
    assert perturbed_floats(dense, low_rank) == 0
    assert perturbed_floats(convolutions, low_rank) == max(4 * 9 + 4, 3 * 4 * 9 + 3)
    assert perturbed_floats(dense, independent) == dense.size
