"""The estimator and the replay: unbiased where it can be enumerated, without residue, and the same in any pieces."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_cases import entries_of, run_of_entries
from torch.nn.functional import linear

from hosfl_async.learning.directions import new_prober
from hosfl_async.learning.golden import golden_start
from hosfl_async.learning.low_rank import LowRankPerturber, low_rank_signs
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import DirectionAdder, Perturber, direction_key, signs
from hosfl_async.learning.settings import ModelSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import Half
from hosfl_async.learning.version_store import parameter_digest
from hosfl_async.learning.zeroth_order import forward, project, replay
from hosfl_async.messages import StepId
from hosfl_async.scaling import coefficients, unpack_coefficients

RUN = b"0123456789abcdef"
STEP = StepId("client-0", 1, 1)
MODELS = {
    "mlp": (ModelSettings(name="mlp", client_widths=(5, 3)), (1, 4, 4)),
    "cnn": (ModelSettings(name="cnn", client_widths=(2, 3), server_widths=(6,), activation="relu"), (1, 8, 8)),
}


KINDS = [ZerothOrderSettings(signs="independent"), ZerothOrderSettings(), ZerothOrderSettings(rank=2)]


def direction(half: Half, key: bytes, kind: ZerothOrderSettings) -> np.ndarray:
    """u, as its readable definition gives it."""
    return signs(key, half.size) if kind.signs == "independent" else low_rank_signs(key, half.shapes, kind.rank)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.signs} {kind.rank}")
@pytest.mark.parametrize("name", MODELS)
def test_probes_leave_no_residue(name: str, kind: ZerothOrderSettings) -> None:
    model = build_model(*MODELS[name], 10)
    theta = model.client.initial(RUN)
    views = model.client.views(theta)
    batch = torch.rand(7, *model.input_shape, generator=torch.Generator().manual_seed(1))
    before, given = theta.tobytes(), batch.clone()
    anchor = forward(model.client, views, batch)
    kept = anchor.copy()
    prober = new_prober(model.client, RUN, kind)
    first = prober.differences(theta, views, batch, anchor, STEP, 4)
    assert theta.tobytes() == before
    assert (prober.differences(theta, views, batch, anchor, STEP, 4) == first).all()
    assert (anchor == kept).all() and (batch == given).all()
    assert (forward(model.client, views, batch) == anchor).all()
    assert first.shape == (4, 7, *model.cut_shape)
    assert len({difference.tobytes() for difference in first}) == 4, "each probe has a direction of its own"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.signs} {kind.rank}")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("base_version", [None, 5])
def test_a_probe_is_the_forward_pass_at_theta_plus_mu_u(name: str, kind: ZerothOrderSettings, base_version: int | None) -> None:
    model = build_model(*MODELS[name], 10)
    theta = model.client.initial(RUN)
    views = model.client.views(theta)
    batch = torch.rand(3, *model.input_shape, generator=torch.Generator().manual_seed(2))
    anchor = forward(model.client, views, batch)
    differences = new_prober(model.client, RUN, kind).differences(theta, views, batch, anchor, STEP, 2, base_version)
    for probe in (0, 1):
        moved = np.empty_like(theta)
        moved[:] = theta + np.float32(1e-3) * direction(model.client, direction_key(RUN, STEP, probe, base_version), kind)
        there = forward(model.client, model.client.views(moved), batch)
        np.testing.assert_allclose(differences[probe], there - anchor, rtol=0, atol=3e-7)


def test_the_average_over_all_directions_is_the_surrogate_gradient() -> None:
    """Linear client half: averaging v u over all 2^d sign vectors gives the gradient of <lambda, f_c> exactly (no curvature).

    Compared with autograd. Everything in float64, so that only the method itself is on trial.
    """
    generator = torch.Generator().manual_seed(3)
    batch = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    dual = torch.rand(4, 2, generator=generator, dtype=torch.float64)
    theta = torch.rand(8, generator=generator, dtype=torch.float64, requires_grad=True)

    def client(parameters: torch.Tensor) -> torch.Tensor:
        return linear(batch, parameters[:6].view(2, 3), parameters[6:])

    (dual * client(theta)).sum().backward()
    mu = 2.0**-10
    estimate = np.zeros(8)
    with torch.no_grad():
        anchor = client(theta).numpy()
        for direction in product((-1.0, 1.0), repeat=8):
            difference = client(theta + mu * torch.tensor(direction, dtype=torch.float64)).numpy() - anchor
            (projected,) = project(difference[None], dual.numpy(), mu)
            estimate += projected * np.array(direction) / 256
    assert theta.grad is not None
    np.testing.assert_allclose(estimate, theta.grad.numpy(), rtol=1e-10)


def test_the_curvature_error_shrinks_with_mu() -> None:
    """A tanh client half: the averaged estimate differs from autograd's gradient by an amount that vanishes with mu."""
    settings_, shape = ModelSettings(client_widths=(2,)), (1, 1, 3)
    model = build_model(settings_, shape, 2)
    theta = torch.from_numpy(model.client.initial(RUN)).double().requires_grad_()
    batch = torch.rand(4, 3, generator=torch.Generator().manual_seed(4)).double()
    dual = torch.rand(4, 2, generator=torch.Generator().manual_seed(5)).double()

    def client(parameters: torch.Tensor) -> torch.Tensor:
        return torch.tanh(linear(batch, parameters[:6].view(2, 3), parameters[6:]))

    (dual * client(theta)).sum().backward()
    assert theta.grad is not None
    gradient = theta.grad.numpy()

    def error(mu: float) -> float:
        estimate = np.zeros(8)
        with torch.no_grad():
            anchor = client(theta).numpy()
            for direction in product((-1.0, 1.0), repeat=8):
                difference = client(theta + mu * torch.tensor(direction).double()).numpy() - anchor
                estimate += project(difference[None], dual.numpy(), mu)[0] * np.array(direction) / 256
        return float(np.abs(estimate - gradient).max() / np.abs(gradient).max())

    assert error(0.1) < 0.05
    assert error(0.01) < error(0.1) / 10


