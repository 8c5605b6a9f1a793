"""Low-rank directions: the kernel against the definition, unbiased over all their signs, and probes that need no perturbed copy."""

from __future__ import annotations

from hashlib import blake2b
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hosfl_async.learning import golden
from hosfl_async.learning.directions import new_prober
from hosfl_async.learning.low_rank import LowRankPerturber, low_rank_signs, matrix_of, written_out
from hosfl_async.learning.low_rank_prober import AT_ONCE_FLOATS_MIN, LowRankProber, chain_of
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Perturber, add_scaled_directions, direction_key
from hosfl_async.learning.settings import ModelSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import Half
from hosfl_async.learning.zeroth_order import Prober, forward
from hosfl_async.messages import StepId

RUN = b"0123456789abcdef"
STEP = StepId("client-0", 1, 1)
KEYS = st.binary(min_size=16, max_size=16)
RANKS = st.sampled_from([1, 2, 3, 16])
SHAPES = st.lists(st.lists(st.integers(1, 7), max_size=4).map(tuple), max_size=4)
COEFFICIENTS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e10, max_value=1e10)


@given(key=KEYS, shapes=SHAPES, rank=RANKS, coefficient=COEFFICIENTS, chunk=st.sampled_from([1, 3, 64, 1 << 16]))
def test_the_kernel_adds_the_readable_signs_in_any_chunks(key: bytes, shapes: list, rank: int, coefficient: float, chunk: int) -> None:
    theta = golden.golden_start(sum(map(prod, shapes)))
    expected = theta + np.float32(coefficient) * low_rank_signs(key, shapes, rank)
    before, out = theta.tobytes(), np.full(theta.size, np.nan, np.float32)
    LowRankPerturber(shapes, rank, chunk).add_scaled_direction(theta, key, coefficient, out=out)
    assert out.tobytes() == expected.tobytes()
    assert theta.tobytes() == before, "a direction written elsewhere leaves theta as it was"
    LowRankPerturber(shapes, rank, chunk).add_scaled_direction(theta, key, coefficient)
    assert theta.tobytes() == expected.tobytes()


@given(keys=st.lists(KEYS, min_size=1, max_size=4), shapes=SHAPES, rank=RANKS)
def test_factors_of_several_keys_are_those_of_each_and_make_the_direction(keys: list[bytes], shapes: list, rank: int) -> None:
    perturber = LowRankPerturber(shapes, rank)
    together = [written_out(*each).reshape(len(keys), -1) for each in zip(perturber.matrices, perturber.factors(keys), strict=True)]
    for row, key in enumerate(keys):
        alone = np.concatenate([np.empty(0, np.float32), *(part[row] for part in together)])
        assert alone.tobytes() == low_rank_signs(key, shapes, rank).tobytes()


@given(
    keys=st.lists(KEYS, max_size=5),
    shapes=SHAPES,
    rank=RANKS,
    low_rank=st.booleans(),
    chunk=st.sampled_from([1, 3, 64, 1 << 16]),
    data=st.data(),
)
def test_directions_added_together_are_those_added_one_by_one(
    keys: list[bytes], shapes: list, rank: int, low_rank: bool, chunk: int, data: st.DataObject
) -> None:
    coefficients = data.draw(st.lists(COEFFICIENTS, min_size=len(keys), max_size=len(keys)))
    adder = LowRankPerturber(shapes, rank) if low_rank else Perturber()
    together, alone = (golden.golden_start(sum(map(prod, shapes))) for _ in range(2))
    add_scaled_directions(adder, together, keys, coefficients, chunk)
    for key, coefficient in zip(keys, coefficients, strict=True):
        adder.add_scaled_direction(alone, key, coefficient)
    assert together.tobytes() == alone.tobytes()


@given(shape=st.lists(st.integers(1, 40), max_size=3).map(tuple), rank=RANKS)
def test_a_parameter_is_read_in_no_more_blocks_than_the_rank(shape: tuple[int, ...], rank: int) -> None:
    matrix = matrix_of(shape, rank)
    assert matrix.rows * matrix.columns == prod(shape)
    assert matrix.blocks <= (1 if matrix.columns == 1 else rank)
    assert (matrix.blocks - 1) * matrix.height < matrix.rows <= matrix.blocks * matrix.height
    direction = low_rank_signs(RUN, [shape], rank).reshape(matrix.rows, matrix.columns)
    assert np.linalg.matrix_rank(direction) <= matrix.blocks


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_average_over_all_factors_is_the_gradient(rank: int) -> None:
    """A linear surrogate <g, theta>: averaging v u over all signs gives g, v^2 averages to |g|^2, and |u|^2 = d in every case."""
    g = np.random.default_rng(1).normal(size=(1, 3, 2))
    matrix = matrix_of((3, 2), rank)
    every = np.array(list(product((-1.0, 1.0), repeat=matrix.bits)))
    u = written_out(matrix, (every[:, :3], every[:, 3:].reshape(len(every), matrix.blocks, 2)))  # type: ignore[arg-type]
    assert ((u * u).sum(axis=(1, 2)) == g.size).all()
    v = (g * u).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose((v * u).mean(axis=0), g[0], rtol=1e-12)
    np.testing.assert_allclose((v * v).mean(), (g * g).sum(), rtol=1e-12)


