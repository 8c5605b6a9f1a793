"""One self-contained HTML page about a run, or about several side by side: without a network, on a phone as on a desk, light or dark.

Runs that differ in nothing but their seed are a *group*: one curve with a band. What a page shows is data from the run folders; text from
outside (names, words of a scenario) is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from hosfl_async.report import panels
from hosfl_async.report.groups import Group
from hosfl_async.report.page_panels import Panel
from hosfl_async.report.page_style import stylesheet
from hosfl_async.report.summary import Summary
from hosfl_async.report.tables import TIE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page lets a browser do: use its own styles, and neither fetch nor run anything."""


def report_page(groups: Sequence[Group], drawn: Sequence[Panel]) -> str:
    """The page as text."""
    names = list(dict.fromkeys(run.summary.scenario for group in groups for run in group.runs))
    title = f"{', '.join(names)}: what {'the run' if _count(groups) == 1 else f'{_count(groups)} runs'} did"
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    )
    words = list(dict.fromkeys(group.about for group in groups))
    about = words[0] if len(words) == 1 else ""
    body = _one(groups[0], drawn) if len(groups) == 1 else _several(groups, drawn, told=bool(about))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{stylesheet()}</style></head>\n<body><main>\n'
        f"<header><h1>{escape(title)}</h1>{_about(about)}</header>\n{body}\n{_table(groups)}\n{_unmet(groups)}\n"
        "<footer>Made by hosfl_async from the run folders alone. Dashed: the frozen-client control, what the server reaches with "
        "clients that never move.</footer>\n</main></body></html>\n"
    )


def _about(words: str) -> str:
    return f'<div class="about"><p>{escape(words)}</p></div>' if words else ""


def _one(group: Group, drawn: Sequence[Panel]) -> str:
    """The page about one group: tiles, then every drawing; the two sums stand above each other, beside what the clients did."""
    figures = {panel.name: _figure(panel) for panel in drawn}
    sums = figures.pop("bytes") + figures.pop("mishaps", _quiet())
    clients = "".join(figures.pop(panel.name) for panel in drawn if panel.of is not None)
    return (
        f'<dl class="tiles">{_tiles(group)}</dl>\n'
        f'<section class="figures">{"".join(figures.values())}<div class="stack">{sums}</div>{clients}</section>'
    )


def _several(groups: Sequence[Group], drawn: Sequence[Panel], told: bool) -> str:
    """The page about several: the drawings that all share, then a row for each group, with its words unless all have the same."""
    marks = [f'<i style="background:var(--run-{place % panels.RUNS_MAX})"></i>{escape(group.label)}' for place, group in enumerate(groups)]
    legend = "".join(f"<span>{mark}</span>" for mark in marks)
    shared = "".join(_figure(panel) for panel in drawn if panel.of is None)
    if "mishaps" not in (panel.name for panel in drawn):
        shared += _quiet()
    rows = "".join(
        f"<article><h2><span>{mark}</span> <small>{group.seeds}</small></h2>{'' if told else _about(group.about)}"
        f'<dl class="tiles">{_tiles(group)}</dl></article>{"".join(_figure(panel) for panel in drawn if panel.of == place)}\n'
        for place, (mark, group) in enumerate(zip(marks, groups, strict=True))
    )
    return (
        f'<div class="legend runs">{legend}</div>\n<section class="figures">{shared}</section>\n<section class="figures">{rows}</section>'
    )


def _quiet() -> str:
    """In the place of the drawing of mishaps, where there were none."""
    return '<figure id="mishaps"><h2>Refused, lost, repeated</h2><p>Nothing.</p></figure>\n'


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.runs) for group in groups)


def _figure(panel: Panel) -> str:
    legend = f'<div class="legend">{panel.legend}</div>' if panel.legend else ""
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    drawing = panels.svg(panel.figure, escape(panel.title, quote=True))
    return f'<figure id="{panel.name}"><h2>{escape(panel.title)}</h2>{legend}{drawing}{caption}</figure>\n'


def _tiles(group: Group) -> str:
    final, control = group.mean(lambda s: s.accuracy_final), group.mean(lambda s: s.accuracy_frozen_control)
    first = group.runs[0].summary
    agree = all(run.summary.digests_agree for run in group.runs)
    tiles = [
        ("final accuracy", _share(final), f"best {_share(group.mean(lambda s: s.accuracy_best))}"),
        ("frozen control", _share(control), _won(final, control)),
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
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd><small>{note}</small></div>" for name, value, note in tiles)


def _won(final: float | None, control: float | None) -> str:
    if final is None or control is None:
        return "not run"
    if abs(final - control) < TIE:
        return "a tie: the client half made no difference"
    return f"training the client half {'won' if final > control else 'lost'} {abs(final - control) * 100:.1f} points"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


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
    head = "".join(f"<th scope='col'>{escape(group.label)}<small>{group.seeds}</small></th>" for group in groups)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{_cell(group, value, form)}</td>" for group in groups) + "</tr>"
        for name, value, form in rows
        if any(group.mean(value) is not None for group in groups)
    )
    kind = "" if len(groups) > 1 else " class='one'"
    table = f"<table{kind}><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section><h2>Every figure</h2><div class="scroll">{table}</div></section>'


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
