"""Which drawings a report has, and what each says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING

from hosfl_async.report import panels
from hosfl_async.report.client_states import STATES
from hosfl_async.report.groups import Group, ReportedRun
from hosfl_async.report.recorder import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISHAPS = ("duplicate", "stale", "refused", "late", "clipped", "distrusted", "held", "smashed_duplicate", "smashed_refused", "dropped",
           "retried", "abandoned")  # fmt: skip
"""Counts of what was refused, lost or done again: those of docs/summary.md that a quiet run has at zero."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing with what it says. ``of``: the place of the group that it is about, None if about all."""

    name: str
    title: str
    caption: str
    figure: Figure
    legend: str = ""
    of: int | None = None


def draw_panels(groups: Sequence[Group]) -> list[Panel]:
    """Every drawing of the report, in the order of the page."""
    return [*_accuracies(groups), *_courses(groups), *_sums(groups), *_clients(groups)]


def _accuracies(groups: Sequence[Group]) -> Iterator[Panel]:
    target = next((group.target for group in groups if group.target is not None), None)
    axes: list[tuple[str, str, str, Callable[[ReportedRun, Evaluation], float]]] = [
        ("samples", "Accuracy against samples", "samples", lambda run, point: point.client_steps * run.batch_size),
        ("time", "Accuracy against time", "modelled time, s", lambda run, point: point.time_s),
        ("bytes", "Accuracy against bytes", "MB sent by everyone", lambda run, point: sum(point.bytes.values()) / 1e6),
    ]
    spread = " The band spans the seeds." if any(len(group.runs) > 1 for group in groups) else ""
    for name, title, axis, place in axes:
        if name == "bytes" and not any(point.bytes for group in groups for run in group.runs for point in run.evaluations):
            continue
        curves = [
            panels.Curves(
                group.label,
                [([place(run, point) for point in run.evaluations], [point.accuracy for point in run.evaluations]) for run in group.runs],
                group.mean(lambda summary: summary.accuracy_frozen_control),
            )
            for group in groups
        ]
        caption = f"On held-out data.{spread}" if name == "samples" else ""
        yield Panel(f"accuracy-{name}", title, caption, panels.accuracy_panel(curves, axis, target))


def _courses(groups: Sequence[Group]) -> Iterator[Panel]:
    histograms = [dict(sum((run.staleness for run in group.runs), Counter())) for group in groups]
    if any(histograms):
        caption = "How many versions behind the admitted contributions were."
        yield Panel("staleness", "Staleness", caption, panels.staleness_panel(histograms))
    lags = [panels.Curves(group.label, [_staleness_course(run.evaluations) for run in group.runs]) for group in groups]
    caption = "Mean since the evaluation before."
    yield Panel("staleness-course", "Staleness in its course", caption, panels.course_panel(lags, "modelled time, s", "versions"))
    growth = [
        panels.Curves(group.label, [([p.time_s for p in run.evaluations], [p.version for p in run.evaluations]) for run in group.runs])
        for group in groups
    ]
    caption = "Entries are all that changes the client half."
    yield Panel("log", "Growth of the log", caption, panels.course_panel(growth, "modelled time, s", "log entries"))


def _staleness_course(evaluations: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
    """Times and means. The last evaluation may come right after the one before: what lies between is too little for a mean of its own, and
    counts in one with the interval before."""
    found: list[tuple[float, int, float]] = []
    for before, point in pairwise(evaluations):
        steps = point.client_steps - before.client_steps
        if steps > 0:
            found.append((point.time_s, steps, point.staleness_mean_versions))
    if len(found) > 1 and 2 * found[-1][1] < found[-2][1]:
        (_, some, earlier), (end_s, few, later) = found[-2:]
        found[-2:] = [(end_s, some + few, (some * earlier + few * later) / (some + few))]
    return [time_s for time_s, _, _ in found], [versions for _, _, versions in found]


def _sums(groups: Sequence[Group]) -> Iterator[Panel]:
    """What the whole run came to, kind by kind."""
    sent = [_means(group, lambda run: run.summary.bytes, 1e6) for group in groups]
    yield Panel("bytes", "Bytes by kind", "Sent by everyone in the whole run.", panels.kinds_panel(sent, "MB", "{:,.1f}"))
    mishaps = [_means(group, lambda run: {name: run.summary.counts.get(name, 0) for name in MISHAPS}, 1) for group in groups]
    if any(number for each in mishaps for number in each.values()):
        told = [{name.replace("_", " "): number for name, number in each.items()} for each in mishaps]
        yield Panel("mishaps", "Refused, lost, repeated", "What is at zero is left out.", panels.kinds_panel(told, "how often", "{:,.0f}"))


def _means(group: Group, of: Callable[[ReportedRun], dict[str, int]], unit: float) -> dict[str, float]:
    return {kind: mean(of(run).get(kind, 0) for run in group.runs) / unit for kind in of(group.runs[0])}


def _clients(groups: Sequence[Group]) -> Iterator[Panel]:
    """Of the first run of each group."""
    legend = "".join(f'<span><i style="background:var(--{panels.STATE_COLOURS[state]})"></i>{state}</span>' for state in STATES)
    alone = sum(len(group.runs) for group in groups) == 1
    for place, group in enumerate(groups):
        run = group.runs[0]
        if not run.courses:
            continue
        whose = "" if alone else f"{group.label}, seed {run.summary.seed}. "
        most = f"{len(run.courses)} of {run.summary.clients:,} clients. " if len(run.courses) < run.summary.clients else ""
        shares, close = f"{whose}{most}Of the whole run.", f"{whose}{most}From the middle of the run."
        yield Panel(f"clients-{place}", "Where the clients' time goes", shares, panels.shares_panel(run.courses), legend, place)
        yield Panel(f"timeline-{place}", "A closer look", close, panels.timeline_panel(run.courses), legend, place)
