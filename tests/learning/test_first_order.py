"""The server's step against torch's own optimisers and autograd; the models' vectors against their modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from hosfl_async.errors import LearnerError, SettingsError
from hosfl_async.learning.first_order import ServerTrainer
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s

MODEL = ModelSettings(client_widths=(6, 3), server_widths=(5,))
BATCH = torch.rand(12, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 4


def trainer(**settings: object) -> tuple[ServerTrainer, SplitModel]:
    model = build_model(MODEL, (1, 4, 4), 4)
    return ServerTrainer(model.server, initial_theta_s(model, 0), FirstOrderSettings(**settings)), model


def torch_optimizer(name: str, parameters: list, decay: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.8 if name == "momentum" else 0)


@pytest.mark.parametrize(("name", "decay"), [("sgd", 0.0), ("momentum", 0.0), ("adamw", 0.0), ("adamw", 0.1)])
def test_steps_are_those_of_torch(name: str, decay: float) -> None:
    ours, _ = trainer(optimizer=name, learning_rate=0.01, momentum=0.8, beta2=0.99, weight_decay=decay)
    theirs = build_model(MODEL, (1, 4, 4), 4).server
    vector = ours.theta.copy()
    theirs.bind(theirs.views(vector))
    optimizer = torch_optimizer(name, list(theirs.module.parameters()), decay)
    for _ in range(20):
        cut = BATCH.clone().requires_grad_()
        optimizer.zero_grad()
        loss = cross_entropy(theirs.module(cut), LABELS)
        loss.backward()
        answer = ours.backward(BATCH, LABELS)
        assert answer.loss == pytest.approx(float(loss.detach()), rel=1e-4)
        np.testing.assert_allclose(answer.dual.numpy(), cut.grad.numpy(), rtol=1e-3, atol=1e-7)
        optimizer.step()
    np.testing.assert_allclose(ours.theta, vector, rtol=1e-3, atol=2e-6)


def test_the_weight_scales_the_sgd_step_and_not_the_dual() -> None:
    full, _ = trainer(optimizer="sgd", learning_rate=0.5)
    half, _ = trainer(optimizer="sgd", learning_rate=0.5)
    start = full.theta.copy()
    one, two = full.backward(BATCH, LABELS), half.backward(BATCH, LABELS, weight=0.5)
    np.testing.assert_allclose(half.theta - start, (full.theta - start) / 2, rtol=1e-3, atol=1e-7)
    assert (one.dual == two.dual).all() and one.loss == two.loss


def test_decoupled_decay_shrinks_under_every_optimizer() -> None:
    for name in ("sgd", "momentum", "adamw"):
        plain, _ = trainer(optimizer=name, learning_rate=0.01)
        decayed, _ = trainer(optimizer=name, learning_rate=0.01, weight_decay=0.5)
        start = plain.theta.copy()
        plain.backward(BATCH, LABELS)
        decayed.backward(BATCH, LABELS)
        np.testing.assert_allclose(plain.theta - decayed.theta, 0.005 * start, atol=1e-7)


def test_evaluating_a_dual_changes_nothing() -> None:
    ours, _ = trainer(optimizer="adamw")
    before = ours.theta.tobytes()
    first = ours.evaluate_dual(BATCH, LABELS)
    assert ours.theta.tobytes() == before
    second = ours.backward(BATCH, LABELS)
    assert (first.dual == second.dual).all() and first.loss == second.loss
    assert ours.theta.tobytes() != before


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    ours, _ = trainer(optimizer="adamw")
    before = ours.theta.tobytes()
    with pytest.raises(LearnerError, match="nothing was changed"):
        ours.backward(BATCH * torch.nan, LABELS)
    assert ours.theta.tobytes() == before
    ours.backward(BATCH, LABELS)
    assert np.isfinite(ours.theta).all()


@given(row=st.integers(0, 11), size=st.floats(2.001, 1e15), together=st.booleans())
def test_one_sample_that_is_too_large_is_refused_and_changes_nothing(row: int, size: float, together: bool) -> None:
    ours, _ = trainer(optimizer="adamw", activation_rms_max=2.0)
    before = ours.theta.tobytes()
    wild = BATCH.clone()
    wild[row] *= size / wild[row].square().mean().sqrt()
    for poisoned in (lambda: ours.backward(wild, LABELS), lambda: ours.evaluate_dual(wild, LABELS),
                     lambda: ours.backward_together([(BATCH, LABELS, 1.0), (wild, LABELS, 1.0)]))[together * 2 :]:  # fmt: skip
        with pytest.raises(LearnerError, match=r"root mean square of .*, at most 2 are allowed: nothing was changed"):
            poisoned()
    assert ours.theta.tobytes() == before
    ours.backward(BATCH, LABELS)
    free, _ = trainer(optimizer="adamw")
    free.backward(BATCH, LABELS)
    assert ours.theta.tobytes() == free.theta.tobytes(), "what is within the bound is trained on as without it"


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_parameters_are_views_of_one_vector(name: str) -> None:
    settings = ModelSettings(name=name, client_widths=(3, 4), server_widths=(7,))
    model = build_model(settings, (1, 8, 8), 10)
    for half, theta in ((model.client, initial_theta_c(model, 5)), (model.server, initial_theta_s(model, 5))):
        half.bind(half.views(theta))
        parameters = list(half.module.parameters())
        assert sum(parameter.numel() for parameter in parameters) == half.size == theta.size
        assert theta.ctypes.data % 64 == 0 and theta.dtype == np.float32 and theta.flags.c_contiguous
        theta[:] = np.arange(theta.size)
        flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        assert (flat.numpy() == theta).all()
    batch = torch.zeros(2, *model.input_shape)
    assert model.client.module(batch).shape == (2, *model.cut_shape)
    assert model.server.module(torch.zeros(2, *model.cut_shape)).shape == (2, 10)
    assert not model.client.module.training and not any(p.requires_grad for p in model.client.module.parameters())


def test_initial_parameters_follow_the_seed_and_the_fan_in() -> None:
    model = build_model(ModelSettings(client_widths=(50,)), (1, 8, 8), 10)
    theta = initial_theta_c(model, 1)
    assert theta.tobytes() == initial_theta_c(model, 1).tobytes() != initial_theta_c(model, 2).tobytes()
    assert 0.12 < np.abs(theta).max() <= 0.125  # 1 / sqrt(64)
    assert abs(theta.std() - 0.125 / np.sqrt(3)) < 0.003


def test_too_many_poolings_are_refused() -> None:
    with pytest.raises(SettingsError, match="client_widths"):
        build_model(ModelSettings(name="cnn", client_widths=(2, 2, 2, 2)), (1, 8, 8), 10)


def test_several_steps_on_a_batch_are_single_steps_one_after_the_other() -> None:
    at_once, _ = trainer(optimizer="momentum")
    singly, _ = trainer(optimizer="momentum")
    duals = [singly.backward(BATCH, LABELS, 0.5).dual for _ in range(3)]
    dual = at_once.backward(BATCH, LABELS, 0.5, 3).dual
    assert at_once.theta.tobytes() == singly.theta.tobytes()
    assert dual.numpy().tobytes() == duals[0].numpy().tobytes(), "the dual is that before the first step"


def parts(weights: list[float]) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """The batch dealt to three clients, who have three, four and five rows."""
    batches = zip(BATCH.split([3, 4, 5]), LABELS.split([3, 4, 5]), weights, strict=True)
    return [(activations, labels, weight) for activations, labels, weight in batches]


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize(("weight", "steps"), [(1.0, 1), (0.25, 3)])
def test_a_micro_batch_is_one_step_on_the_concatenated_batch(name: str, weight: float, steps: int) -> None:
    together, _ = trainer(optimizer=name)
    concatenated, _ = trainer(optimizer=name)
    for _ in range(3):
        together.backward_together(parts([weight] * 3), steps)
        concatenated.backward(BATCH, LABELS, weight, steps)
    assert together.theta.tobytes() == concatenated.theta.tobytes()


def test_a_micro_batch_of_one_is_a_step_alone_bit_for_bit() -> None:
    together, _ = trainer()
    alone, _ = trainer()
    [one] = together.backward_together([(BATCH, LABELS, 0.5)])
    other = alone.backward(BATCH, LABELS, 0.5)
    assert together.theta.tobytes() == alone.theta.tobytes() and one.loss == other.loss
    assert one.dual.numpy().tobytes() == other.dual.numpy().tobytes()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, 0.25, 0.6]])
def test_each_client_of_a_micro_batch_gets_its_own_dual_and_loss_as_if_it_had_come_alone(weights: list[float]) -> None:
    together, _ = trainer()
    alone, _ = trainer()
    answers = together.backward_together(parts(weights))
    for answer, (activations, labels, _) in zip(answers, parts(weights), strict=True):
        expected = alone.evaluate_dual(activations, labels)
        np.testing.assert_allclose(answer.dual.numpy(), expected.dual.numpy(), rtol=1e-4, atol=1e-8)
        assert answer.loss == pytest.approx(expected.loss, rel=1e-5)


def test_rows_of_a_micro_batch_count_by_their_clients_weight() -> None:
    weights = [1.0, 0.25, 0.6]
    together, _ = trainer(optimizer="sgd", learning_rate=1.0)
    start = together.theta.copy()
    together.backward_together(parts(weights))
    expected = np.zeros_like(start)
    for activations, labels, weight in parts(weights):
        alone, _ = trainer(optimizer="sgd", learning_rate=1.0)
        alone.backward(activations, labels)
        expected += (alone.theta - start) * np.float32(weight * len(labels) / len(LABELS))
    np.testing.assert_allclose(together.theta - start, expected, rtol=1e-3, atol=1e-6)
