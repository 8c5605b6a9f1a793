"""Skip feedback: against autograd where it is exact, against its formulas written by autograd where it is not, and through the learners."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoders import CLASSES, CLIENTS, TASK, TINY, TOKENS, VOCABULARY, batch_of

from hosfl_async import jobs
from hosfl_async.errors import LearnerError, SettingsError
from hosfl_async.learning import skip_feedback
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, signs
from hosfl_async.learning.sequences import PADDING, take
from hosfl_async.learning.settings import FED_BACK, Feedback, FirstOrderSettings, ModelSettings, ZerothOrderSettings
from hosfl_async.learning.skip_feedback import SLOPE_STEP, SkipFeedback, _gates_of, writers_of
from hosfl_async.learning.split_model import SplitModel, initial_theta_c
from hosfl_async.learning.zeroth_order import forward
from hosfl_async.messages import StepId

BATCH = batch_of(5, 12, 1)
STEP = StepId("client-0", 1, 1)


def built(trainable: str, **changes: Any) -> tuple[SplitModel, Vector]:
    """The tiny encoder away from its start, where adapters have no effect and normalisations none of their own."""
    model = build_model(replace(TINY, trainable=trainable, **changes), (TOKENS,), CLASSES, VOCABULARY)  # type: ignore[arg-type]
    theta = initial_theta_c(model, 0)
    theta += np.float32(0.1) * signs(bytes(16), theta.size)
    return model, theta


def dual_for(activations: Any) -> torch.Tensor:
    return torch.from_numpy(np.linspace(-1, 2, activations.size, dtype=np.float32).reshape(activations.shape) ** 3)


def fed_back(model: SplitModel, theta: Vector, batch: torch.Tensor, way: Feedback, dual: torch.Tensor | None = None) -> Vector:
    feedback, views = SkipFeedback(model.client, way), model.client.views(theta)
    activations, noted = feedback.forward(views, batch)
    return feedback.gradient(views, batch, dual_for(activations) if dual is None else dual, noted)


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def names_of(model: SplitModel) -> list[str]:
    learnt = {id(parameter) for parameter in model.client.parameters}
    return [name for name, parameter in model.client.module.named_parameters() if id(parameter) in learnt]


@pytest.mark.parametrize("way", get_args(Feedback))
@pytest.mark.parametrize("trainable", FED_BACK)
def test_the_last_writers_gradient_is_that_of_back_propagation_and_no_other_is(trainable: str, way: Feedback) -> None:
    model, theta = built(trainable)
    views = model.client.views(theta)
    dual = dual_for(forward(model.client, views, BATCH))
    found, true = fed_back(model, theta, BATCH, way), client_gradient(model.client, views, BATCH, dual)
    last = 0
    for name, mine, exact in zip(names_of(model), model.client.views(found), model.client.views(true), strict=True):
        if name.startswith("blocks.1.output."):
            torch.testing.assert_close(mine, exact, rtol=1e-3, atol=1e-4)
            last += 1
        else:
            assert not torch.allclose(mine, exact, rtol=1e-2, atol=1e-3), name
    assert last == 2
    assert cosine(found, true) > 0.2


@pytest.mark.parametrize("trainable", FED_BACK)
def test_gates_bring_every_writer_but_the_last_nearer_to_the_true_gradient(trainable: str) -> None:
    model, theta = built(trainable)
    views = model.client.views(theta)
    true = client_gradient(model.client, views, BATCH, dual_for(forward(model.client, views, BATCH)))
    past, through = (cosine(fed_back(model, theta, BATCH, way), true) for way in ("skip", "gated"))
    assert through > past if trainable == "norms" else through > past + 0.01


def gated_by_autograd(block: Any, stream: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The feed-forward branch of a block, each unit's activation function replaced by one of two slopes."""
    inner = block.intermediate
    with torch.no_grad():
        values, points = inner.dense(stream), inner.dense(stream)[present].requires_grad_()
        with torch.enable_grad():
            [slope] = torch.autograd.grad(inner.intermediate_act_fn(points).sum(), points)
        is_open = points > 0
        mean = [(slope * each).sum(dim=0) / each.sum(dim=0).clamp(min=1) for each in (~is_open, is_open)]
    linear = inner.dense(stream) * torch.where(values > 0, mean[1], mean[0])
    made: torch.Tensor = block.output.dense(linear)
    return made


