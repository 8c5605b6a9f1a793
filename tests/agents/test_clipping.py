"""Clipping and participation: stated formulas, bounds that hold, and no trace of the order of arrival."""

from __future__ import annotations

from itertools import permutations
from math import inf
from statistics import median_high

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_aggregator import host

from hosfl_async.agents.clipping import Clipping
from hosfl_async.agents.participation import participation_weight
from hosfl_async.agents.settings import ClippingSettings, ParticipationSettings
from hosfl_async.messages import EntryCommitted, ProjectedGradients, StepId, Term
from hosfl_async.scaling import clipped, unpack_coefficients

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, max_size=9), st.floats(0, exclude_min=True, allow_nan=False))
def test_clipped_values_are_within_the_bound_and_others_untouched(values: list[float], bound: float) -> None:
    for value, result in zip(values, clipped(values, bound), strict=True):
        assert abs(result) <= bound and (result == value or (abs(value) > bound and result == (bound if value > 0 else -bound)))
    assert clipped(values, inf) == tuple(values)


@given(st.lists(st.lists(finite, max_size=4), max_size=30), st.integers(1, 9), st.integers(1, 12), st.floats(1.01, 10))
def test_the_bound_is_a_multiple_of_the_median_of_the_latest_scalars(entries: list, window: int, window_min: int, factor: float) -> None:
    clipping = Clipping(ClippingSettings(rule="median", factor=factor, window=window, window_min=window_min))
    seen: list[float] = []
    for values in entries:
        clipping.learn("a", values)
        assert not clipping.holds
        seen += map(abs, values)
        latest = seen[-window:]
        median = median_high(latest) if latest else 0.0
        assert clipping.bound == (factor * median if len(latest) >= window_min and median else inf)
        assert len(clipping._recent) == len(clipping._sorted) <= window


@given(st.lists(st.floats(0.5, 2.0), min_size=51, max_size=100), st.data())
def test_fewer_than_half_wild_scalars_do_not_move_the_bound_far(honest: list[float], data: st.DataObject) -> None:
    wild = data.draw(st.lists(st.floats(1e3, 1e30), max_size=len(honest) - 2))
    clipping = Clipping(ClippingSettings(rule="median", factor=5.0, window=1000, window_min=1))
    clipping.learn("a", data.draw(st.permutations(honest + wild)))
    assert 0.5 * 5.0 <= clipping.bound <= 2.0 * 5.0


def test_a_fixed_bound_bites_is_counted_and_stands_in_the_entry() -> None:
    made = host(clipping=ClippingSettings(rule="fixed", bound=0.25), learning_rate=1.0)
    made.say("a", ProjectedGradients(StepId("a", 1, 1), 0, (8.0, -0.125)))
    made.say("b", ProjectedGradients(StepId("b", 1, 1), 0, (0.125, -0.25)))
    assert made.agent.counts["clipped"] == 1
    terms = made.records[-1].entry.terms
    assert terms == made.agent.log.after(0, 1)[0].terms
    expected = host(learning_rate=1.0)
    expected.say("a", ProjectedGradients(StepId("a", 1, 1), 0, (0.25, -0.125)))
    expected.say("b", ProjectedGradients(StepId("b", 1, 1), 0, (0.125, -0.25)))
    assert terms == expected.records[-1].entry.terms and expected.agent.counts["clipped"] == 0


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=9, max_size=9), st.sampled_from(["capped", "inverse"]))
def test_entries_do_not_depend_on_the_order_of_arrival_within_them(values: list, rule: str) -> None:
    def entries(order: tuple[int, ...]) -> list[tuple[Term, ...]]:
        made = host(
            buffer_contributions=3,
            clipping=ClippingSettings(rule="median", factor=1.5, window=8, window_min=2),
            participation=ParticipationSettings(rule=rule),  # type: ignore[arg-type]
        )
        for step in range(3):
            for client in order:
                made.say("abc"[client], ProjectedGradients(StepId("abc"[client], 1, step + 1), step, values[3 * step + client]))
        return [record.entry.terms for record in made.records if isinstance(record, EntryCommitted)]

    found = [entries(order) for order in permutations(range(3))]
    assert len(found[0]) == 3 and all(one == found[0] for one in found)


