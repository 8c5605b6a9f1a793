"""Figures of devices, links and absences from observations, and a scenario that has them.

What the simulator's model knows is what can be fitted: one factor for each device on all its jobs with a log-normal jitter, one table for
all links, random dropouts. Each figure comes with its standard error and the number of its samples; what a journal cannot tell keeps the
run's own setting, and is named. Devices next to each other in the fleet's order that do not differ beyond chance become one group, since
clients are named, and given their data, by that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import exp, log, sqrt
from statistics import fmean, median, stdev
from typing import Any

import msgspec

from hosfl_async.calibration.lines import MAD_EFFICIENCY, MEDIAN_ERROR, Line, fit_line
from hosfl_async.calibration.observing import Direction, Durations, Observations, Presence
from hosfl_async.errors import SettingsError
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.devices import BACKWARD_FORWARDS, DUAL_SHARE, FEEDBACK_FORWARDS
from hosfl_async.simulation.settings import (
    AbsenceKind,
    AvailabilitySettings,
    ComputeSettings,
    DropoutSettings,
    FleetGroup,
    NetworkSettings,
    Outage,
)

JITTER_MAX = 3.0
SAME_WITHIN = 0.02
"""Neighbours whose speeds differ by less are one group, however sure the difference is ..."""
SAME_ERRORS = 4.0
"""... and so are those whose difference is within so many of its standard errors."""
UNEQUAL = 1.5
"""A client's latency that is so many times the median of all is told."""


class Figure(msgspec.Struct, frozen=True):
    """One figure as the scenario has it. ``error``: one standard error. ``samples``: jobs, messages or absences behind it."""

    key: str
    value: float
    error: float
    samples: int


class Group(msgspec.Struct, frozen=True):
    """Clients that do not differ beyond chance, in the fleet's order."""

    first: str
    last: str
    clients: int
    forward_s: float
    """One forward pass of the client half over a batch: median."""
    error: float
    jitter_sigma: float
    jobs: int


class Unknown(msgspec.Struct, frozen=True):
    """What the journal does not tell; the run's own setting stands in the scenario."""

    key: str
    why: str


class Calibration(msgspec.Struct, frozen=True):
    """What was found, and what was not."""

    figures: list[Figure]
    groups: list[Group]
    unknown: list[Unknown]


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast one client, or several, are: seconds for a forward pass (median), and what that rests on."""

    log_s: float
    sigma: float
    jobs: int
    weight: float
    """Jobs of one length that would tell as much: a short job beside long ones tells little."""

    @property
    def error(self) -> float:
        """Of the logarithm."""
        return self.sigma / sqrt(self.weight) if self.weight else 0.0


def calibrate(scenario: Scenario, found: Observations) -> tuple[Scenario, Calibration]:
    """The scenario as the run of ``found`` has it, and how that was come by. Raises ``SettingsError`` for a journal without client jobs."""
    figures: list[Figure] = []
    unknown: list[Unknown] = []
    fleet, groups, seconds = _fleet(scenario, found, figures, unknown)
    compute = _compute(scenario, found, seconds, groups, figures, unknown)
    network = _network(scenario, found, figures, unknown)
    outages = _service_outages(found)
    unknown += [
        Unknown("compute.forward_s, fleet.speed_factor", "only their product shows; the largest group is the reference device"),
        Unknown("network.reordering, bursts of loss, shared bottlenecks", "a journal does not tell them from loss, latency and bandwidth"),
        Unknown("fleet.availability.rule", "absences are written as random dropouts, whatever habit is behind them"),
        Unknown("compute.aggregator_message_s", "it is part of the ways of messages to the aggregator"),
    ]
    name = f"{scenario.name[:50]}-calibrated"
    about = f"{scenario.name}, with the devices, links and absences of one of its runs."
    made = replace(
        scenario, name=name, about=about, fleet=fleet, fleet_size=0, compute=compute, network=network, outages=outages, fault=()
    )  # fmt: skip
    return made, Calibration(figures, groups, unknown)


# -- devices ----------------------------------------------------------------------------------------------


def passes_of(scenario: Scenario) -> Mapping[str, float]:
    """Forward passes in each kind of a client's job; see ``simulation.devices``."""
    settings, probes = scenario.client, scenario.shared.probes
    with_forward = probes if settings.estimator == "server_losses" else 0
    return {
        "Forward": 1 + with_forward,
        "LocalSlopes": 1 + probes,
        "TrainLocally": settings.local_steps * (1 + BACKWARD_FORWARDS),
        "Probe": probes if settings.estimator in {"dual_projection", "activity_slopes"} else 0,
        "BackPropagate": BACKWARD_FORWARDS,
        "FeedBack": FEEDBACK_FORWARDS,
    }


