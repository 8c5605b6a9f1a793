"""One self-contained HTML page about a run, or about several side by side: without a network, on a phone as on a desk, light or dark.

Runs that differ in nothing but their seed are a *group*: one curve with a band. What a page shows is data from the run folders; text from
outside (names, words of a scenario) is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import mean
from typing import TYPE_CHECKING

from hosfl_async.report import panels
from hosfl_async.report.client_states import STATES, ClientCourse
from hosfl_async.report.page_style import stylesheet
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Summary
from hosfl_async.report.tables import TIE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """What a report needs of one finished run. Without a journal there is no staleness and no course of any client."""

    summary: Summary
    evaluations: Sequence[Evaluation]
    batch_size: int
    staleness: Counter[int] = field(default_factory=Counter)
    courses: Sequence[ClientCourse] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seed only."""

    label: str
    about: str
    target: float | None
    runs: Sequence[ReportedRun]

    def mean(self, value: Callable[[Summary], float | None]) -> float | None:
        """Over the runs that have one."""
        found = [each for run in self.runs if (each := value(run.summary)) is not None]
        return mean(found) if found else None

    def span(self, value: Callable[[Summary], float | None]) -> float:
        """Highest minus lowest over the runs that have one."""
        found = [each for run in self.runs if (each := value(run.summary)) is not None]
        return max(found) - min(found) if found else 0.0


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing with what it says. ``wide``: takes the whole row."""

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False
    legend: str = ""


def draw_panels(groups: Sequence[Group]) -> list[Panel]:
    """Every drawing of the report, in the order of the page."""
    return [*_accuracies(groups), *_courses(groups), *_clients(groups)]


def report_page(groups: Sequence[Group], drawn: Sequence[Panel]) -> str:
    """The page as text."""
    names = list(dict.fromkeys(run.summary.scenario for group in groups for run in group.runs))
    title = f"{', '.join(names)}: what {'the run' if _count(groups) == 1 else f'{_count(groups)} runs'} did"
    words = "".join(f"<p>{escape(line)}</p>" for line in dict.fromkeys(group.about for group in groups if group.about))
    figures = "".join(_figure(panel) for panel in drawn)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{stylesheet()}</style></head>\n<body><main>\n'
        f'<header><h1>{escape(title)}</h1><div class="about">{words}</div></header>\n{_tiles(groups)}\n{_legend(groups)}\n'
        f'<section class="figures">{figures}</section>\n{_table(groups)}\n{_unmet(groups)}\n'
        "<footer>Made by hosfl_async from the run folders alone. Dashed: the frozen-client control, what the server reaches with "
        "clients that never move.</footer>\n</main></body></html>\n"
    )


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.runs) for group in groups)


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
        yield Panel(
            "staleness", "Staleness", "How many versions behind the admitted contributions were.", panels.staleness_panel(histograms)
        )
    over_time: list[tuple[str, str, str, str, Callable[[Evaluation], float]]] = [
        (
            "staleness-course",
            "Staleness in its course",
            "Mean since the evaluation before.",
            "versions",
            lambda p: p.staleness_mean_versions,
        ),
        ("log", "Growth of the log", "Entries are all that changes the client half.", "log entries", lambda p: p.version),
    ]
    for name, title, caption, what, value in over_time:
        curves = [
            panels.Curves(group.label, [([p.time_s for p in run.evaluations], [value(p) for p in run.evaluations]) for run in group.runs])
            for group in groups
        ]
        yield Panel(name, title, caption, panels.course_panel(curves, "modelled time, s", what))
    sent = [{kind: mean(run.summary.bytes.get(kind, 0) for run in group.runs) for kind in group.runs[0].summary.bytes} for group in groups]
    yield Panel("bytes", "Bytes by kind", "Sent by everyone in the whole run.", panels.bytes_panel(sent))


def _clients(groups: Sequence[Group]) -> Iterator[Panel]:
    """Of the first run of each group."""
    legend = "".join(f'<span><i style="background:var(--{panels.STATE_COLOURS[state]})"></i>{state}</span>' for state in STATES)
    for place, group in enumerate(groups):
        run = group.runs[0]
        if not run.courses:
            continue
        whose = f"{group.label}, seed {run.summary.seed}. " if _count(groups) > 1 else ""
        most = f"{len(run.courses)} of {run.summary.clients:,} clients. " if len(run.courses) < run.summary.clients else ""
        caption = f"{whose}{most}"
        yield Panel(f"clients-{place}", "Where the clients' time goes", caption, panels.shares_panel(run.courses), legend=legend)
        close = f"{caption}From the middle of the run."
        yield Panel(f"timeline-{place}", "A closer look", close, panels.timeline_panel(run.courses), legend=legend)


def _figure(panel: Panel) -> str:
    legend = f'<div class="legend">{panel.legend}</div>' if panel.legend else ""
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    drawing = panels.svg(panel.figure, escape(panel.title, quote=True))
    return f'<figure id="{panel.name}"><h2>{escape(panel.title)}</h2>{legend}{drawing}{caption}</figure>\n'


def _tiles(groups: Sequence[Group]) -> str:
    if len(groups) > 1:
        return ""
    [group] = groups
    final, control = group.mean(lambda s: s.accuracy_final), group.mean(lambda s: s.accuracy_frozen_control)
    first = group.runs[0].summary
    agree = all(run.summary.digests_agree for run in group.runs)
    tiles = [
        ("final accuracy", _share(final), f"best {_share(group.mean(lambda s: s.accuracy_best))}"),
        ("frozen-client control", _share(control), _won(final, control)),
        ("modelled time", f"{group.mean(lambda s: s.modelled_time_s):,.0f} s", f"{group.mean(lambda s: s.wall_time_s):,.1f} s on the wall"),
        ("client steps", f"{first.client_steps:,}", f"{first.version:,} log entries"),
        ("sent", f"{group.mean(lambda s: sum(s.bytes.values())) / 1e6:,.1f} MB", "by everyone"),  # type: ignore[operator]
        (
            "staleness",
            f"{group.mean(lambda s: s.staleness.mean):.1f}",
            f"mean; p99 {first.staleness.p99}, max {first.staleness.max} versions",
        ),
        ("digests", "agree" if agree else "DIFFER", f"{first.clients_confirmed:,} of {first.clients:,} clients confirmed"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd><small>{note}</small></div>" for name, value, note in tiles)
        + "</dl>"
    )


def _won(final: float | None, control: float | None) -> str:
    if final is None or control is None:
        return "not run"
    if abs(final - control) < TIE:
        return "a tie: the client half made no difference"
    return f"training the client half {'won' if final > control else 'lost'} {abs(final - control) * 100:.1f} points"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _legend(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return ""
    marks = "".join(
        f'<span><i style="background:var(--run-{place % panels.RUNS_MAX})"></i>{escape(g.label)}</span>' for place, g in enumerate(groups)
    )
    return f'<div class="legend runs">{marks}</div>'


def _table(groups: Sequence[Group]) -> str:
    """Every figure, a column for each group: the mean, and the spread where there are several seeds."""
    rows: list[tuple[str, Callable[[Summary], float | None], str]] = [
        ("accuracy, final", lambda s: s.accuracy_final, ".3f"),
        ("accuracy, best", lambda s: s.accuracy_best, ".3f"),
        ("accuracy, frozen control", lambda s: s.accuracy_frozen_control, ".3f"),
        ("client steps", lambda s: s.client_steps, ",.0f"),
        ("server steps", lambda s: s.server_steps, ",.0f"),
        ("log entries", lambda s: s.version, ",.0f"),
        ("modelled time, s", lambda s: s.modelled_time_s, ",.1f"),
        ("MB sent", lambda s: sum(s.bytes.values()) / 1e6, ",.2f"),
        ("staleness, mean", lambda s: s.staleness.mean, ".2f"),
        ("staleness, greatest", lambda s: s.staleness.max, ",.0f"),
        ("energy of the clients, J", lambda s: s.energy_joules or None, ",.1f"),
    ]
    counts = dict.fromkeys(name for group in groups for run in group.runs for name, number in run.summary.counts.items() if number)
    rows += [(name.replace("_", " "), lambda s, name=name: s.counts.get(name, 0), ",.0f") for name in counts]  # type: ignore[misc]
    head = "".join(f"<th scope='col'>{escape(group.label)}<small>{_seeds(group)}</small></th>" for group in groups)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{_cell(group, value, form)}</td>" for group in groups) + "</tr>"
        for name, value, form in rows
        if any(group.mean(value) is not None for group in groups)
    )
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section><h2>Every figure</h2><div class="scroll">{table}</div></section>'


def _seeds(group: Group) -> str:
    seeds = [str(run.summary.seed) for run in group.runs]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def _cell(group: Group, value: Callable[[Summary], float | None], form: str) -> str:
    middle = group.mean(value)
    if middle is None:
        return ""
    spread = f" <small>spread {group.span(value):{form}}</small>" if len(group.runs) > 1 else ""
    return f"{middle:{form}}{spread}"


def _unmet(groups: Sequence[Group]) -> str:
    """What was expected and did not happen; of the control nothing is expected."""
    runs = [(group.label, run.summary) for group in groups for run in group.runs if run.summary.method != "frozen_client"]
    found = [f"{label}, seed {summary.seed}: {problem}" for label, summary in runs for problem in summary.unmet]
    items = "".join(f"<li>{escape(each)}</li>" for each in found)
    return f'<section class="unmet"><h2>Not met</h2><ul>{items}</ul></section>' if found else ""