# -- before there is a scale --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0.5, 2.0)), max_size=20), st.integers(1, 6))
def test_nothing_counts_until_so_many_devices_were_seen_once_each(heard: list, devices: int) -> None:
    clipping = Clipping(ClippingSettings(rule="median", factor=2.0, held_devices=devices))
    first: dict[str, float] = {}
    for device, value in heard:
        if len(first) < devices:
            assert clipping.holds and clipping.bound == inf
            first.setdefault(device, value)
        else:
            assert not clipping.holds and clipping.bound < inf
        clipping.learn(device, [value])
        if len(first) == devices and len(clipping._sorted) == devices:
            assert clipping.bound == 2.0 * median_high(first.values())
    assert len(clipping._seen) <= devices


@pytest.mark.parametrize("divide_by", ["buffer_contributions", "weights"])
@pytest.mark.parametrize("directions", ["per_step", "per_version"])
def test_liars_who_are_the_most_of_the_first_entry_move_nothing_and_do_not_set_the_scale(directions: str, divide_by: str) -> None:
    """Three of seven lie, and are all of the first entry: a median over it, and a bound learnt from it, would be theirs."""
    rule = ClippingSettings(rule="median", factor=2.0, window_min=2, held_devices=7)
    names, lying = "abcdefg", "abc"
    changes = {"clipping": rule, "buffer_contributions": 3, "learning_rate": 1.0, "location": "median", "directions": directions}
    made = host(names, divide_by=divide_by, **changes, client_steps=10_000)
    for number in (1, 2, 3):
        for name in names:
            scale = 1e6 if name in lying else 1.0
            made.say(name, ProjectedGradients(StepId(name, 1, number), made.agent.log.head, (scale, -scale)))
    entries = [record.entry.terms for record in made.records if isinstance(record, EntryCommitted)]
    held = [term for terms in entries for term in terms if not term.coefficients]
    assert made.agent.counts["held"] == 9, "the seventh is heard in the third entry"
    assert [term.coefficients for terms in entries[:3] for term in terms] == [b""] * 9 == [term.coefficients for term in held[:9]]
    sizes = [abs(value) for terms in entries[3:] for term in terms for value in unpack_coefficients(term.coefficients)]
    assert sizes and max(sizes) <= 2.0, "at most twice the honest median"
    assert made.agent.counts["accepted"] == 21


# -- participation ------------------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.floats(1e-3, 1e6), st.floats(0.1, 10), st.floats(1, 10))
def test_factors_are_positive_bounded_and_never_grow_with_the_steps(steps: int, mean: float, cap: float, boost: float) -> None:
    for rule, most in (("any", 1.0), ("capped", 1.0), ("inverse", boost)):
        settings = ParticipationSettings(rule=rule, cap=cap, boost_max=boost)  # type: ignore[arg-type]
        factor = participation_weight(steps, mean, settings)
        assert 0.0 < participation_weight(steps + 1, mean, settings) <= factor <= most
    assert participation_weight(1, 1.0, ParticipationSettings(rule="inverse")) == 1.0


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_inverse_weights_give_clients_of_steady_speeds_about_the_same_influence(speeds: list[int]) -> None:
    """Each client takes as many steps in a period as it is fast; boost_max, 4, is not reached."""
    steps, influence = [0] * len(speeds), [0.0] * len(speeds)
    for _ in range(100):
        for client, speed in enumerate(speeds):
            for _ in range(speed):
                contributors = sum(map(bool, steps)) + (steps[client] == 0)
                steps[client] += 1
                weight = participation_weight(steps[client], sum(steps) / contributors, ParticipationSettings(rule="inverse"))
                influence[client] += weight
    assert max(influence) / min(influence) < 1.1


@pytest.mark.parametrize("rule", ["capped", "inverse"])
def test_what_a_client_has_contributed_survives_a_restart(rule: str) -> None:
    changes = {"participation": ParticipationSettings(rule=rule, cap=1.0), "buffer_contributions": 1}  # type: ignore[arg-type]
    made = host(**changes)
    for number in range(1, 6):
        made.contribute("a", number, made.agent.log.head)
    made.contribute("b", 1, made.agent.log.head)
    again = made.restarted(**changes)
    for one in (made, again):
        one.contribute("a", 6, one.agent.log.head)
    assert made.records[-1] == again.records[-1], "the same weight, from the log alone"
    fresh = host(**changes)
    fresh.contribute("a", 6)
    assert fresh.records[-1].entry.terms[0].coefficients != made.records[-1].entry.terms[0].coefficients
