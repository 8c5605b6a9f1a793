"""EfficientNet-Lite0 cut between its blocks: the place of the cut changes nothing, and batch normalisation keeps its statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from hosfl_async import jobs
from hosfl_async.assets import CATALOGUE, cached
from hosfl_async.errors import SettingsError
from hosfl_async.learning import efficientnet
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s
from hosfl_async.messages import StepId

SETTINGS = ModelSettings(name="efficientnet", cut_block=3, image_side=32, trainable="norms", server_trainable="norms")
SHAPE, CLASSES = (1, 28, 28), 4


def bound(settings: ModelSettings = SETTINGS, shape: tuple[int, ...] = SHAPE) -> SplitModel:
    model = build_model(settings, shape, CLASSES)
    model.client.bind(model.client.views(initial_theta_c(model, 0)))
    model.server.bind(model.server.views(initial_theta_s(model, 0)))
    return model


def logits(model: SplitModel, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.server.module(model.client.module(images))


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cut", [1, 8, 15])
def test_the_place_of_the_cut_changes_nothing(cut: int) -> None:
    model = bound(replace(SETTINGS, cut_block=cut))
    made = logits(model, images())
    head = model.server.module[-1]
    whole = [*model.client.module, *model.server.module]
    with torch.inference_mode():
        values = images()
        for part in whole:
            values = part(values)
        assert torch.equal(made, values)
        other = bound(replace(SETTINGS, cut_block=5))
        features = other.server.module[:-1](other.client.module(images()))
        torch.testing.assert_close(made, head(features))
    assert model.cut_shape == tuple(model.client.module(images(1)).shape[1:])
    assert len(whole) == 2 + efficientnet.BLOCKS + 3


def test_a_sample_does_not_depend_on_who_shares_its_batch() -> None:
    model = bound()
    together = logits(model, images())
    assert together.std() > 1e-4
    torch.testing.assert_close(together[[1]], logits(model, images()[[1]]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("side", "stride", "before", "after"), [(8, 2, 0, 1), (7, 2, 1, 1), (8, 1, 1, 1)])
def test_odd_padding_goes_to_the_end(side: int, stride: int, before: int, after: int) -> None:
    """As TensorFlow's SAME does, in whose network the ImageNet values were learnt."""
    layer = efficientnet._Same(1, 1, 3, stride, bias=False)
    values = torch.rand(1, 1, side, side)
    around = torch.zeros(1, 1, before + side + after, before + side + after)
    around[:, :, before : before + side, before : before + side] = values
    with torch.inference_mode():
        torch.testing.assert_close(layer(values), conv2d(around, layer.weight, stride=stride))


def test_exactly_what_is_named_is_learnt() -> None:
    stem = 32 * 3 * 9 + 2 * 32
    first = (32 * 9 + 2 * 32) + (32 * 16 + 2 * 16)
    sizes = {"all": stem + first, "blocks": first, "last_block": first, "writers": 32 * 16, "norms": 4 * 32 + 2 * 16}
    for learnt, size in sizes.items():
        assert bound(replace(SETTINGS, cut_block=1, trainable=learnt)).client.size == size  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"convolutional network has no such adapters.*norms"):
        bound(replace(SETTINGS, trainable="lora"))
    with pytest.raises(SettingsError, match="at most 15"):
        bound(replace(SETTINGS, cut_block=16))
    with pytest.raises(SettingsError, match="reads images"):
        bound(SETTINGS, (6, 1, 100))


def test_training_moves_no_statistic_and_learns() -> None:
    task = TaskSettings(data="toy", toy_samples=60, batch_size=8, model=SETTINGS)
    made = LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(learning_rate=1e-2), seed=0, clients=["a"], shared=True)
    server, client = made.server(), made.client("a")
    before = server.run(jobs.Evaluate())
    buffers = {name: each.clone() for name, each in server._model.server.module.named_buffers()}
    for number in range(1, 11):
        step = StepId("a", 1, number)
        sent = client.run(jobs.Forward(step, 0))
        client.run(jobs.Probe(step, 1))
        dual = server.run(jobs.Backward(step, sent.activations, sent.labels)).dual
        assert np.isfinite(client.run(jobs.Project(step, dual)).projected_gradients).all()
    assert server.run(jobs.Evaluate()).loss < 0.9 * before.loss
    assert buffers and all(torch.equal(each, buffers[name]) for name, each in server._model.server.module.named_buffers())


@pytest.mark.skipif(cached(CATALOGUE["efficientnet_lite0"]) is None, reason="not fetched: hosfl data fetch efficientnet_lite0")
def test_every_value_of_the_file_but_its_classifier_is_used() -> None:
    folder = cached(CATALOGUE["efficientnet_lite0"])
    assert folder is not None
    theirs = torch.load(folder / "efficientnet-lite0.pth", weights_only=True)
    assert set(theirs) - set(efficientnet.names_in_file().values()) == {"_fc.weight", "_fc.bias"}
    made = logits(bound(replace(SETTINGS, name="efficientnet_lite0")), images())
    assert made.std() > 1e-3 and torch.isfinite(made).all()
