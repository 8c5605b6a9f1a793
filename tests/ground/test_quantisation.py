"""Quantised tensors: how far a number may move, that it moves nowhere on average, and that the bytes are what the format says."""

from __future__ import annotations

from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hosfl_async.codec import Decoder, dequantise, encode, quantise, words_needed
from hosfl_async.codec.quantisation import LEVELS, round_stochastically
from hosfl_async.errors import CodecError
from hosfl_async.messages import CUT_DTYPES, DualVariable, EdgeClientInbox, StepId, Tensor

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)
ARRAYS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=FINITE))
MODEST = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)))
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(sorted(CUT_DTYPES))
INTEGERS = st.sampled_from(sorted(LEVELS))
FLAGS = st.booleans()
DECODER = Decoder(EdgeClientInbox)


def words(seed: int, count: int) -> np.ndarray:
    return np.random.Philox(key=seed).random_raw(count)


def sent(array: np.ndarray, dtype: str, seed: int, per_sample: bool = False) -> Tensor:
    return quantise(array, dtype, words(seed, words_needed(dtype, array.size)), per_sample=per_sample)  # type: ignore[arg-type]


def through_the_codec(tensor: Tensor) -> Tensor:
    return DECODER.decode(encode("split_server", DualVariable(StepId("a", 1, 1), 1, tensor)))[1].dual


@given(ARRAYS, DTYPES, FLAGS, SEEDS)
def test_every_finite_array_passes_the_codec_and_stays_finite(array: np.ndarray, dtype: str, per_sample: bool, seed: int) -> None:
    tensor = sent(array, dtype, seed, per_sample)
    assert through_the_codec(tensor) == tensor
    assert len(tensor.data) == tensor.bytes_expected
    numbers = dequantise(tensor)
    assert numbers.dtype == np.float32 and numbers.shape == array.shape
    assert np.isfinite(numbers).all()
    assert tensor == sent(array, dtype, seed, per_sample), "the same draws give the same bytes"


@given(ARRAYS, SEEDS)
def test_float32_is_the_identity(array: np.ndarray, seed: int) -> None:
    assert dequantise(sent(array, "float32", seed)).tobytes() == array.tobytes()


@given(ARRAYS, SEEDS)
def test_bfloat16_takes_one_of_the_two_neighbours(array: np.ndarray, seed: int) -> None:
    numbers = dequantise(sent(array, "bfloat16", seed))
    below = (np.abs(array).view(np.uint32) & 0xFFFF0000).view(np.float32)
    above = np.minimum((below.view(np.uint32).astype(np.int64) + 0x10000), 0x7F7F0000).astype(np.uint32).view(np.float32)
    exact = below == np.abs(array)
    assert ((np.abs(numbers) == below) | ((np.abs(numbers) == above) & ~exact)).all()
    assert (np.signbit(numbers) == np.signbit(array)).all()


@pytest.mark.parametrize("value", [1.0, 1.00390625, -1.0000001, 3.1415927, -1e-38, 1.5e-45, 1.99999988, 0.0])
def test_bfloat16_is_exact_on_average_over_all_its_draws(value: float) -> None:
    """All 65,536 draws, one for each element: the mean is the number itself, without any error."""
    array = np.full(2**16, value, np.float32)
    draws = np.arange(2**16, dtype="<u2").view("<u8")
    numbers = dequantise(quantise(array, "bfloat16", draws))
    assert sum(Fraction(float(number)) * int(count) for number, count in zip(*np.unique(numbers, return_counts=True), strict=True)) == (
        Fraction(float(np.float32(value))) * 2**16
    )


@given(MODEST, INTEGERS, FLAGS, SEEDS)
def test_integers_move_a_number_by_less_than_its_scale(array: np.ndarray, dtype: str, per_sample: bool, seed: int) -> None:
    tensor = sent(array, dtype, seed, per_sample)
    rows = array.reshape(len(array) if per_sample else 1, -1)
    scales = np.frombuffer(tensor.scales, "<f4").astype(np.float64)[:, None]
    numbers = dequantise(tensor).reshape(rows.shape).astype(np.float64)
    rounding = np.abs(numbers) * 2.0**-23 + 2.0**-149
    assert len(scales) == len(rows)
    assert (np.abs(numbers - rows) <= scales + rounding).all()
    assert (scales * LEVELS[dtype] >= np.abs(rows).max(axis=1, keepdims=True)).all()
    assert (scales * LEVELS[dtype] <= np.abs(rows).max(axis=1, keepdims=True) * (1 + 2.0**-22) + LEVELS[dtype] * 2.0**-149).all()
    assert (numbers[rows == 0] == 0).all()