def _fleet(
    scenario: Scenario, found: Observations, figures: list[Figure], unknown: list[Unknown]
) -> tuple[tuple[FleetGroup, ...], list[Group], dict[str, float]]:
    """Groups for the scenario, the same for people, and each client's mean seconds a pass."""
    passes = passes_of(scenario)
    names = [name for name, _ in scenario.devices()]
    speeds = {name: speed for name in names if (speed := _speed(found.jobs.get(name, {}), passes))}
    if not speeds:
        raise SettingsError(
            "journal", "no client has finished a forward pass in it", expected="a run that trained", mend="let it run longer"
        )
    if silent := [name for name in names if name not in speeds]:
        unknown.append(Unknown("fleet", f"{len(silent)} clients finished no job ({silent[0]} ...): they are given the middle speed"))
    middle = _Speed(median(speed.log_s for speed in speeds.values()), _pooled(speeds.values()).sigma, 0, 0.0)
    runs = _runs([(name, speeds.get(name, middle)) for name in names], found)
    reference = max(runs, key=len)
    reference_log = _pooled(speed for _, speed in reference).log_s
    fleet, groups, seconds = [], [], {}
    for run in runs:
        speed = _pooled(each for _, each in run)
        members = [name for name, _ in run]
        habits = [found.presence[name] for name in members if name in found.presence]
        fleet.append(
            FleetGroup(
                count=len(run),
                speed_factor=_rounded(exp(speed.log_s - reference_log)),
                jitter_sigma=_rounded(min(speed.sigma, JITTER_MAX)),
                dropout=_dropout(habits),
                availability=_comings(habits),
            )
        )
        _note_habits(f"{members[0]} to {members[-1]}", habits, fleet[-1].dropout, figures)
        each_s = exp(speed.log_s)
        groups.append(Group(members[0], members[-1], len(run), each_s, each_s * speed.error, speed.sigma, speed.jobs))
        seconds.update(dict.fromkeys(members, each_s * exp(speed.sigma**2 / 2)))
    return tuple(fleet), groups, seconds


def _speed(kinds: Mapping[str, Durations], passes: Mapping[str, float]) -> _Speed | None:
    """From all jobs that are forward passes: the mean is that of the whole time, so that a run of so many steps takes as long."""
    known = {kind: durations for kind, durations in kinds.items() if passes.get(kind) and durations.positive}
    jobs = sum(durations.number for durations in known.values())
    if not jobs:
        return None
    units = sum(passes[kind] * durations.number for kind, durations in known.items())
    mean_s = sum(durations.total_s for durations in known.values()) / units
    weight = units**2 / sum(passes[kind] ** 2 * durations.number for kind, durations in known.items())
    free = sum(durations.positive - 1 for durations in known.values())
    sigma = sqrt(sum(durations.log_squares for durations in known.values()) / free) if free > 0 else 0.0
    return _Speed(log(mean_s) - sigma**2 / 2, sigma, jobs, weight)


def _pooled(speeds: Iterable[_Speed]) -> _Speed:
    """Several together, each by what it tells."""
    each = list(speeds)
    weight = sum(speed.weight for speed in each)
    if not weight:
        return each[0]
    sigma = sqrt(sum(speed.weight * speed.sigma**2 for speed in each) / weight)
    return _Speed(sum(speed.weight * speed.log_s for speed in each) / weight, sigma, sum(speed.jobs for speed in each), weight)


def _runs(clients: list[tuple[str, _Speed]], found: Observations) -> list[list[tuple[str, _Speed]]]:
    """Neighbours of one speed, and of one sort of presence, together."""
    runs: list[list[tuple[str, _Speed]]] = []
    for name, speed in clients:
        if runs and _alike(runs[-1], speed) and _drops(found, runs[-1][-1][0]) == _drops(found, name):
            runs[-1].append((name, speed))
        else:
            runs.append([(name, speed)])
    return runs


def _alike(run: list[tuple[str, _Speed]], speed: _Speed) -> bool:
    group = _pooled(each for _, each in run)
    error = sqrt(group.error**2 + speed.error**2)
    return abs(group.log_s - speed.log_s) <= max(SAME_WITHIN, SAME_ERRORS * error)


