"""The drawings of a report: each one panel, as SVG whose colours the page decides, or as a file of its own.

matplotlib draws them with text as text. A colour is written as a word of the page's palette (``var(--ours)``), so one drawing serves a
light and a dark page; in a file of its own it is the palette's light value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hosfl_async.errors import SettingsError
from hosfl_async.report.client_states import STATES, ClientCourse, State, closer_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = {
    "ink": "#1c2630",
    "faint": "#dfe4e8",
    "muted": "#5f6b76",
    "run-0": "#0b6e99",
    "run-1": "#c8553d",
    "run-2": "#3a7d44",
    "run-3": "#8e5ea2",
    "run-4": "#b8860b",
    "run-5": "#4a4e9b",
    "run-6": "#b03a6b",
    "run-7": "#2a9d8f",
    "computing": "#0b6e9a",
    "dual": "#e0a43c",
    "catch-up": "#7fb7c9",
    "idle": "#d3dae0",
    "offline": "#4b5560",
}
"""Word of the palette -> its colour on a light page. All differ, since drawings are told apart by them."""

DARK = {
    "ink": "#e6ebef",
    "faint": "#33404b",
    "muted": "#9aa7b3",
    "run-0": "#4fb3de",
    "run-1": "#f08a70",
    "run-2": "#76c184",
    "run-3": "#c39bd6",
    "run-4": "#e2bd55",
    "run-5": "#9a9ef0",
    "run-6": "#ef85b1",
    "run-7": "#63d0c3",
    "computing": "#4fb3df",
    "dual": "#f0bd62",
    "catch-up": "#9bd3e4",
    "idle": "#3b4752",
    "offline": "#10161b",
}

STATE_COLOURS: dict[State, str] = {
    "computing": "computing",
    "waiting for the dual": "dual",
    "catching up": "catch-up",
    "waiting otherwise": "idle",
    "offline": "offline",
}
RUNS_MAX = 8
"""Groups of runs that a report tells apart by colour."""

STALENESS_BINS_MAX = 40
LOG_RATIO = 20
"""Where the longest run takes so many times longer than the shortest, the axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Runs that differ in their seed only. ``runs``: for each, the places on the axis and the values there."""

    label: str
    runs: Sequence[tuple[Sequence[float], Sequence[float]]]
    control: float | None = None
    """Final accuracy of the frozen-client control, the mean over the seeds that have one."""


def accuracy_panel(groups: Sequence[Curves], axis: str, target: float | None) -> Figure:
    """Accuracy against one axis: the mean over the seeds and a band from the lowest to the highest, controls dashed."""
    figure, panel = _figure(3.0)
    for place, group in enumerate(groups):
        colour = _run(place)
        mean = _draw_band(panel, group.runs, colour)
        if mean is not None and len(groups) == 1:
            panel.annotate(
                f"{mean:.3f}", (1, mean), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", color=colour
            )
        if group.control is not None:
            panel.axhline(group.control, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            if len(groups) == 1:
                panel.annotate(
                    f"frozen control {group.control:.3f}", (1, group.control), (-2, -4), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", va="top", fontsize=8.5, color=LIGHT["muted"],
                )  # fmt: skip
    if target is not None:
        panel.axhline(target, color=LIGHT["muted"], linewidth=0.8, linestyle=":")
        panel.annotate(f"target {target:g}", (0, target), (2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                       fontsize=8.5, color=LIGHT["muted"])  # fmt: skip
    panel.set_ylim(0, 1)
    _scale(panel, groups, axis)
    return figure


def course_panel(groups: Sequence[Curves], axis: str, what: str) -> Figure:
    """Any other quantity over an axis, drawn as the accuracy is."""
    figure, panel = _figure(2.4)
    for place, group in enumerate(groups):
        _draw_band(panel, group.runs, _run(place))
    panel.set_ylim(bottom=0)
    _scale(panel, groups, axis)
    panel.set_ylabel(what)
    return figure


def staleness_panel(histograms: Sequence[dict[int, int]]) -> Figure:
    """Contributions by staleness; several groups are outlines above each other."""
    figure, panel = _figure(2.4)
    top = max((max(each) for each in histograms if each), default=0)
    width = max(1, -(-(top + 1) // STALENESS_BINS_MAX))
    edges = np.arange(0, top + width + 1, width)
    for place, histogram in enumerate(histograms):
        if histogram:
            heights, _ = np.histogram(list(histogram), bins=edges, weights=list(histogram.values()))
            panel.stairs(heights, edges, fill=len(histograms) == 1, color=_run(place), linewidth=1.4)
    panel.set_yscale("log")
    panel.set_xlabel("versions behind")
    panel.set_ylabel("contributions")
    return figure


def kinds_panel(by_group: Sequence[dict[str, float]], unit: str, form: str) -> Figure:
    """Amounts by kind, the largest first, kinds at zero left out; one bar for each group, its label by ``form``."""
    largest = {kind: max(other.get(kind, 0) for other in by_group) for each in by_group for kind in each}
    kinds = sorted((kind for kind in largest if largest[kind]), key=lambda kind: -largest[kind])
    figure, panel = _figure(max(1.3, 0.6 + len(kinds) * max(0.24, 0.15 * len(by_group))))
    height = 0.84 / max(1, len(by_group))
    for place, each in enumerate(by_group):
        spots = [row - 0.42 + height * (place + 0.5) for row in range(len(kinds))]
        bars = panel.barh(spots, [each.get(kind, 0) for kind in kinds], height=0.9 * height, color=_run(place))
        labels = [form.format(each[kind]) if each.get(kind) else "" for kind in kinds]
        panel.bar_label(bars, labels, padding=2, fontsize=8.5, color=LIGHT["ink"])
    panel.set_yticks(range(len(kinds)), kinds)
    panel.invert_yaxis()
    panel.margins(x=0.14)
    panel.grid(visible=False)
    panel.locator_params(axis="x", nbins=6)
    panel.xaxis.set_major_formatter("{x:,.6g}")
    panel.set_xlabel(unit)
    return figure


def shares_panel(found: Sequence[ClientCourse]) -> Figure:
    """Of each client: the share of its time in each state."""
    figure, panel = _figure(0.8 + 0.2 * len(found))
    left = np.zeros(len(found))
    totals = np.array([sum(each.seconds.values()) or 1.0 for each in found])
    for state in STATES:
        widths = 100 * np.array([each.seconds[state] for each in found]) / totals
        panel.barh(range(len(found)), widths, left=left, height=0.82, color=LIGHT[STATE_COLOURS[state]])
        left += widths
    _rows(panel, found)
    panel.set_xlim(0, 100)
    panel.set_xlabel("% of the time")
    return figure


def timeline_panel(found: Sequence[ClientCourse]) -> Figure:
    """A closer look at a part of the run: which client was in which state, when."""
    begin, end = closer_look(found)
    figure, panel = _figure(0.8 + 0.2 * len(found))
    for row, each in enumerate(found):
        for state in STATES:
            spans = [
                (max(one.begin_s, begin), min(one.end_s, end) - max(one.begin_s, begin))
                for one in each.segments
                if one.state == state and one.end_s > begin and one.begin_s < end
            ]
            if spans:
                panel.broken_barh(spans, (row - 0.41, 0.82), facecolors=LIGHT[STATE_COLOURS[state]], linewidth=0)
    _rows(panel, found)
    panel.set_xlim(begin, max(end, begin + 1e-9))
    panel.set_xlabel("modelled time, s")
    return figure


def svg(figure: Figure, label: str) -> str:
    """The drawing as an SVG element for a page: the page's colours, the page's font, ``label`` for those who cannot see it."""
    raw = BytesIO()
    with _style():
        figure.savefig(raw, format="svg", metadata={"Date": None}, transparent=True)
    text = raw.getvalue().decode()
    text = text[text.index("<svg") :]
    for word, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{word})")
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    text = re.sub(r"<svg [^>]*>", f'<svg viewBox="{box[1]}" role="img" aria-label="{label}">', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)


def write(figure: Figure, path: Path) -> None:
    """The drawing as a file of its own, on white. Raises ``SettingsError`` if it cannot be written."""
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    try:
        with _style():
            figure.savefig(path, metadata=metadata, facecolor="white", dpi=160)
    except (OSError, ValueError) as problem:
        raise SettingsError(
            str(path), "the picture cannot be written", expected="a folder that can be written", found=str(problem)
        ) from problem


def _run(place: int) -> str:
    return LIGHT[f"run-{place % RUNS_MAX}"]


def _scale(panel: Axes, groups: Sequence[Curves], axis: str) -> None:
    """The horizontal axis: logarithmic where one group takes so many times longer than another that it would be a line."""
    panel.set_xlabel(axis)
    ends = [max(x) for group in groups for x, _ in group.runs if len(x) and max(x) > 0]
    if ends and max(ends) > LOG_RATIO * min(ends):
        panel.set_xscale("log")
        panel.set_xlim(left=min(x[min(1, len(x) - 1)] for group in groups for x, _ in group.runs if len(x)) / 1.5 or None)
        return
    panel.set_xlim(left=0)
    panel.locator_params(axis="x", nbins=6)
    panel.xaxis.set_major_formatter("{x:,.6g}")


def _rows(panel: Axes, found: Sequence[ClientCourse]) -> None:
    panel.set_yticks(range(len(found)), [each.name for each in found], fontsize=8.5)
    panel.set_ylim(len(found) - 0.5, -0.5)
    panel.grid(visible=False)
    panel.tick_params(axis="y", length=0)


def _draw_band(panel: Axes, runs: Sequence[tuple[Sequence[float], Sequence[float]]], colour: str) -> float | None:
    """The mean over runs and their band, as far as all of them go; returns the mean at the end."""
    curves = [(np.array(x, float), np.array(y, float)) for x, y in runs if len(x)]
    if not curves:
        return None
    if len(curves) == 1:
        panel.plot(*curves[0], color=colour, linewidth=1.7)
        return float(curves[0][1][-1])
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= max(x[0] for x, _ in curves)) & (grid <= min(x[-1] for x, _ in curves))]
    heights = np.array([np.interp(grid, x, y) for x, y in curves])
    panel.fill_between(grid, heights.min(axis=0), heights.max(axis=0), color=colour, alpha=0.22, linewidth=0)
    panel.plot(grid, heights.mean(axis=0), color=colour, linewidth=1.7)
    return float(np.mean([y[-1] for _, y in curves]))


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "hosfl",
            "font.size": 10,
            "text.color": LIGHT["ink"],
            "axes.labelcolor": LIGHT["muted"],
            "axes.edgecolor": LIGHT["faint"],
            "xtick.color": LIGHT["muted"],
            "ytick.color": LIGHT["muted"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": LIGHT["faint"],
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
        }
    )


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(4.6, height_inches), layout="constrained")
        return figure, figure.subplots()
