"""Directions, the chunked kernel and the golden vectors: bit for bit, or not at all."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import scaling
from hosfl_async.learning import golden
from hosfl_async.learning.perturbation import Perturber, direction_key, signs
from hosfl_async.learning.randomness import named_key, raw_stream, raw_words
from hosfl_async.learning.version_store import parameter_digest
from hosfl_async.messages import EMPTY_CHAIN, StepId, chain_hash

KEYS = st.binary(min_size=16, max_size=16)
SIZES = st.integers(1, 300) | st.sampled_from([511, 512, 513, 1003, 4096, 4099])
COEFFICIENTS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e10, max_value=1e10)


def bits(vector: np.ndarray) -> bytes:
    return vector.astype("<f4").tobytes()


@given(key=KEYS, size=SIZES, coefficient=COEFFICIENTS, chunk=st.sampled_from([64, 128, 4096, 1 << 16]))
def test_the_kernel_adds_the_readable_signs_in_any_chunks(key: bytes, size: int, coefficient: float, chunk: int) -> None:
    theta = golden.golden_start(size)
    expected = theta + np.float32(coefficient) * signs(key, size)
    out = np.full(size, np.nan, np.float32)
    before = bits(theta)
    Perturber(chunk).add_scaled_direction(theta, key, coefficient, out=out)
    assert bits(out) == bits(expected)
    assert bits(theta) == before, "a direction written elsewhere leaves theta as it was"
    Perturber(chunk).add_scaled_direction(theta, key, coefficient)
    assert bits(theta) == bits(expected)


@given(key=KEYS, other=KEYS, size=SIZES)
def test_a_direction_does_not_depend_on_those_before_it(key: bytes, other: bytes, size: int) -> None:
    perturber = Perturber(64)
    once, again = np.zeros(size, np.float32), np.zeros(size, np.float32)
    perturber.add_scaled_direction(once, key, 1.0)
    perturber.add_scaled_direction(np.zeros(7, np.float32), other, 3.0)
    perturber.add_scaled_direction(again, key, 1.0)
    assert bits(once) == bits(again)


@given(key=KEYS, count=st.integers(1, 50))
def test_a_reset_stream_is_a_new_philox(key: bytes, count: int) -> None:
    start = raw_stream()
    start(bytes(16)).random_raw(3)
    fresh = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count)
    assert (start(key).random_raw(count) == fresh).all()
    assert (raw_words(key, count) == fresh).all()


NAMES = st.builds(StepId, client=st.text("abc-", min_size=1, max_size=4), incarnation=st.integers(0, 2**62), number=st.integers(0, 2**62))


@given(one=st.tuples(NAMES, st.integers(0, 4095)), two=st.tuples(NAMES, st.integers(0, 4095)))
def test_different_probes_have_different_keys(one: tuple[StepId, int], two: tuple[StepId, int]) -> None:
    run = bytes(16)
    assert (direction_key(run, *one) == direction_key(run, *two)) == (one == two)
    assert direction_key(run, *one) != direction_key(bytes([1]) + bytes(15), *one)


def test_named_keys_do_not_run_into_each_other() -> None:
    assert named_key("a", 1, "bc", "d") != named_key("a", 1, "b", "cd")
    assert named_key("a", 1) != named_key("a", 2) != named_key("a", -1)


def test_signs_are_balanced_and_uncorrelated() -> None:
    run = named_key("run", 3)
    drawn = np.stack([signs(direction_key(run, StepId("client-0", 1, number), 0), 4096) for number in range(16)])
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    correlation = drawn @ drawn.T / 4096
    assert np.abs(correlation - np.eye(16)).max() < 0.08  # five standard deviations


@pytest.mark.parametrize("chunk", [0, -64, 100])
def test_a_chunk_must_hold_whole_words(chunk: int) -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        Perturber(chunk)


# -- golden vectors -----------------------------------------------------------------------------------

VECTORS = golden.golden_vectors()


@pytest.mark.parametrize("vector", VECTORS["directions"], ids=lambda v: f"{v['client']}-{v['probe']}")
def test_golden_directions(vector: dict) -> None:
    step = StepId(vector["client"], vector["incarnation"], vector["number"])
    key = direction_key(bytes.fromhex(VECTORS["run_key"]), step, vector["probe"])
    drawn = signs(key, 1003)
    assert key.hex() == vector["key"]
    assert "".join("+" if sign > 0 else "-" for sign in drawn[:64]) == vector["first_64"]
    assert blake2b(bits(drawn), digest_size=32).hexdigest() == vector["signs_1003"]


@pytest.mark.parametrize("vector", VECTORS["coefficients"], ids=lambda v: v["packed"][:16])
def test_golden_coefficients(vector: dict) -> None:
    packed = scaling.coefficients(
        vector["projected_gradients"],
        learning_rate=vector["learning_rate"],
        weight=vector["weight"],
        contributions=vector["contributions"],
    )
    assert packed.hex() == vector["packed"]


def test_golden_replay() -> None:
    assert golden.replayed_digest(VECTORS, Perturber()).hex() == VECTORS["digest"]
    assert named_key("run", VECTORS["run_seed"]).hex() == VECTORS["run_key"]
    chain = EMPTY_CHAIN
    theta = golden.golden_start(VECTORS["size"])
    for entry in golden.golden_entries(VECTORS):
        chain = chain_hash(chain, entry.version, entry.terms)
        assert entry.chain == chain
        for term in entry.terms:
            for probe, coefficient in enumerate(scaling.unpack_coefficients(term.coefficients)):
                key = direction_key(bytes.fromhex(VECTORS["run_key"]), term.step, probe)
                theta = theta - np.float32(coefficient) * signs(key, theta.size)
    assert parameter_digest(theta).hex() == VECTORS["digest"], "the slow definition gives the same parameters"
