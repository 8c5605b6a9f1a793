"""A step must fit the devices and its messages the codec: what could never be received is refused with the figures, before the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hosfl_async import jobs
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.fitting import stay_s
from hosfl_async.codec import encode
from hosfl_async.errors import SettingsError
from hosfl_async.learning.settings import CutSettings
from hosfl_async.messages import Snapshot
from hosfl_async.scenario import Scenario, scenario_of_tables
from hosfl_async.simulation.settings import AvailabilitySettings, DropoutSettings, FleetGroup


def fleet(**group) -> Scenario:
    tables = {"name": "fits", "fleet": [{"count": 5, **group}], "task": {"batch_size": 32, "model": {"client_widths": [64]}}}
    return scenario_of_tables(tables)


LORA = {"network": "lora_like"}
"""684 bytes a second: 32 x 64 float32 take 12 s."""


@pytest.mark.parametrize(
    "habit",
    [
        {"availability": {"rule": "duty_cycle", "period_s": 100.0, "share": 0.1}},
        {"availability": {"rule": "markov", "mean_on_s": 11.0}},
        {"availability": {"rule": "diurnal", "day_s": 240.0}},
        {"dropout": {"mean_time_between_s": 11.0}},
    ],
)
def test_a_message_longer_than_any_stay_is_refused_with_figures(habit: dict) -> None:
    with pytest.raises(SettingsError, match=r"fleet\[0\]: a step's message .*lora_like.*expected to be there for 11\.98 s.*found 1[01] s"):
        _ = Parts(fleet(**LORA, **habit)).forward_flops


@pytest.mark.parametrize(
    "group",
    [
        {"availability": {"rule": "duty_cycle", "period_s": 100.0, "share": 0.1}},
        {**LORA, "availability": {"rule": "duty_cycle", "period_s": 100.0, "share": 0.13}},
        {**LORA},
    ],
)
def test_a_message_that_fits_is_not(group: dict) -> None:
    assert Parts(fleet(**group)).forward_flops >= 0


def test_fewer_bits_fit_where_more_do_not() -> None:
    slow = {**LORA, "availability": {"rule": "duty_cycle", "period_s": 100.0, "share": 0.1}}
    whole = fleet(**slow)
    for cut in (CutSettings(activations="int4"), CutSettings(duals="int4")):
        with pytest.raises(SettingsError):
            _ = Parts(replace(whole, cut=cut)).forward_flops
    assert Parts(replace(whole, cut=CutSettings(activations="int4", duals="int8"))).forward_flops > 0


def test_the_shorter_of_habit_and_accident_counts() -> None:
    assert stay_s(FleetGroup()) == float("inf")
    cycle = AvailabilitySettings(rule="duty_cycle", period_s=100.0, share=0.5)
    assert stay_s(FleetGroup(availability=cycle)) == 50.0
    assert stay_s(FleetGroup(availability=cycle, dropout=DropoutSettings(mean_time_between_s=20.0))) == 20.0
    assert stay_s(FleetGroup(availability=AvailabilitySettings(rule="duty_cycle", share=1.0))) == float("inf")


def small_messages(bytes_max: int, **changes: Any) -> Scenario:
    tables: dict[str, Any] = {
        "name": "fits",
        "fleet": [{"count": 5}],
        "task": {"batch_size": 4, "model": {"client_widths": [64], "server_widths": []}},
        "codec": {"message_bytes_max": bytes_max, "frame_bytes_max": 1024},
    }
    return scenario_of_tables(tables | changes)


WEIGHTS = 64 * 64 + 64
AROUND = 4096


@pytest.mark.parametrize(("rule", "values"), [("sgd", 1), ("momentum", 2), ("adamw", 3)])
def test_a_client_half_that_no_message_can_carry_is_refused_before_the_run(rule: str, values: int) -> None:
    """A snapshot that its receiver refuses would be asked for again for ever."""
    needed = 4 * values * WEIGHTS + AROUND
    assert Parts(small_messages(needed, update={"rule": rule})).learners
    with pytest.raises(
        SettingsError, match=rf"codec\.message_bytes_max: the client half, 4,160 n.*at least {needed:,}; found {needed - 1:,}"
    ):
        _ = Parts(small_messages(needed - 1, update={"rule": rule})).learners


def test_an_entry_of_dense_contributions_that_no_message_can_carry_is_refused_before_the_run() -> None:
    """Each contribution of an entry has its own gradient there, and an entry travels whole."""
    needed, entry = 4 * 3 * WEIGHTS + AROUND, {"aggregator": {"buffer_contributions": 3}}
    assert Parts(small_messages(needed, method="sfl_first_order", **entry)).learners
    with pytest.raises(SettingsError, match=rf"an entry of 3 dense contributions.*at least {needed:,}.*buffer_contributions"):
        _ = Parts(small_messages(needed - 1, method="sfl_first_order", **entry)).learners
    assert Parts(small_messages(needed - 1, **entry)).learners, "scalars are few"


def test_a_batch_that_no_message_can_carry_is_refused_before_the_run() -> None:
    task = {"batch_size": 200, "model": {"client_widths": [64], "server_widths": []}}
    with pytest.raises(SettingsError, match=r"a batch at the cut, 12,800 numbers, .*task\.batch_size"):
        _ = Parts(small_messages(50_000, task=task)).learners
    assert Parts(small_messages(50_000, task=task, cut={"activations": "bfloat16", "duals": "int8"})).learners


def test_the_longest_snapshot_is_as_long_as_counted() -> None:
    """What is counted bounds what is sent, and not by far."""
    parts = Parts(small_messages(2**20, update={"rule": "adamw"}))
    aggregator = parts.aggregator_learner()
    taken = aggregator.run(jobs.TakeSnapshot())
    sent = encode("aggregator", Snapshot(taken.version, taken.parameters, taken.digest, bytes(32), taken.version))
    assert 12 * WEIGHTS < len(sent) <= 12 * WEIGHTS + AROUND
