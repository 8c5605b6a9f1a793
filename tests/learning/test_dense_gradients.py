"""The first-order client against back-propagation through the whole model, and dense terms against plain subtraction."""

from __future__ import annotations

from struct import pack

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from hosfl_async import jobs
from hosfl_async.errors import LearnerError
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Perturber
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.learning.version_store import VersionStore
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import EMPTY_CHAIN, LogEntry, StepId, Term, chain_hash

RUN = b"0123456789abcdef"
MLP = ModelSettings(client_widths=(4,), server_widths=(6,))
CNN = ModelSettings(name="cnn", client_widths=(3,), server_widths=(6,))
STEP = StepId("a", 1, 1)


def factory(model: ModelSettings = MLP) -> LearnerFactory:
    task = TaskSettings(data="toy", toy_samples=80, batch_size=8, model=model)
    return LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), seed=3, clients=["a"])


def dense_entry(version: int, gradient: bytes, chain: bytes = EMPTY_CHAIN) -> LogEntry:
    terms = (Term(STEP, 0, b"", gradient),)
    return LogEntry(version, terms, chain_hash(chain, version, terms))


@pytest.mark.parametrize("model", [MLP, CNN], ids=["mlp", "cnn"])
def test_the_clients_gradient_is_that_of_the_whole_model(model: ModelSettings) -> None:
    made = factory(model)
    client, server = made.client("a"), made.server()
    sent = client.run(jobs.Forward(STEP, 0))
    dual = server.run(jobs.EvaluateDual(STEP, sent.activations, sent.labels)).dual
    found = np.frombuffer(client.run(jobs.BackPropagate(STEP, dual)).gradient.data, "<f4")

    whole = made.model.client.module, server._model.server.module
    theta = torch.from_numpy(client._held.theta.copy()).requires_grad_()
    shapes = [tuple(view.shape) for view in client._held.views]
    parts = [part.view(shape) for part, shape in zip(theta.split([int(np.prod(s)) for s in shapes]), shapes, strict=True)]
    names = [name for name, _ in whole[0].named_parameters()]
    batch, labels = client._bench.images, sent.labels
    chosen = client._shard[client._bench.sampler.draw(STEP, len(client._shard))]
    z = torch.func.functional_call(whole[0], dict(zip(names, parts, strict=True)), batch[torch.from_numpy(chosen)])
    loss = cross_entropy(whole[1](z), torch.from_numpy(np.frombuffer(labels.data, "<i8").copy()))
    [expected] = torch.autograd.grad(loss, theta)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-7)


def test_back_propagation_forgets_the_anchor_and_leaves_no_graph_behind() -> None:
    made = factory()
    client, server = made.client("a"), made.server()
    sent = client.run(jobs.Forward(STEP, 0))
    dual = server.run(jobs.EvaluateDual(STEP, sent.activations, sent.labels)).dual
    client.run(jobs.BackPropagate(STEP, dual))
    with pytest.raises(LearnerError, match="not anchored"):
        client.run(jobs.BackPropagate(STEP, dual))
    assert not any(parameter.requires_grad for parameter in client._bench.model.client.module.parameters())
    assert isinstance(client._bench.model.client.module, nn.Module)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_a_dense_term_is_one_subtraction_for_each_element(seed: int, entries: int) -> None:
    draw = np.random.default_rng(seed)
    start = draw.standard_normal(17).astype(np.float32)
    gradients = [draw.standard_normal(17).astype(np.float32) for _ in range(entries)]
    theta = start.copy()
    replay(theta, [dense_entry(version + 1, gradient.tobytes()) for version, gradient in enumerate(gradients)], RUN, Perturber())
    expected = start
    for gradient in gradients:
        expected = expected - gradient
    assert theta.tobytes() == expected.tobytes()


@pytest.mark.parametrize("gradient", [bytes(4), pack("<f", float("nan")) * 71, bytes(3)], ids=["short", "nan", "torn"])
def test_a_dense_term_that_does_not_fit_changes_nothing(gradient: bytes) -> None:
    half = build_model(ModelSettings(client_widths=(4,)), (1, 4, 4), 4).client
    store = VersionStore(half, lambda: half.initial(RUN), RUN)
    held = store.hold_initial()
    before = held.theta.tobytes()
    with pytest.raises(LearnerError, match="gradient"):
        store.advance(held, [dense_entry(1, gradient)])
    assert held.theta.tobytes() == before