def test_projection_takes_the_difference_first_and_sums_in_float64() -> None:
    differences = np.array([[[1.0, 2.0**-30]], [[2.0**-60, 0.0]]], np.float32)
    dual = np.array([[1.0, 1.0]], np.float32)
    assert project(differences, dual, 0.5) == (2 * (1 + 2.0**-30), 2.0**-59)


# -- replay -------------------------------------------------------------------------------------------


def kinds_of_replay(size: int, chunk: int = 1 << 16) -> tuple[DirectionAdder, DirectionAdder]:
    """Both kinds of direction over vectors of this size; the low-rank kind sees a matrix, and the rest as a bias."""
    rows = min(size, 5)
    columns = size // rows
    return Perturber(chunk), LowRankPerturber([(rows, columns), (size - rows * columns,)], 2, chunk)


@given(entries=entries_of(7), size=st.sampled_from([1, 9, 65, 520]), cut=st.integers(0, 5), chunk=st.sampled_from([64, 256, 1 << 16]))
def test_replay_in_pieces_is_replay_in_one_go(entries: tuple, size: int, cut: int, chunk: int) -> None:
    for perturber, pieced in zip(kinds_of_replay(size), kinds_of_replay(size, chunk), strict=True):
        whole, pieces = golden_start(size), golden_start(size)
        replay(whole, entries, RUN, perturber)
        replay(pieces, entries[:cut], RUN, pieced)
        snapshot = pieces.copy()
        replay(snapshot, entries[cut:], RUN, pieced)
        assert parameter_digest(snapshot) == parameter_digest(whole)


@given(entries=entries_of(3), size=st.sampled_from([1, 9, 130]))
def test_replay_subtracts_each_coefficient_times_its_signs(entries: tuple, size: int) -> None:
    theta, expected = golden_start(size), golden_start(size)
    replay(theta, entries, RUN, Perturber())
    for entry in entries:
        for term in entry.terms:
            for probe, coefficient in enumerate(unpack_coefficients(term.coefficients)):
                expected = expected - np.float32(coefficient) * signs(direction_key(RUN, term.step, probe), size)
    assert theta.tobytes() == expected.tobytes()


@settings(max_examples=20)
@given(
    projected=st.lists(st.floats(-100, 100), min_size=1, max_size=4),
    weight=st.floats(0.01, 1),
    contributions=st.integers(1, 8),
)
def test_an_entry_moves_against_the_estimated_gradient(projected: list[float], weight: float, contributions: int) -> None:
    """theta - eta/K * s * 1/P * sum_p v_p u_p, to float32 accuracy: the formula of the paper, once and in one place."""
    packed = coefficients(projected, learning_rate=0.1, weight=weight, contributions=contributions)
    (entry,) = run_of_entries([[(STEP, packed)]])
    theta = np.zeros(64, np.float32)
    replay(theta, [entry], RUN, Perturber())
    mean = sum(v * signs(direction_key(RUN, STEP, p), 64).astype(float) for p, v in enumerate(projected)) / len(projected)
    np.testing.assert_allclose(theta, -0.1 * weight / contributions * mean, rtol=1e-4, atol=1e-5)


_DIGEST_PROGRAM = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from hosfl_async.learning.golden import golden_digest, golden_entries, golden_start, golden_vectors
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.settings import ModelSettings
from hosfl_async.learning.models import build_model
from hosfl_async.learning.version_store import parameter_digest
from hosfl_async.learning.zeroth_order import replay
model = build_model(ModelSettings(name="cnn", client_widths=(4, 8)), (1, 16, 16), 10)
theta = model.client.initial(b"0123456789abcdef")
print(torch.backends.cpu.get_cpu_capability(), file=sys.stderr)
initial = parameter_digest(theta)
replay(theta, golden_entries(golden_vectors()), b"0123456789abcdef", LowRankPerturber(model.client.shapes, 16))
print(golden_digest().hex(), initial.hex(), parameter_digest(theta).hex())
"""


def test_digests_do_not_depend_on_instruction_set_or_threads() -> None:
    """Other processes, each with another capability level of torch (and numpy's dispatch switched off in one) and threads."""
    cases = [("default", "1"), ("avx2", "2"), ("avx512", "1")]
    processes = []
    for capability, threads in cases:
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"}
        if capability == "default":
            environment["NPY_DISABLE_CPU_FEATURES"] = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
        program = [sys.executable, "-c", _DIGEST_PROGRAM, threads]
        processes.append(subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    printed = {out for out, _ in outputs}
    assert len(printed) == 1 and len(printed.pop().split()) == 3, outputs