@pytest.mark.parametrize("way", get_args(Feedback))
@pytest.mark.parametrize("trainable", FED_BACK)
def test_every_writer_gets_what_the_formulas_say(trainable: str, way: Feedback) -> None:
    """Each writer by itself: autograd through its own two layers, fed with the dual scaled down the stream."""
    model, theta = built(trainable)
    views, given = model.client.views(theta), {}
    writers = writers_of(model.client.module)
    hooks = [each.register_forward_hook(lambda module, inputs, made: given.update({module: inputs})) for each in writers]
    delta = torch.zeros(*BATCH.shape, TINY.hidden)
    delta[BATCH != PADDING] = dual_for(forward(model.client, views, BATCH))
    for hook in hooks:
        hook.remove()
    learnt, expected = {id(parameter) for parameter in model.client.parameters}, {}
    for writer in reversed(writers):
        inputs, stream = (each.clone() for each in given[writer])
        own = [parameter for parameter in writer.parameters() if id(parameter) in learnt]
        for parameter in own:
            parameter.requires_grad_()
        parts = torch.autograd.grad(writer(inputs, stream), own, delta)
        expected |= {id(parameter): part for parameter, part in zip(own, parts, strict=True)}
        for parameter in own:
            parameter.requires_grad_(False)
        with torch.no_grad():
            std = (writer.dense(inputs) + stream).var(dim=-1, unbiased=False, keepdim=True).add(writer.LayerNorm.eps).sqrt()
            delta = delta * writer.LayerNorm.weight / std
        if way == "gated" and writer in writers[1::2]:
            delta = (delta - delta.mean(dim=-1, keepdim=True)) * (BATCH != PADDING)[..., None]
            stream = stream.detach().requires_grad_()
            made = gated_by_autograd(model.client.module.blocks[writers.index(writer) // 2], stream, BATCH != PADDING)  # type: ignore[index]
            delta = delta + torch.autograd.grad(made, stream, delta)[0]
    found = model.client.views(fed_back(model, theta, BATCH, way))
    for parameter, part in zip(model.client.parameters, found, strict=True):
        torch.testing.assert_close(part, expected[id(parameter)], rtol=1e-3, atol=1e-4)


@settings(max_examples=15)
@given(st.lists(st.integers(1, TOKENS), min_size=2, max_size=5))
def test_padding_and_company_change_nothing(lengths: list[int]) -> None:
    """Without gates, whose slopes are means over the batch."""
    model, theta = built("writers")
    batch = batch_of(*lengths)
    dual = dual_for(forward(model.client, model.client.views(theta), batch))
    together = fed_back(model, theta, batch, "skip", dual)
    ends = np.cumsum(lengths)
    alone = [
        fed_back(model, theta, take(batch, [index]), "skip", dual[end - length : end]).astype(np.float64)
        for index, (end, length) in enumerate(zip(ends, lengths, strict=True))
    ]
    np.testing.assert_allclose(together, sum(alone), rtol=1e-3, atol=1e-3)


@given(st.integers(1, 6), st.integers(1, 21), st.integers(0, 2**32 - 1), st.sampled_from([torch.relu, torch.nn.functional.gelu]))
def test_a_gate_is_a_bit_and_its_slopes_are_means_over_its_side(tokens: int, units: int, seed: int, act: Any) -> None:
    values = torch.randn(tokens, units, generator=torch.Generator().manual_seed(seed))
    gates = _gates_of(torch.cat([values, torch.full_like(values, 9.0)])[None], torch.arange(2 * tokens)[None] < tokens, act)
    assert gates.open.nbytes == tokens * -(-units // 8)
    asked = values.requires_grad_()
    [slopes] = torch.autograd.grad(act(asked).sum(), asked)
    for token, unit in np.ndindex(tokens, units):
        side = (values[:, unit] > 0) == (values[token, unit] > 0)
        if act is torch.relu and bool((values[:, unit].abs() < SLOPE_STEP).any()):
            continue  # a slope by differences is half there
        assert abs(float(gates.slope(slice(token, None))[0, unit] - slopes[side, unit].mean())) < 1e-2


def test_tokens_looked_at_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, theta = built("writers")
    at_once = fed_back(model, theta, BATCH, "gated")
    monkeypatch.setattr(skip_feedback, "TOKENS_AT_ONCE", 5)
    np.testing.assert_allclose(fed_back(model, theta, BATCH, "gated"), at_once, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", get_args(Feedback))
def test_no_graph_is_recorded_and_the_anchor_is_the_plain_one(way: Feedback, monkeypatch: pytest.MonkeyPatch) -> None:
    model, theta = built("writers")
    views = model.client.views(theta)
    plain = forward(model.client, views, BATCH)
    seen = []
    model.client.module.register_forward_hook(lambda module, given, made: seen.append((torch.is_inference_mode_enabled(), made.grad_fn)))
    monkeypatch.setattr(torch.autograd, "grad", None)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    feedback = SkipFeedback(model.client, way)
    activations, noted = feedback.forward(views, BATCH)
    assert activations.tobytes() == plain.tobytes()
    assert noted.rho.shape == (4, 18), "one number for each writer and token"
    kept = [gates.open.nbytes for gates in noted.gates]
    assert kept == ([] if way == "skip" else [18 * TINY.hidden * 4 // 8] * 2), (
        "and a bit for each unit and token, if that; nothing else is kept"
    )
    feedback.gradient(views, BATCH, dual_for(activations), noted)
    assert seen == [(True, None)] * 2, "two forward passes"
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.client.module.modules() if module is not model.client.module
    )


@pytest.mark.parametrize("matrices", ["int8", "bfloat16"])
@pytest.mark.parametrize("trainable", ["lora_writers", "norms"])
def test_frozen_matrices_in_fewer_bits_change_it_by_their_rounding_only(trainable: str, matrices: str) -> None:
    exact, rounded = (fed_back(*built(trainable, client_matrices=each), BATCH, "skip") for each in ("float32", matrices))
    assert 0.98 < cosine(exact, rounded) < 1


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (ModelSettings(), "needs skip connections"),
        (replace(TINY, trainable="norms", client_matrices="int8"), "transposed matrices"),
        (replace(TINY, trainable="lora"), "does not reach"),
        (replace(TINY, trainable="all"), "does not reach"),
    ],
    ids=["mlp", "matrices in int8", "adapters of queries", "everything"],
)
def test_what_it_cannot_reach_is_refused(model: ModelSettings, text: str) -> None:
    shape, vocabulary = ((TOKENS,), VOCABULARY) if model.name == "encoder" else ((1, 8, 8), 0)
    with pytest.raises(SettingsError, match=text):
        SkipFeedback(build_model(model, shape, CLASSES, vocabulary).client, "gated")


def factory(trainable: str = "lora_writers") -> LearnerFactory:
    task = replace(TASK, model=replace(TINY, trainable=trainable))  # type: ignore[arg-type]
    return LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), seed=3, clients=CLIENTS, shared=True)


def test_a_learner_feeds_back_what_its_forward_pass_has_noted() -> None:
    made = factory()
    client, server = made.client("client-0"), made.server()
    sent = client.run(jobs.Forward(STEP, 0, feedback=True))
    dual = server.run(jobs.EvaluateDual(STEP, sent.activations, sent.labels)).dual
    done = client.run(jobs.FeedBack(STEP, dual))
    assert done.gradient.shape == (made.model.client.size,) and np.frombuffer(done.gradient.data, "<f4").any()
    with pytest.raises(LearnerError, match="not anchored"):
        client.run(jobs.FeedBack(STEP, dual))
    plain = client.run(jobs.Forward(STEP, 0))
    assert plain == sent
    with pytest.raises(LearnerError, match="noted nothing"):
        client.run(jobs.FeedBack(STEP, dual))
