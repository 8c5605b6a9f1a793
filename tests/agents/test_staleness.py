"""Staleness rules: in [0, 1], never increasing, 1 for the fresh, and the formulas of the sources."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents import StalenessSettings
from hosfl_async.agents.staleness import RULES, staleness_weight

policies = st.builds(
    StalenessSettings,
    rule=st.sampled_from(sorted(RULES)),
    exponent=st.floats(0, 50),
    hinge_slope=st.floats(1e-3, 1e3),
    hinge_from=st.integers(0, 50),
    versions_max=st.integers(0, 200),
)
taus = st.integers(0, 10**6)


@given(policies, taus, taus)
def test_a_weight_is_in_range_and_never_increases(policy: StalenessSettings, one: int, other: int) -> None:
    near, far = sorted((one, other))
    assert 0.0 <= staleness_weight(far, policy) <= staleness_weight(near, policy) <= staleness_weight(0, policy) == 1.0


@given(policies)
def test_the_fresh_count_fully(policy: StalenessSettings) -> None:
    assert staleness_weight(0, policy) == 1.0


@pytest.mark.parametrize(
    ("policy", "weights"),
    [
        (StalenessSettings(rule="constant"), {0: 1.0, 1: 1.0, 1000: 1.0}),
        (StalenessSettings(rule="polynomial", exponent=0.5), {0: 1.0, 3: 0.5, 8: 1 / 3, 99: 0.1}),
        (StalenessSettings(rule="polynomial", exponent=2.0), {1: 0.25, 9: 0.01}),
        (StalenessSettings(rule="hinge", hinge_slope=10, hinge_from=4), {4: 1.0, 5: 1 / 11, 6: 1 / 21, 14: 1 / 101}),
        (StalenessSettings(rule="cutoff", versions_max=3), {3: 1.0, 4: 0.0}),
    ],
    ids=lambda value: value.rule if isinstance(value, StalenessSettings) else "",
)
def test_the_formulas(policy: StalenessSettings, weights: dict[int, float]) -> None:
    assert {tau: staleness_weight(tau, policy) for tau in weights} == pytest.approx(weights, rel=1e-15)


def test_every_rule_that_settings_name_exists() -> None:
    assert set(RULES) == set(get_args(get_type_hints(StalenessSettings)["rule"]))
