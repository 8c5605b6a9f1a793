"""Probes layer by layer give the bits of a scratch vector, in the memory of one layer; modules where they cannot be had are found out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hosfl_async.learning import directions, layerwise_prober
from hosfl_async.learning.directions import new_prober, perturbed_floats
from hosfl_async.learning.layerwise_prober import LayerwiseProber, largest_layer
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.models import build_model
from hosfl_async.learning.sequences import as_samples
from hosfl_async.learning.settings import ModelSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import Half
from hosfl_async.learning.zeroth_order import Prober, forward
from hosfl_async.messages import StepId

RUN_KEY, MU, STEP = b"k" * 16, 1e-3, StepId("client-0", 1, 1)
TOKENS = torch.from_numpy(as_samples([[3, 4, 5], [1, 2, 3, 4, 5, 6, 7]]))
TEXT = ModelSettings(name="decoder", blocks=3, hidden=16, heads=2, cut_block=2, lora_rank=2)
CASES = {
    "llama, all": (replace(TEXT, trainable="all"), TOKENS),
    "gpt2, lora": (replace(TEXT, family="gpt2", trainable="lora"), TOKENS),
    "encoder, norms": (replace(TEXT, name="encoder", trainable="norms"), TOKENS),
    "encoder, all": (replace(TEXT, name="encoder", trainable="all"), TOKENS),
    "efficientnet, all": (ModelSettings(name="efficientnet", cut_block=2, image_side=32, trainable="all"), torch.rand(2, 1, 28, 28)),
}


def half_of(case: str) -> tuple[Half, torch.Tensor]:
    settings, batch = CASES[case]
    model = build_model(settings, (12,), 3, 32) if batch.ndim == 2 else build_model(settings, batch.shape[1:], 3)
    return model.client, batch


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_a_scratch_vector(case: str) -> None:
    half, batch = half_of(case)
    theta = half.initial(RUN_KEY)
    before, views = theta.copy(), half.views(theta)
    anchor = forward(half, views, batch)
    ours = LayerwiseProber(half, RUN_KEY, MU, LowRankPerturber(half.shapes, 4))
    found = ours.differences(theta, views, batch, anchor, STEP, 3)
    expected = Prober(half, RUN_KEY, MU, LowRankPerturber(half.shapes, 4)).differences(theta, views, batch, anchor, STEP, 3)
    assert all(np.abs(probe).max() > 0 for probe in expected) and (expected[0] != expected[1]).any()
    assert found.tobytes() == expected.tobytes()
    ours.differences(theta, views, batch, anchor, STEP, 1)
    assert all(parameter.data_ptr() == view.data_ptr() for parameter, view in zip(half.parameters, views, strict=True))
    assert theta.tobytes() == before.tobytes() and forward(half, views, batch).tobytes() == anchor.tobytes()


def test_where_it_saves_enough_a_device_holds_the_largest_layer_beside_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    half, _ = half_of("llama, all")
    settings = ZerothOrderSettings()
    assert isinstance(new_prober(half, RUN_KEY, settings), Prober) and perturbed_floats(half, settings) == half.size
    monkeypatch.setattr(directions, "SAVED_FLOATS_MIN", half.size - 16 * 64)
    assert isinstance(new_prober(half, RUN_KEY, settings), LayerwiseProber)
    assert largest_layer(half) == 16 * 64 == perturbed_floats(half, settings)
    assert perturbed_floats(half, ZerothOrderSettings(signs="independent")) == half.size


class ReachesIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.outer(values @ self.inner.weight.T + self.inner.bias)


def test_a_module_that_reaches_into_its_children_takes_a_scratch_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    half, batch = Half(ReachesIn()), torch.rand(5, 4)
    theta = half.initial(RUN_KEY)
    views, perturber = half.views(theta), LowRankPerturber(half.shapes, 4)
    anchor = forward(half, views, batch)
    expected = Prober(half, RUN_KEY, MU, perturber).differences(theta, views, batch, anchor, STEP, 3)
    ours = LayerwiseProber(half, RUN_KEY, MU, perturber)
    for _ in range(2):
        assert ours.differences(theta, views, batch, anchor, STEP, 3).tobytes() == expected.tobytes()
    monkeypatch.setattr(layerwise_prober.LayerwiseProber, "_perturbing", None)
    assert ours.differences(theta, views, batch, anchor, STEP, 3).tobytes() == expected.tobytes(), "it is not tried again"


def test_shared_parameters_take_a_scratch_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "SAVED_FLOATS_MIN", 0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    half = Half(nn.Sequential(first, nn.Softmax(dim=1), second))
    assert isinstance(new_prober(half, RUN_KEY, ZerothOrderSettings()), Prober) and largest_layer(half) == half.size
