"""Shared directions: contributions of one base version become one set of coefficients, by the stated rule, in any order of arrival."""

from __future__ import annotations

from itertools import permutations
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents import AggregatorSettings
from hosfl_async.agents.update_buffer import Contribution, UpdateBuffer
from hosfl_async.messages import StepId, Term
from hosfl_async.scaling import combined, unpack_coefficients

LOCATIONS = ["mean", "median", "trimmed_mean"]
scalars = st.floats(-1e6, 1e6)
weights = st.floats(1e-6, 4.0)
pairs = st.tuples(scalars, scalars)
weighed = st.lists(st.tuples(weights, pairs), min_size=1, max_size=7)


def contributions(count_max: int) -> st.SearchStrategy[list[Contribution]]:
    steps = st.builds(StepId, st.sampled_from("abcd"), st.integers(1, 2), st.integers(1, 9))
    one = st.builds(Contribution, steps, st.integers(0, 2), pairs, st.integers(0, 9), weights)
    return st.lists(one, min_size=1, max_size=count_max, unique_by=lambda contribution: contribution.step)


def drained(arrived: Any, **changes: Any) -> tuple[Term, ...]:
    buffer = UpdateBuffer(AggregatorSettings(**{"directions": "per_version", "buffer_contributions": 5, "learning_rate": 1.0, **changes}))
    for one in arrived:
        buffer.add(one)
    return buffer.drain()[1]


@given(weighed, st.sampled_from(LOCATIONS), st.data())
def test_the_order_does_not_matter(arrived: list, location: str, data: st.DataObject) -> None:
    assert combined(arrived, location, 0.2) == combined(data.draw(st.permutations(arrived)), location, 0.2)


@given(weighed, st.floats(0.0, 0.49))
def test_each_location_is_what_its_name_says(arrived: list, trim: float) -> None:
    total, mean = combined(arrived, "mean")
    assert total == pytest.approx(sum(weight for weight, _ in arrived))
    for probe in range(2):
        column = [values[probe] for _, values in arrived]
        near = {"rel": 1e-9, "abs": 1e-6}
        assert mean[probe] == pytest.approx(np.average(column, weights=[weight for weight, _ in arrived]), **near)
        assert combined(arrived, "median")[1][probe] == pytest.approx(median(column), **near)
        cut = int(len(column) * trim)
        kept = sorted(column)[cut : len(column) - cut]
        assert combined(arrived, "trimmed_mean", trim)[1][probe] == pytest.approx(np.mean(kept), **near)


@given(st.lists(pairs, min_size=3, max_size=9), st.data())
def test_less_than_half_of_the_clients_cannot_move_the_median_out_of_the_others(honest: list, data: st.DataObject) -> None:
    wild = data.draw(st.lists(st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300)), max_size=len(honest) - 1))
    _, found = combined([(1.0, values) for values in data.draw(st.permutations(honest + wild))], "median")
    for probe in range(2):
        column = [values[probe] for values in honest]
        assert min(column) - 1e-9 <= found[probe] <= max(column) + 1e-9


@given(contributions(4), st.sampled_from(LOCATIONS), st.sampled_from(["buffer_contributions", "weights"]))
def test_the_entry_is_the_same_for_every_order_of_arrival(arrived: list[Contribution], location: str, divide_by: str) -> None:
    entries = {drained(order, location=location, divide_by=divide_by) for order in permutations(arrived)}
    assert len(entries) == 1
    terms = entries.pop()
    assert [term.step for term in terms] == sorted(one.step for one in arrived), "every step is in the entry by its name"
    for version in {term.base_version for term in terms}:
        lengths = [len(term.coefficients) for term in terms if term.base_version == version]
        assert lengths == [8, *[0] * (len(lengths) - 1)], "P coefficients for each base version"


@given(contributions(5))
def test_a_mean_moves_theta_as_far_as_the_terms_would_one_by_one(arrived: list[Contribution]) -> None:
    """sum over i of s_i v_i / (K P): the same total for each base version, whoever carries it."""
    together, alone = drained(arrived), drained(arrived, directions="per_step")
    for version in {one.base_version for one in arrived}:
        sums = [
            np.sum(
                [np.array(unpack_coefficients(term.coefficients)) for term in terms if term.base_version == version and term.coefficients],
                axis=0,
            )
            for terms in (together, alone)
        ]
        assert sums[0] == pytest.approx(sums[1], rel=1e-4, abs=1.0)


def test_one_contribution_alone_is_scaled_as_ever() -> None:
    one = [Contribution(StepId("a", 1, 1), 3, (0.1, -7.3), 0, 0.7)]
    assert all(drained(one, location=location) == drained(one, directions="per_step") for location in LOCATIONS)


@given(st.lists(st.tuples(weights, st.floats(-3.4e38, 3.4e38)), min_size=1, max_size=5), st.sampled_from(LOCATIONS))
def test_what_was_taken_can_always_be_committed(arrived: list, location: Any) -> None:
    for divide_by in ("buffer_contributions", "weights"):
        settings = AggregatorSettings(
            learning_rate=1.0,
            buffer_contributions=5,
            divide_by=divide_by,
            directions="per_version",
            location=location,
            coefficient_max=3.4e38,
        )
        buffer, taken = UpdateBuffer(settings), 0
        for number, (weight, value) in enumerate(arrived):
            try:
                buffer.add(Contribution(StepId("a", 1, number), 0, (value,), 0, weight))
                taken += 1
            except OverflowError:
                pass
        if taken:
            assert len(buffer.drain()[1]) == taken