@given(st.floats(-127, 127))
def test_rounding_is_without_bias(exact: float) -> None:
    """Draws spread evenly over their range: the mean misses the number by less than half their spacing."""
    strata = 4096
    draws = (np.arange(strata, dtype=np.uint64) * (2**32 // strata) + 2**31 // strata).astype(np.uint32)
    rounded = round_stochastically(np.full(strata, exact), draws)
    assert set(np.unique(rounded)) <= {np.floor(exact), np.ceil(exact)}
    assert abs(rounded.mean() - exact) <= 0.5 / strata + 2**-32 + 2**-45


@pytest.mark.parametrize("dtype", sorted(CUT_DTYPES - {"float32"}))
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_mean_over_many_keys_is_the_array(dtype: str, per_sample: bool) -> None:
    """4,000 keys: Hoeffding's bound at 10^-9 for each element, whose draws lie within one gap."""
    array = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    keys = 4000
    tensors = [sent(array, dtype, seed, per_sample) for seed in range(keys)]
    mean = np.mean([dequantise(tensor).astype(np.float64) for tensor in tensors], axis=0)
    if dtype == "bfloat16":
        gap = 2.0 ** (np.floor(np.log2(np.abs(array))) - 7)
    else:
        gap = np.broadcast_to(np.frombuffer(tensors[0].scales, "<f4").reshape(-1, 1), array.shape)
    assert (np.abs(mean - array) <= gap * np.sqrt(np.log(2e9) / (2 * keys))).all()
    assert len({tensor.data for tensor in tensors}) > 1


def test_the_bytes_of_each_format() -> None:
    array = np.array([[7.0, -7.0, 1.0], [0.0, -2.0, 3.0]], np.float32)
    one = np.array([1.0], "<f4").tobytes()
    assert sent(array, "int4", 0) == Tensor("int4", (2, 3), bytes([0x97, 0x01, 0x3E]), one)
    assert sent(array[:1], "int4", 0).data == bytes([0x97, 0x01]), "an odd element leaves the upper half of its byte at 0"
    whole = np.array([127.0, -127.0, -1.0], np.float32)
    assert sent(whole, "int8", 0) == Tensor("int8", (3,), bytes([127, 129, 255]), one)
    assert sent(array, "bfloat16", 0).data == bytes.fromhex("e040 e0c0 803f 0000 00c0 4040")
    assert sent(array * 2, "int4", 0, per_sample=True).scales == np.array([2.0, 6 / 7], "<f4").tobytes()


@pytest.mark.parametrize("dtype", sorted(CUT_DTYPES))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_on_arrival(dtype: str, value: float) -> None:
    array = np.array([[1.0, value], [2.0, 3.0]], np.float32)
    for per_sample in (False, True):
        with pytest.raises(CodecError, match="expected finite"):
            through_the_codec(sent(array, dtype, 0, per_sample))


ONE, TWO, THREE = (np.ones(count, "<f4").tobytes() for count in (1, 2, 3))


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (Tensor("int8", (2, 3), bytes(6)), "1 or 2 float32 scales, found 0 bytes"),
        (Tensor("int8", (2, 3), bytes(6), THREE), "1 or 2 float32 scales, found 12 bytes"),
        (Tensor("int8", (2, 3), bytes(5), ONE), "expected 6 bytes for int8"),
        (Tensor("int4", (3, 3), bytes(4), ONE), "expected 5 bytes for int4"),
        (Tensor("int4", (2, 3), bytes(3), np.array([-1.0], "<f4").tobytes()), "no negative scale"),
        (Tensor("int4", (2, 3), bytes(3), np.array([np.inf], "<f4").tobytes()), r"dual.scales: expected finite"),
        (Tensor("float32", (2,), bytes(8), ONE), "no scales for float32, found 4 bytes"),
        (Tensor("bfloat16", (2,), bytes(4), ONE), "no scales for bfloat16"),
        (Tensor("bfloat16", (2,), bytes(3)), "expected 4 bytes for bfloat16"),
        (Tensor("bfloat16", (2,), bytes([0, 0, 0x80, 0x7F])), "finite numbers, found one that is not at element 1"),
    ],
)
def test_unsound_quantised_tensors_are_refused(tensor: Tensor, problem: str) -> None:
    with pytest.raises(CodecError, match=problem):
        through_the_codec(tensor)


@given(SHAPES, st.data())
def test_whatever_codes_and_scales_arrive_the_numbers_are_finite(shape: tuple[int, ...], data: st.DataObject) -> None:
    """The codec lets any codes pass, also the lowest one that we never write, under any finite scale."""
    dtype = data.draw(INTEGERS)
    size = len(Tensor(dtype, shape, b"").shape) and Tensor(dtype, shape, b"").bytes_expected  # type: ignore[arg-type]
    scale = data.draw(st.floats(0, width=32, allow_infinity=False))
    codes = data.draw(st.binary(min_size=size, max_size=size))
    tensor = through_the_codec(Tensor(dtype, shape, codes, np.array([scale], "<f4").tobytes()))  # type: ignore[arg-type]
    numbers = dequantise(tensor)
    assert numbers.size == prod(shape) and np.isfinite(numbers).all()
