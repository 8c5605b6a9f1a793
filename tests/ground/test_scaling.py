"""The one scaling rule: formula, single divisions, one rounding, overflow."""

import struct
from fractions import Fraction
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.scaling import coefficients, scaled_gradient, unpack_coefficients

gradients = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)
rates = st.floats(1e-6, 10)
weights = st.floats(0, 1)
divisors = st.integers(1, 1000)


def to_float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


@given(gradients, rates, weights, divisors)
def test_each_coefficient_is_eta_s_v_over_k_p(values: list[float], rate: float, weight: float, divisor: int) -> None:
    packed = coefficients(values, learning_rate=rate, weight=weight, contributions=divisor)
    expected = [to_float32(rate * weight * value / (divisor * len(values))) for value in values]
    assert packed == struct.pack(f"<{len(values)}f", *expected)


@given(gradients, rates, weights, divisors)
def test_it_lies_within_one_float32_rounding_of_the_exact_quotient(values: list[float], rate: float, weight: float, divisor: int) -> None:
    packed = coefficients(values, learning_rate=rate, weight=weight, contributions=divisor)
    for value, coefficient in zip(values, unpack_coefficients(packed), strict=True):
        exact = Fraction(rate) * Fraction(weight) * Fraction(value) / (divisor * len(values))
        assert abs(Fraction(coefficient) - exact) <= abs(exact) * Fraction(1, 2**23) + Fraction(1, 2**149)


def test_k_and_p_each_divide_once() -> None:
    """A published implementation divides by K twice; with powers of two every factor shows exactly."""
    four = coefficients([1.0] * 4, learning_rate=1.0, weight=1.0, contributions=8)
    assert unpack_coefficients(four) == (1 / 32,) * 4
    assert unpack_coefficients(coefficients([1.0] * 2, learning_rate=1.0, weight=1.0, contributions=8)) == (1 / 16,) * 2
    assert unpack_coefficients(coefficients([1.0] * 4, learning_rate=1.0, weight=1.0, contributions=4)) == (1 / 16,) * 4
    assert unpack_coefficients(coefficients([1.0] * 4, learning_rate=0.5, weight=0.25, contributions=8)) == (1 / 256,) * 4


@given(st.permutations(range(6)), st.lists(st.floats(-10, 10), min_size=6, max_size=6))
def test_a_coefficient_does_not_depend_on_its_neighbours(order: list[int], values: list[float]) -> None:
    straight = unpack_coefficients(coefficients(values, learning_rate=0.1, weight=0.7, contributions=5))
    shuffled = unpack_coefficients(coefficients([values[i] for i in order], learning_rate=0.1, weight=0.7, contributions=5))
    assert shuffled == tuple(straight[i] for i in order)


@given(gradients, rates, weights, divisors)
def test_the_sign_is_the_gradients(values: list[float], rate: float, weight: float, divisor: int) -> None:
    for value, coefficient in zip(
        values, unpack_coefficients(coefficients(values, learning_rate=rate, weight=weight, contributions=divisor)), strict=True
    ):
        assert value * coefficient >= 0


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), rates, weights, divisors)
def test_a_dense_gradient_is_scaled_element_by_element_without_probes(
    values: list[float], rate: float, weight: float, divisor: int
) -> None:
    packed = scaled_gradient(struct.pack(f"<{len(values)}f", *values), learning_rate=rate, weight=weight, contributions=divisor)
    singly = [coefficients([value], learning_rate=rate, weight=weight, contributions=divisor) for value in values]
    assert packed == b"".join(singly)


def test_a_dense_gradient_beyond_float32_is_refused() -> None:
    with pytest.raises(OverflowError):
        scaled_gradient(struct.pack("<2f", 0.0, 3e38), learning_rate=2.0, weight=1.0, contributions=1)


def test_a_frozen_client_has_no_coefficients() -> None:
    assert coefficients([], learning_rate=1.0, weight=1.0, contributions=5) == b""
    assert unpack_coefficients(b"") == ()


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e39, -1e39, 1e308])
def test_what_does_not_fit_float32_is_refused(value: float) -> None:
    with pytest.raises(OverflowError):
        coefficients([0.0, value], learning_rate=10.0, weight=1.0, contributions=1)


@pytest.mark.parametrize("place", [0, 1, 99_999])
@pytest.mark.parametrize("value", [nan, inf, -inf, 3e38, -3e38])
def test_one_element_of_a_dense_gradient_that_does_not_fit_is_found_wherever_it_is(value: float, place: int) -> None:
    values = [0.0] * 100_000
    values[place] = value
    with pytest.raises(OverflowError):
        scaled_gradient(struct.pack("<100000f", *values), learning_rate=10.0, weight=1.0, contributions=1)


def test_a_rate_that_overflows_is_refused_and_nothing_is_warned_of() -> None:
    with pytest.raises(OverflowError):
        scaled_gradient(struct.pack("<2f", 1.0, 0.0), learning_rate=1e308, weight=1e308, contributions=1)


def test_a_client_half_without_numbers_has_an_empty_gradient() -> None:
    assert scaled_gradient(b"", learning_rate=1.0, weight=1.0, contributions=1) == b""


@given(st.lists(st.floats(-4.0, 4.0, width=32), min_size=1, max_size=8), st.floats(0.25, 8.0))
def test_what_is_beyond_a_bound_is_refused_and_nothing_else(values: list[float], bound: float) -> None:
    packed = struct.pack(f"<{len(values)}f", *values)
    whole = {"learning_rate": 1.0, "weight": 1.0, "contributions": 1.0, "bound": bound}
    for scaled in (lambda: scaled_gradient(packed, **whole), lambda: coefficients([v * len(values) for v in values], **whole)):
        if max(map(abs, values)) <= bound:
            assert scaled() == packed
        else:
            with pytest.raises(OverflowError):
                scaled()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_unpacking_is_exact(values: list[float]) -> None:
    assert list(unpack_coefficients(struct.pack(f"<{len(values)}f", *values))) == values
