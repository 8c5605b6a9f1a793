"""Activity perturbation: against back-propagation where it is exact, against its theory where it is not, and through the learners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import jobs
from hosfl_async.errors import LearnerError, SettingsError
from hosfl_async.learning.activity_prober import ActivityProber
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, direction_key, signs
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c
from hosfl_async.learning.tensors import to_array, to_data
from hosfl_async.learning.zeroth_order import Activations, forward
from hosfl_async.messages import StepId

RUN = b"0123456789abcdef"
BATCH = torch.rand(6, 20, generator=torch.Generator().manual_seed(3))


def step(number: int = 1) -> StepId:
    return StepId("client-0", 1, number)


def built(*widths: int) -> tuple[SplitModel, Vector]:
    model = build_model(ModelSettings(client_widths=widths, activation="tanh"), (1, 4, 5), 3)
    return model, initial_theta_c(model, 0)


def dual_for(activations: Activations) -> Activations:
    return np.linspace(-1, 2, activations.size, dtype=np.float32).reshape(activations.shape) ** 3


def estimated(model: SplitModel, theta: Vector, probes: int, number: int = 1) -> Vector:
    prober, views = ActivityProber(model.client, RUN, 1e-3), model.client.views(theta)
    anchor = forward(model.client, views, BATCH)
    moved = prober.differences(views, BATCH, anchor, step(number), probes)
    gradient = prober.gradient(views, BATCH, dual_for(anchor), moved, step(number))
    assert forward(model.client, views, BATCH).tobytes() == anchor.tobytes(), "no hook stays behind"
    return gradient


def true(model: SplitModel, theta: Vector) -> Vector:
    views = model.client.views(theta)
    return client_gradient(model.client, views, BATCH, torch.from_numpy(dual_for(forward(model.client, views, BATCH))))


def test_with_one_unit_it_is_the_gradient() -> None:
    model, theta = built(1)
    np.testing.assert_allclose(estimated(model, theta, 1), true(model, theta), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("probes", [1, 4])
def test_it_is_unbiased_and_its_error_is_that_of_theory(probes: int) -> None:
    model, theta = built(7, 5)
    exact = true(model, theta).astype(np.float64)
    estimates = np.array([estimated(model, theta, probes, number) for number in range(1, 301)])
    # The slopes at what each layer gives out, by back-propagation, and what goes into each layer.
    views = [view.clone().requires_grad_() for view in model.client.views(theta)]
    first = BATCH @ views[0].T + views[1]
    second = torch.tanh(first) @ views[2].T + views[3]
    surrogate = (torch.tanh(second) * torch.from_numpy(dual_for(torch.tanh(second).detach().numpy()))).sum()
    slopes = [each.numpy() for each in torch.autograd.grad(surrogate, [first, second])]
    inputs = [BATCH.numpy(), torch.tanh(first).detach().numpy()]
    of_sample = sum((each**2).sum(1) for each in slopes)
    expected = sum(
        ((given**2).sum(1) + 1) @ (own.shape[1] * of_sample - (own**2).sum(1)) for given, own in zip(inputs, slopes, strict=True)
    ) / probes  # fmt: skip
    error = np.mean(np.sum((estimates - exact) ** 2, axis=1))
    assert error == pytest.approx(expected, rel=0.1)
    assert np.sum((estimates.mean(0) - exact) ** 2) < 3 * expected / 300, "the mean of many is the gradient"
    assert expected < np.sum(exact**2) * (theta.size - 1) / probes / 3, "probing weights is worse by far"


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 2**40))
def test_signs_are_the_bits_of_the_probes_stream(samples: int, probes: int, number: int) -> None:
    model, _ = built(3, 2)
    found = ActivityProber(model.client, RUN, 1e-3).signs(step(number), probes, samples)
    assert found.shape == (probes, samples, 5)
    for probe, one in enumerate(found):
        assert (one.reshape(-1) == signs(direction_key(RUN, step(number), probe), samples * 5)).all()


def test_other_layers_are_refused_with_a_line_that_says_so() -> None:
    model = build_model(ModelSettings(name="cnn", client_widths=(2,)), (1, 4, 4), 3)
    with pytest.raises(SettingsError, match="fully connected"):
        ActivityProber(model.client, RUN, 1e-3)


def test_a_learner_probes_and_then_answers_the_dual_with_a_dense_vector() -> None:
    task = TaskSettings(data="toy", toy_samples=60, batch_size=4, model=ModelSettings(client_widths=(8,)))
    factory = LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), seed=0, clients=("client-0",))
    learner = factory.client("client-0")
    sent = learner.run(jobs.Forward(step(), 0)).activations
    dual = to_data(np.ones(sent.shape, np.float32))
    with pytest.raises(LearnerError, match="noted nothing"):
        learner.run(jobs.FeedBack(step(), dual))
    learner.run(jobs.Probe(step(), 2, activities=True))
    with pytest.raises(LearnerError, match="before the probes"):
        learner.run(jobs.Project(step(), dual))
    done = learner.run(jobs.FeedBack(step(), dual))
    gradient = to_array(done.gradient, "float32", (factory.model.client.size,), "gradient")
    assert np.isfinite(gradient).all() and gradient.any()
    with pytest.raises(LearnerError, match="not anchored"):
        learner.run(jobs.FeedBack(step(), dual))