def _drops(found: Observations, name: str) -> bool:
    presence = found.presence.get(name)
    return presence is not None and bool(presence.absences or presence.departed)


def _dropout(habits: list[Presence]) -> DropoutSettings:
    absences = [absence for presence in habits for absence in presence.absences]
    if not absences:
        return DropoutSettings()
    kinds: list[AbsenceKind] = ["crash" if kind == "crash" else "pause" for _, _, kind in absences]
    return DropoutSettings(
        mean_time_between_s=_rounded(sum(presence.there_s for presence in habits) / len(absences)),
        mean_absence_s=_rounded(max(1e-6, fmean(lasted_s for _, lasted_s, _ in absences))),
        kind="crash" if kinds.count("crash") > kinds.count("pause") else "pause",
    )


def _note_habits(who: str, habits: list[Presence], dropout: DropoutSettings, figures: list[Figure]) -> None:
    number = sum(len(presence.absences) for presence in habits)
    if number:
        for key, value in (("mean_time_between_s", dropout.mean_time_between_s), ("mean_absence_s", dropout.mean_absence_s)):
            figures.append(Figure(f"{who}: dropout.{key}", value, value / sqrt(number), number))


def _comings(habits: list[Presence]) -> AvailabilitySettings:
    joins = [presence.first_s for presence in habits if presence.first_s is not None]
    gone = sum(presence.departed for presence in habits)
    late = fmean(joins) if joins and max(joins) > 1.0 else 0.0
    stays_s = sum(presence.there_s + presence.away_s for presence in habits)
    return AvailabilitySettings(joins_after_mean_s=_rounded(late), leaves_after_mean_s=_rounded(stays_s / gone) if gone else 0.0)


def _service_outages(found: Observations) -> tuple[Outage, ...]:
    """Absences of the services as they were: there is one of each, and nothing to draw."""
    return tuple(
        Outage(agent=name, at_s=_rounded(begin_s), absence_s=_rounded(lasted_s), kind="crash" if kind == "crash" else "pause")
        for name in (AGGREGATOR, SPLIT_SERVER)
        if name in found.presence
        for begin_s, lasted_s, kind in found.presence[name].absences
        if lasted_s > 0
    )


# -- computing time ---------------------------------------------------------------------------------------


def _compute(
    scenario: Scenario, found: Observations, seconds: dict[str, float], groups: list[Group], figures: list[Figure], unknown: list[Unknown]
) -> ComputeSettings:
    compute = scenario.compute
    reference = max(groups, key=lambda group: group.clients)
    figures.append(Figure("compute.forward_s", reference.forward_s, reference.error, reference.jobs))
    known = {"forward_s": reference.forward_s}
    for key, kind, of in (("project_s", "Project", None), ("replay_term_s", "Replay", found.terms)):
        figure = _per_unit(key, kind, of, found, seconds, reference.forward_s)
        if figure is None:
            unknown.append(Unknown(f"compute.{key}", _WHY_NOT[key]))
        else:
            figures.append(figure)
            known[key] = figure.value
    backward = _backward(scenario, found)
    if backward is None:
        unknown.append(Unknown("compute.backward_s", "the split server finished no training step alone"))
    else:
        figures.append(backward)
        known["backward_s"] = backward.value
    if scenario.server.micro_batch_max > 1:
        unknown.append(Unknown("compute.micro_batch_share", "a journal does not tell how many activations a training step took"))
    return replace(compute, **{key: _rounded(value) for key, value in known.items()})


_WHY_NOT = {
    "project_s": "no client finished a projection",
    "replay_term_s": "no client followed the whole log in one life, without a snapshot",
}


def _per_unit(key: str, kind: str, units: int | None, found: Observations, seconds: dict[str, float], reference_s: float) -> Figure | None:
    """Mean of a job's time on the reference device: for each job, or for each of ``units`` that every client met."""
    rates, jobs = [], 0
    for name, each_s in seconds.items():
        kinds = found.jobs.get(name, {})
        durations, presence = kinds.get(kind), found.presence.get(name)
        if durations is None or not durations.number:
            continue
        if units is not None and ("InstallSnapshot" in kinds or presence is None or presence.starts != 1 or presence.absences or not units):
            continue
        rates.append(durations.total_s / (durations.number if units is None else units) * reference_s / each_s)
        jobs += durations.number
    if not rates:
        return None
    error = stdev(rates) / sqrt(len(rates)) if len(rates) > 1 else 0.0
    return Figure(f"compute.{key}", fmean(rates), error, jobs)