def test_elements_are_balanced_and_uncorrelated() -> None:
    drawn = np.stack([low_rank_signs(direction_key(RUN, StepId("client-0", 1, n), 0), [(8, 9), (8,)], 2) for n in range(1024)])
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert np.abs(drawn.mean(axis=0)).max() < 0.16  # five standard deviations
    correlation = drawn.T @ drawn / len(drawn)
    assert np.abs(correlation - np.eye(80)).max() < 0.17


def test_golden_low_rank_replay() -> None:
    vectors = golden.golden_vectors()
    shapes, wanted = list(map(tuple, vectors["low_rank"]["shapes"])), vectors["low_rank"]["digest"]
    digest = golden.replayed_digest(vectors, LowRankPerturber(shapes, vectors["low_rank"]["rank"]))
    assert digest.hex() == wanted
    assert wanted != vectors["digest"], "another kind of direction"
    both = golden.replayed_digest(vectors, Perturber()) + digest
    assert golden.golden_digest() == blake2b(both, digest_size=32).digest(), "a machine must be right about both kinds to join"


@pytest.mark.parametrize(("rank", "chunk"), [(0, 64), (4, 0)])
def test_ranks_and_chunks_hold_something(rank: int, chunk: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        LowRankPerturber([(2, 3)], rank, chunk)


# -- probes without a perturbed copy ------------------------------------------------------------------


@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    name=st.sampled_from(["mlp", "cnn"]),
    activation=st.sampled_from(["relu", "tanh"]),
    probes=st.integers(1, 5),
    samples=st.integers(1, 5),
    rank=RANKS,
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_ways_of_probing_give_the_same_differences(
    widths: list[int], name: str, activation: str, probes: int, samples: int, rank: int, bias: bool, seed: int
) -> None:
    """Layer by layer and in a scratch vector, to the rounding of a forward pass."""
    model = build_model(ModelSettings(name=name, client_widths=tuple(widths), activation=activation), (1, 8, 8), 4)  # type: ignore[arg-type]
    half = model.client if bias else Half(without_bias(model.client.module))
    theta = half.initial(RUN)
    views = half.views(theta)
    batch = torch.rand(samples, *model.input_shape, generator=torch.Generator().manual_seed(seed))
    anchor = forward(half, views, batch)
    perturber = LowRankPerturber(half.shapes, rank)
    lean, plain = LowRankProber(half, RUN, 1e-3, perturber), Prober(half, RUN, 1e-3, perturber)
    for base_version in (None, 3):
        got = lean.differences(theta, views, batch, anchor, STEP, probes, base_version)
        np.testing.assert_allclose(got, plain.differences(theta, views, batch, anchor, STEP, probes, base_version), rtol=0, atol=1e-6)


def without_bias(module: nn.Module) -> nn.Module:
    made = [
        nn.Linear(each.in_features, each.out_features, bias=False)
        if isinstance(each, nn.Linear)
        else nn.Conv2d(each.in_channels, each.out_channels, 3, padding=1, bias=False)
        if isinstance(each, nn.Conv2d)
        else each
        for each in module  # type: ignore[union-attr]
    ]
    return nn.Sequential(*made)


def test_probes_run_together_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(ModelSettings(client_widths=(64, 16)), (1, 8, 8), 4)
    prober = LowRankProber(model.client, RUN, 1e-3, LowRankPerturber(model.client.shapes, 16))
    theta = model.client.initial(RUN)
    model.client.bind(model.client.views(theta))
    widest = 128 * 64  # tanh after the first layer: 64 in and 64 out for each of 64 samples
    assert prober.probes_at_once(torch.zeros(64, 64)) == AT_ONCE_FLOATS_MIN // widest
    assert prober.probes_at_once(torch.zeros(64 * 64, 64)) == 1
    batch = torch.rand(8, 64)
    anchor = forward(model.client, model.client.views(theta), batch)
    together = prober.differences(theta, model.client.views(theta), batch, anchor, STEP, 5)
    monkeypatch.setattr(LowRankProber, "probes_at_once", lambda self, batch: 2)
    in_turns = prober.differences(theta, model.client.views(theta), batch, anchor, STEP, 5)
    np.testing.assert_allclose(in_turns, together, rtol=0, atol=1e-6)


def test_only_layers_that_go_sample_by_sample_are_a_chain() -> None:
    linear, relu = nn.Linear(2, 2), nn.ReLU()
    assert chain_of(Half(nn.Sequential(linear, nn.Sequential(relu, nn.Tanh())))) is not None
    for unknown in (nn.BatchNorm1d(2), nn.Flatten(0), nn.Softmax(0), nn.TransformerEncoderLayer(2, 1, 2)):
        assert chain_of(Half(nn.Sequential(linear, unknown))) is None
        assert chain_of(Half(unknown)) is None
    assert chain_of(Half(nn.Sequential(linear, relu, linear))) is None, "one layer's parameters used twice"
    assert chain_of(Half(nn.Sequential(nn.Linear(2, 2).requires_grad_(False), relu, linear))) is None, "a layer is frozen"
    unchained = Half(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval())
    assert isinstance(new_prober(unchained, RUN, ZerothOrderSettings()), Prober)
    with pytest.raises(ValueError, match="sample by sample"):
        LowRankProber(unchained, RUN, 1e-3, LowRankPerturber(unchained.shapes, 16))
