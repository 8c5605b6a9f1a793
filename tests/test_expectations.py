"""Budgets: every bound of ``[expect]`` is read from the summary, and a run over one is told its figure and the key."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from hosfl_async.checks import unmet_expectations
from hosfl_async.scenario import Expectations

SUMMARY: dict[str, Any] = {
    "host": "simulation",
    "accuracy_final": 0.5,
    "accuracy_frozen_control": 0.5,
    "digests_agree": True,
    "staleness": {"mean": 5.5, "p50": 5, "p99": 5, "max": 5},
    "bytes": {"activations": 5, "labels": 5, "duals": 5, "scalars": 5, "log": 5, "control": 5},
    "modelled_time_s": 5.5,
    "energy_joules": 5.5,
    "counts": dict.fromkeys(("stale", "refused", "smashed_refused", "dropped", "duplicate", "retried"), 5),
}
BOUNDS = [each.name for each in fields(Expectations) if each.name != "digests_agree"]


def figure_of(name: str) -> float:
    return 0.5 if name.startswith("accuracy") else 30 if name == "bytes_max" else 5.5 if SOFT.intersection({name}) else 5


SOFT = {"staleness_mean_max", "modelled_time_s_max", "energy_joules_max"}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_holds_up_to_its_figure_and_not_beyond(name: str) -> None:
    figure, beyond = figure_of(name), 0.25 if name.endswith("_max") else -0.25
    assert unmet_expectations(Expectations(**{name: figure}), SUMMARY) == ()
    [told] = unmet_expectations(Expectations(**{name: figure - beyond}), SUMMARY)
    assert told.startswith(f"expect.{name} = ")
    assert told.endswith(f"is {figure:g}")


def test_nothing_is_expected_by_default_but_that_digests_agree() -> None:
    assert unmet_expectations(Expectations(), SUMMARY) == ()
    [told] = unmet_expectations(Expectations(), {**SUMMARY, "digests_agree": False})
    assert told == "expect.digests_agree = true, but digests_agree is false"
