"""Whether a step fits the devices of a fleet: into their memory, and through their links while they are there.

A message that takes longer than a device is ever there at a time would be received by luck, or never: such a fleet is refused before the
run begins, with the figures.
"""

from __future__ import annotations

from math import inf

from hosfl_async.errors import SettingsError
from hosfl_async.learning.flops import StepCost
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.devices import flops_per_s_of, memory_bytes_of
from hosfl_async.simulation.profiles import NETWORKS
from hosfl_async.simulation.settings import FleetGroup

_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
_HOURS = 24


def wants_cost(scenario: Scenario) -> bool:
    """Whether anything in the fleet depends on what a step costs."""
    return any(flops_per_s_of(group) or memory_bytes_of(group) or stay_s(group) < inf for group in scenario.fleet)


def stay_s(group: FleetGroup) -> float:
    """How long a device of the group is there at a time, by its habit and its accidents; the shorter of the two, in the mean if they are
    drawn. Infinite if it stays, or if a file says when it is there."""
    rule = group.availability
    by_habit = {"duty_cycle": rule.share * rule.period_s, "markov": rule.mean_on_s, "diurnal": rule.day_s / _HOURS}
    if rule.rule == "duty_cycle" and rule.share == 1:
        return group.dropout.mean_time_between_s or inf
    return min(by_habit.get(rule.rule, inf), group.dropout.mean_time_between_s or inf)


def check_fits(scenario: Scenario, cost: StepCost) -> None:
    """Raises ``SettingsError`` for the first group that a step does not fit."""
    for index, group in enumerate(scenario.fleet):
        if 0 < memory_bytes_of(group) < cost.peak_bytes:
            raise SettingsError(
                f"fleet[{index}]",
                "a step of the client half does not fit into the device",
                expected=f"memory_bytes of at least {cost.peak_bytes:,}",
                found=f"{memory_bytes_of(group):,.0f} ({group.device})",
            )
        if (takes_s := _transmission_s(scenario, group, cost)) > stay_s(group):
            raise SettingsError(
                f"fleet[{index}]",
                f"a step's message at the cut takes longer on the link ({group.network}) than a device is there at a time",
                expected=f"to be there for {takes_s:.4g} s at a time",
                found=f"{stay_s(group):.4g} s",
                mend="longer stays, a faster link, a smaller task.batch_size, or cut.activations and cut.duals in fewer bits",
            )


def _transmission_s(scenario: Scenario, group: FleetGroup, cost: StepCost) -> float:
    """Seconds that the longer of a step's two great messages is on a link that carries nothing else."""
    profile, network = NETWORKS.get(group.network), scenario.network
    ways = (
        (scenario.cut.activations, (profile or network).uplink_bytes_per_s, group.shared_uplink_bytes_per_s),
        (scenario.cut.duals, (profile or network).downlink_bytes_per_s, group.shared_downlink_bytes_per_s),
    )
    return max(cost.cut_values * _BITS[bits] / 8 / min(own or inf, shared or inf) for bits, own, shared in ways)
