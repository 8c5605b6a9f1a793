"""Settings of the modelled world that cannot stand together: devices, habits, links, faults."""

from __future__ import annotations

from collections.abc import Iterator

from hosfl_async.errors import SettingsError
from hosfl_async.scenario.problems import Source
from hosfl_async.scenario.schema import Scenario
from hosfl_async.simulation.devices import flops_per_s_of
from hosfl_async.simulation.habits import read_trace_file


def fleet_contradictions(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    """One problem for each rule that the scenario breaks."""
    yield from _speeds(scenario, source)
    yield from _traces(scenario, source)


def _traces(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    for index, group in enumerate(scenario.fleet):
        if group.availability.rule == "trace":
            try:
                read_trace_file(group.availability.trace)
            except SettingsError as problem:
                path = ("fleet", index, "availability", "trace")
                yield source.problem(path, str(problem), expected="a file of lines device,begin_s,end_s", found=group.availability.trace)


def _speeds(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    for index, group in enumerate(scenario.fleet):
        if group.speed.distribution == "list" and not group.speed.values:
            yield source.problem(("fleet", index, "speed", "values"), "a list without values", expected="at least one factor")
        if group.speed.factor_max < group.speed.factor_min:
            yield source.problem(
                ("fleet", index, "speed", "factor_max"),
                "smaller than factor_min",
                expected=f"at least {group.speed.factor_min:g}",
                found=f"{group.speed.factor_max:g}",
            )
        if flops_per_s_of(group) and not scenario.compute.forward_s:
            problem = "a device in operations per second is compared with the reference device, which takes no time"
            yield source.problem(("compute", "forward_s"), problem, expected="above 0", found="0")
