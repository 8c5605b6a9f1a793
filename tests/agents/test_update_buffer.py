"""The buffer: the entry does not depend on the order of arrival, and its coefficients follow the stated formula."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents import AggregatorSettings
from hosfl_async.agents.update_buffer import Contribution, UpdateBuffer
from hosfl_async.messages import StepId, Term

steps = st.builds(StepId, st.sampled_from(["a", "a.b", "b", "client-10", "client-9"]), st.integers(1, 3), st.integers(1, 20))
weights = st.floats(1e-6, 1.0)
scalars = st.floats(-1e6, 1e6)


def contributions(probes: int, count_max: int) -> st.SearchStrategy[list[Contribution]]:
    one = st.builds(
        Contribution, steps, st.integers(0, 99), st.lists(scalars, min_size=probes, max_size=probes).map(tuple), st.integers(0, 9), weights
    )
    return st.lists(one, min_size=1, max_size=count_max, unique_by=lambda contribution: contribution.step)


def drained(arrived: list[Contribution] | tuple[Contribution, ...], settings: AggregatorSettings) -> tuple[Term, ...]:
    buffer = UpdateBuffer(settings)
    for contribution in arrived:
        buffer.add(contribution)
    return buffer.drain()[1]


both_divisors = pytest.mark.parametrize("divide_by", ["buffer_contributions", "weights"])


@both_divisors
@given(contributions(2, 4))
def test_the_entry_is_the_same_for_every_order_of_arrival(divide_by: str, arrived: list[Contribution]) -> None:
    settings = AggregatorSettings(buffer_contributions=4, divide_by=divide_by)
    entries = {drained(order, settings) for order in permutations(arrived)}
    assert len(entries) == 1
    names = [term.step for term in entries.pop()]
    assert names == sorted(names) == sorted(contribution.step for contribution in arrived)


@given(contributions(3, 7), st.data())
def test_sums_over_many_weights_do_not_depend_on_the_order_either(arrived: list[Contribution], data: st.DataObject) -> None:
    settings = AggregatorSettings(buffer_contributions=7, divide_by="weights")
    assert drained(arrived, settings) == drained(data.draw(st.permutations(arrived)), settings)


@both_divisors
@given(contributions(3, 5), st.floats(1e-6, 10.0), st.integers(5, 9))
def test_coefficients_follow_the_stated_formula(divide_by: str, arrived: list[Contribution], eta: float, k: int) -> None:
    """c = eta * s * v / (K P) in float64, rounded once to float32; K is nominal, or the sum of the weights in the buffer."""
    settings = AggregatorSettings(buffer_contributions=k, learning_rate=eta, divide_by=divide_by, coefficient_max=3.4e38)
    ordered = sorted(arrived, key=lambda contribution: (contribution.step.client, contribution.step.incarnation, contribution.step.number))
    total = np.float64(0.0)
    for contribution in ordered:
        total = total + np.float64(contribution.weight)
    divisor = np.float64(k) if divide_by == "buffer_contributions" else total
    for contribution, term in zip(ordered, drained(arrived, settings), strict=True):
        values = np.array(contribution.projected_gradients, np.float64)
        expected = (np.float64(eta) * np.float64(contribution.weight) * values / (divisor * np.float64(3))).astype("<f4")
        assert term.coefficients == expected.tobytes()
        assert (term.step, term.base_version) == (contribution.step, contribution.base_version)


def test_a_mean_of_equals_is_each_of_them() -> None:
    """K contributions of weight 1 move the parameters as far as their mean over K and P says: the 1/K is applied once."""
    settings = AggregatorSettings(buffer_contributions=4, learning_rate=1.0)
    arrived = [Contribution(StepId(name, 1, 1), 0, (8.0, 8.0), 0, 1.0) for name in "abcd"]
    total = sum(np.frombuffer(term.coefficients, "<f4").sum() for term in drained(arrived, settings))
    assert total == 8.0


def test_a_frozen_clients_term_is_empty() -> None:
    (term,) = drained([Contribution(StepId("a", 1, 1), 0, (), 0, 1.0)], AggregatorSettings(probes=0))
    assert term.coefficients == b""


@pytest.mark.parametrize("value", [1.1e39, -1e300, float("inf"), float("nan")])
@both_divisors
def test_what_does_not_fit_float32_is_refused_on_arrival_and_leaves_no_trace(divide_by: str, value: float) -> None:
    buffer = UpdateBuffer(AggregatorSettings(learning_rate=1.0, buffer_contributions=1, divide_by=divide_by, coefficient_max=3.4e38))
    with pytest.raises(OverflowError):
        buffer.add(Contribution(StepId("a", 1, 1), 0, (0.0, value, 1.0), 0, 1.0))
    assert len(buffer) == 0


@both_divisors
def test_no_coefficient_is_greater_than_the_settings_allow(divide_by: str) -> None:
    settings = AggregatorSettings(learning_rate=0.5, buffer_contributions=1, divide_by=divide_by, coefficient_max=4.0)
    buffer = UpdateBuffer(settings)
    with pytest.raises(OverflowError):
        buffer.add(Contribution(StepId("a", 1, 1), 0, (0.0, -16.1), 0, 1.0))
    gradient = np.array([0.0, 8.1], "<f4").tobytes()
    with pytest.raises(OverflowError):
        buffer.add(Contribution(StepId("a", 1, 1), 0, (), 0, 1.0, gradient))
    buffer.add(Contribution(StepId("a", 1, 1), 0, (0.0, -16.0), 0, 1.0))
    (term,) = buffer.drain()[1]
    assert np.frombuffer(term.coefficients, "<f4").tolist() == [0.0, -4.0]


@given(st.lists(st.tuples(st.floats(5e-324, 1.0), st.floats(-3.4e38, 3.4e38)), min_size=1, max_size=5))
def test_what_was_taken_can_always_be_committed(arrived: list) -> None:
    for divide_by in ("buffer_contributions", "weights"):
        buffer = UpdateBuffer(AggregatorSettings(learning_rate=1.0, buffer_contributions=5, divide_by=divide_by, coefficient_max=3.4e38))
        taken = 0
        for number, (weight, value) in enumerate(arrived):
            try:
                buffer.add(Contribution(StepId("a", 1, number), 0, (value,), 0, weight))
                taken += 1
            except OverflowError:
                pass
        if taken:
            assert len(buffer.drain()[1]) == taken


def test_it_takes_no_more_than_k_and_no_step_twice() -> None:
    buffer = UpdateBuffer(replace(AggregatorSettings(), buffer_contributions=2))
    first = Contribution(StepId("a", 1, 1), 0, (1.0,), 0, 1.0)
    buffer.add(first)
    with pytest.raises(ValueError, match="a/1"):
        buffer.add(first)
    buffer.add(Contribution(StepId("a", 1, 2), 0, (1.0,), 0, 1.0))
    assert buffer.full
    with pytest.raises(ValueError, match="full"):
        buffer.add(Contribution(StepId("a", 1, 3), 0, (1.0,), 0, 1.0))
    assert len(buffer.drain()[0]) == 2 and len(buffer) == 0
