"""Methods without a dual: slopes of a loss, a server that only runs forward passes, local training of a whole model. Measured by torch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hosfl_async.errors import LearnerError
from hosfl_async.learning.first_order import ServerTrainer, client_gradient
from hosfl_async.learning.losses import mean_loss, slopes
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import direction_key, signs
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings
from hosfl_async.learning.split_model import initial_theta_c, initial_theta_s
from hosfl_async.learning.whole_model import local_delta
from hosfl_async.learning.zeroth_order import forward
from hosfl_async.learning.zeroth_order_server import ZerothOrderTrainer
from hosfl_async.messages import StepId

RUN = b"0123456789abcdef"
SPLIT = ModelSettings(client_widths=(6, 3), server_widths=(5,), activation="tanh")
WHOLE = ModelSettings(client_widths=(6, 3), server_widths=(5,), activation="tanh", cut="end")
IMAGES = torch.rand(12, 16, generator=torch.Generator().manual_seed(1))
CUT = torch.rand(12, 3, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(12) % 4
STEP = StepId("client-1", 1, 7)


def test_mean_loss_is_torchs_cross_entropy_and_survives_large_logits() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    assert mean_loss(logits.numpy(), LABELS.numpy()) == pytest.approx(float(cross_entropy(logits.double(), LABELS)), rel=1e-12)
    assert mean_loss(1e4 * logits.numpy(), LABELS.numpy()) == pytest.approx(float(cross_entropy(1e4 * logits.double(), LABELS)), rel=1e-6)


def test_slopes_are_directional_derivatives() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    [gradient] = torch.autograd.grad(cross_entropy(logits, LABELS), logits)
    directions = [torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (4, 5)]
    anchor = logits.detach().numpy()
    found = slopes(anchor, [anchor + 1e-6 * each.numpy() for each in directions], LABELS.numpy(), 1e-6)
    assert found == pytest.approx([float((gradient * each).sum()) for each in directions], rel=1e-4)


# -- the whole model on the client --------------------------------------------------------------------


def test_the_whole_model_is_the_two_halves_with_the_very_same_initial_values() -> None:
    split, whole = build_model(SPLIT, (1, 4, 4), 4), build_model(WHOLE, (1, 4, 4), 4)
    theta_c, theta_s, theta = initial_theta_c(split, 5), initial_theta_s(split, 5), initial_theta_c(whole, 5)
    assert theta.tobytes() == theta_c.tobytes() + theta_s.tobytes()
    assert whole.server.size == 0 and initial_theta_s(whole, 5).size == 0 and whole.cut_shape == (4,)
    activations = forward(split.client, split.client.views(theta_c), IMAGES)
    split.server.bind(split.server.views(theta_s))
    with torch.no_grad():
        expected = split.server.module(torch.from_numpy(activations)).numpy()
    np.testing.assert_allclose(forward(whole.client, whole.client.views(theta), IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_a_server_without_parameters_evaluates_the_whole_model() -> None:
    whole = build_model(WHOLE, (1, 4, 4), 4)
    trainer = ServerTrainer(whole.server, initial_theta_s(whole, 0), FirstOrderSettings())
    logits = torch.eye(4)[LABELS]
    correct, loss = trainer.evaluate(logits, LABELS)
    assert correct == 12 and loss == pytest.approx(float(cross_entropy(logits, LABELS, reduction="sum")))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(IMAGES[begin:end], LABELS[begin:end]) for begin, end in pairwise(range(0, 13, 12 // count))]


@pytest.mark.parametrize("count", [1, 3])
def test_local_training_is_torchs_sgd_and_reads_theta_only(count: int) -> None:
    whole = build_model(WHOLE, (1, 4, 4), 4)
    theta = initial_theta_c(whole, 0)
    before = theta.copy()
    delta = local_delta(whole.client, theta, batches(count), 0.5)
    assert theta.tobytes() == before.tobytes()
    theirs = torch.nn.Sequential(
        torch.nn.Linear(16, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3), torch.nn.Tanh(),
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4),
    )  # fmt: skip
    torch.nn.utils.vector_to_parameters(torch.tensor(theta), theirs.parameters())
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    for batch, labels in batches(count):
        optimizer.zero_grad()
        cross_entropy(theirs(batch), labels).backward()
        optimizer.step()
    moved = torch.nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy()
    np.testing.assert_allclose(theta - delta, moved, rtol=1e-4, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in whole.client.parameters), "no graph is recorded elsewhere"


def test_one_local_step_is_a_step_of_first_order_split_learning() -> None:
    split, whole = build_model(SPLIT, (1, 4, 4), 4), build_model(WHOLE, (1, 4, 4), 4)
    theta_c = initial_theta_c(split, 0)
    views = split.client.views(theta_c)
    server = ServerTrainer(split.server, initial_theta_s(split, 0), FirstOrderSettings())
    dual = server.evaluate_dual(torch.from_numpy(forward(split.client, views, IMAGES)), LABELS).dual
    gradient = client_gradient(split.client, views, IMAGES, dual)
    delta = local_delta(whole.client, initial_theta_c(whole, 0), [(IMAGES, LABELS)], 0.25)
    np.testing.assert_allclose(delta[: gradient.size], 0.25 * gradient, rtol=1e-3, atol=1e-6)


def test_local_training_that_diverges_is_refused() -> None:
    whole = build_model(WHOLE, (1, 4, 4), 4)
    theta = initial_theta_c(whole, 0)
    theta[0] = np.nan
    with pytest.raises(LearnerError, match="diverged"):
        local_delta(whole.client, theta, batches(1), 0.5)


# -- a server that only runs forward passes -----------------------------------------------------------


def server(mu: float = 1e-3, **settings: object) -> tuple[ServerTrainer, ZerothOrderTrainer]:
    model = build_model(SPLIT, (1, 4, 4), 4)
    trainer = ServerTrainer(model.server, initial_theta_s(model, 0), FirstOrderSettings(optimizer="sgd", learning_rate=0.1, **settings))
    return trainer, ZerothOrderTrainer(trainer, RUN, mu)


DIRECTIONS = [torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
SENT = torch.cat([CUT, *(CUT + 1e-3 * direction for direction in DIRECTIONS)])


def test_the_answer_is_the_slope_of_the_loss_along_each_probe_before_the_server_moves() -> None:
    trainer, forward_only = server()
    expected = trainer.evaluate_dual(CUT, LABELS)
    found, loss = forward_only.estimate(SENT, LABELS, STEP)
    assert loss == pytest.approx(expected.loss, rel=1e-6)
    assert found == pytest.approx([float((expected.dual * each).sum()) for each in DIRECTIONS], rel=2e-2, abs=1e-4)


def test_the_server_moves_by_the_mean_of_slope_times_direction_and_by_nothing_without_steps() -> None:
    trainer, forward_only = server()
    start = trainer.theta.copy()
    answered = forward_only.estimate(SENT, LABELS, STEP, steps=0)
    assert trainer.theta.tobytes() == start.tobytes()
    assert forward_only.estimate(SENT, LABELS, STEP, weight=0.5)[0] == answered[0]
    moved = (trainer.theta - start) / -0.05
    other, _ = server()
    other.backward(CUT, LABELS)
    gradient = (other.theta - start) / -0.1
    along = _own_directions(forward_only, len(DIRECTIONS), start.size)
    expected = sum(float(gradient @ each) * each for each in along) / len(along)
    np.testing.assert_allclose(moved, expected, rtol=5e-2, atol=2e-3)


def _own_directions(forward_only: ZerothOrderTrainer, count: int, size: int) -> list[np.ndarray]:
    return [signs(direction_key(forward_only._key, STEP, probe), size) for probe in range(count)]


def test_the_servers_directions_are_not_the_clients() -> None:
    _, forward_only = server()
    assert forward_only._key != RUN


def test_it_trains_by_forward_passes_alone() -> None:
    trainer, forward_only = server()
    before = trainer.evaluate_dual(CUT, LABELS).loss
    for number in range(200):
        forward_only.estimate(SENT, LABELS, StepId("client-1", 1, number), steps=2)
    after = trainer.evaluate_dual(CUT, LABELS).loss
    assert after < before - 0.05


def test_slopes_that_are_not_finite_change_nothing() -> None:
    trainer, forward_only = server()
    start = trainer.theta.copy()
    broken = SENT.clone()
    broken[14] = torch.nan
    with pytest.raises(LearnerError, match="not finite"):
        forward_only.estimate(broken, LABELS, STEP)
    assert trainer.theta.tobytes() == start.tobytes()