def _backward(scenario: Scenario, found: Observations) -> Figure | None:
    """From training steps of one client's activations; else from duals without a step."""
    kinds = found.jobs.get(SPLIT_SERVER, {})
    for kind, share in (("Backward", float(scenario.server.steps_per_activation)), ("EvaluateDual", DUAL_SHARE)):
        durations = kinds.get(kind)
        if durations is not None and durations.number:
            mean_s = durations.total_s / durations.number / share
            spread = sqrt(durations.log_squares / (durations.positive - 1)) if durations.positive > 1 else 0.0
            return Figure("compute.backward_s", mean_s, mean_s * spread / sqrt(durations.number), durations.number)
    return None


# -- links ------------------------------------------------------------------------------------------------


def _network(scenario: Scenario, found: Observations, figures: list[Figure], unknown: list[Unknown]) -> NetworkSettings:
    known: dict[str, float] = {"burst_begin": 0.0, "reordering": 0.0}
    lines: list[Line] = []
    for direction, key in _BANDWIDTHS:
        samples = [sample for (of, _), ways in found.ways.items() if of == direction for sample in ways.samples]
        if not samples:
            unknown.append(Unknown(f"network.{key}", f"no message whose way is known went {direction}"))
            continue
        line = fit_line(samples)
        lines.append(line)
        known[key] = 0.0
        if line.per_byte_s:
            bandwidth = 1 / line.per_byte_s
            figures.append(Figure(f"network.{key}", bandwidth, bandwidth * line.per_byte_error_s / line.per_byte_s, line.samples))
            known[key] = bandwidth
        else:
            why = f"large messages took no longer than small ones: more than {line.bytes_per_s_min:.3g} bytes a second, so unlimited"
            unknown.append(Unknown(f"network.{key}", why))
        _note_spread(direction, line, unknown)
    if lines:
        samples_used = sum(line.samples for line in lines)
        latency = Figure(
            "network.latency_s",
            fmean(line.latency_s for line in lines),
            sqrt(sum(line.latency_error_s**2 for line in lines)) / len(lines),
            samples_used,
        )
        sigma = min(JITTER_MAX, sqrt(sum(line.sigma**2 * line.samples for line in lines) / samples_used))
        figures += [latency, Figure("network.latency_sigma", sigma, sigma / sqrt(2 * MAD_EFFICIENCY * samples_used), samples_used)]
        known |= {"latency_s": latency.value, "latency_sigma": sigma, "latency_jitter_s": 0.0}
        unknown.append(Unknown("network.latency_jitter_s", "all variation of latency is taken for log-normal"))
    between = [lasted_s for (of, _), ways in found.ways.items() if of == "services" for _, lasted_s, _ in ways.samples]
    if between:
        figures.append(Figure("network.service_latency_s", median(between), _median_error(between), len(between)))
        known["service_latency_s"] = median(between)
    else:
        unknown.append(Unknown("network.service_latency_s", "no message whose way is known went between the services"))
    for key, counted in (("loss", found.lost), ("duplication", found.doubled)):
        number, of = counted["up"] + counted["down"], found.sent["up"] + found.sent["down"]
        share = number / of if of else 0.0
        figures.append(Figure(f"network.{key}", share, sqrt(share * (1 - share) / of) if of else 0.0, of))
        known[key] = min(share, 0.999)
    table: dict[str, Any] = {key: _rounded(max(0.0, value)) for key, value in known.items()}
    return replace(scenario.network, **table)


_BANDWIDTHS: tuple[tuple[Direction, str], ...] = (("up", "uplink_bytes_per_s"), ("down", "downlink_bytes_per_s"))


def _note_spread(direction: Direction, line: Line, unknown: list[Unknown]) -> None:
    """Links that differ cannot be said in one table: tell how much they do."""
    if line.by_client and max(line.by_client.values()) > UNEQUAL * line.latency_s + 1e-9:
        slowest = max(line.by_client, key=lambda client: line.by_client[client])
        told = f"the clients' medians {direction} are {min(line.by_client.values()):.3g} to {line.by_client[slowest]:.3g} s ({slowest})"
        unknown.append(Unknown("network.latency_s of each client", f"one table holds for all; {told}"))


def _median_error(values: list[float]) -> float:
    return MEDIAN_ERROR * stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def _rounded(value: float) -> float:
    """Six digits: no figure here is better."""
    return float(f"{value:.6g}")
