"""Whether a step fits the devices of a fleet, into their memory and through their links while they are there, and its messages the codec.

A message that takes longer than a device is ever there at a time would be received by luck, or never; one that is longer than any may be
would be refused and asked for again for ever. Such a run is refused before it begins, with the figures.
"""

from __future__ import annotations

from math import inf, prod

from hosfl_async.agents.settings import DENSE
from hosfl_async.errors import SettingsError
from hosfl_async.learning.flops import StepCost
from hosfl_async.learning.split_model import SplitModel
from hosfl_async.learning.update_rule import MOMENTS
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.devices import flops_per_s_of, memory_bytes_of
from hosfl_async.simulation.profiles import NETWORKS
from hosfl_async.simulation.settings import FleetGroup

_BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
_HOURS = 24
_AROUND = 4096
"""Bytes of a great message beside what is counted, at most: names, digests, shapes."""


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


def check_messages(scenario: Scenario, model: SplitModel) -> None:
    """Raises ``SettingsError`` if the longest message of a run is longer than the codec lets pass."""
    batch, moments = scenario.task.batch_size, MOMENTS[scenario.update.rule]
    passes = 1 + scenario.shared.probes if scenario.shared.estimator == "server_losses" else 1
    rows = passes * batch * (model.input_shape[0] if model.sequences else 1)
    labels = 8 * batch + (2 * batch if model.sequences else 0)
    snapshot, kept = 4 * model.client.size * (1 + moments), scenario.aggregator.buffer_contributions
    entry = 4 * model.client.size * kept if scenario.shared.estimator in DENSE else 0
    cut = max(_BITS[bits] for bits in (scenario.cut.activations, scenario.cut.duals)) * rows * prod(model.cut_shape) // 8 + labels
    if scenario.task.model.cut == "end":
        cut = 0
    beside = f" with {moments} moment{'s' * (moments > 1)} each" if moments else ""
    for needed, what, mend in (
        (snapshot, f"the client half, {model.client.size:,} numbers{beside},", "fewer learnt numbers, update.rule with fewer moments"),
        (entry, f"an entry of {kept} dense contributions of {model.client.size:,} numbers", "a smaller aggregator.buffer_contributions"),
        (cut, f"a batch at the cut, {rows * prod(model.cut_shape):,} numbers,", "a smaller task.batch_size, fewer bits in [cut]"),
    ):
        if needed + _AROUND > scenario.codec.message_bytes_max:
            raise SettingsError(
                "codec.message_bytes_max",
                f"{what} may have to travel whole, and would be refused by whoever gets it",
                expected=f"at least {needed + _AROUND:,}",
                found=f"{scenario.codec.message_bytes_max:,}",
                mend=f"{mend}, or a larger limit",
            )
