"""Pictures of a run and of a comparison. matplotlib is loaded when the first one is drawn, never before.

They are meant to be read at 700 pixels on a light page and to weigh little: few marks, no shadows, one colour per method whatever else is
in the picture. What a picture shows is in the run folder as numbers too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hosfl_async.errors import SettingsError
from hosfl_async.report.comparing import Comparison, MethodRun
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES, DPI = 7.0, 100
FILES = (".png", ".svg", ".pdf")
"""Kinds of pictures, by the ends of their names."""
OURS, PAPER, CONTROL = "#0b6e99", "#c8553d", "#8a8a8a"
COLOURS = {"hosfl_async": OURS, "hosfl_sync": PAPER, "frozen_client": CONTROL}
OTHERS = ("#3a7d44", "#8e5ea2", "#d4a017", "#4a4e9a", "#b03a6b", "#2a9d8f", "#7a5c3e")
"""Colours of methods that have none of their own, in the order in which they come."""

GRID_POINTS = 200
LOG_RATIO = 20
"""Where the slowest method takes so many times longer than the fastest, the axis is logarithmic."""

STALENESS_BINS_MAX = 40


def draw_run(summary: Summary, evaluations: Sequence[Evaluation], staleness: Counter[int], path: Path) -> None:
    """Accuracy against modelled time with the control's final accuracy, staleness of what was admitted, bytes by kind."""
    figure = _figure(2.5)
    widths = [2.2, 1.1, 1.2] if staleness else [2.2, 1.2]
    panels = list(figure.subplots(1, len(widths), width_ratios=widths))
    _draw_accuracy(panels[0], summary, evaluations)
    if staleness:
        _draw_staleness(panels[1], staleness)
    _draw_bytes(panels[-1], summary.bytes)
    figure.suptitle(
        f"{summary.scenario}: {summary.method}, {summary.clients:,} clients, seed {summary.seed}", fontsize=10, x=0.02, ha="left"
    )
    _save(figure, path)


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Accuracy against samples, modelled time and bytes: the mean over the seeds, and a band from the lowest to the highest."""
    figure = _figure(3.1)
    panels = list(figure.subplots(1, 3, sharey=True))
    axes: list[tuple[str, str, float]] = [("samples", "samples", 1), ("time_s", "modelled time, s", 1), ("bytes", "bytes sent, MB", 1e6)]
    colours = _colours(list(comparison.methods))
    for panel, (what, label, unit) in zip(panels, axes, strict=True):
        ends = [max(getattr(run.curve, what)) / unit for method in comparison.methods.values() for run in method.runs]
        logarithmic = max(ends) > LOG_RATIO * max(min(ends), 1e-12)
        for name, method in comparison.methods.items():
            _draw_spread(panel, method.runs, what, unit, colours[name], name, logarithmic)
        panel.axhline(comparison.target, color="#444444", linewidth=0.8, linestyle=":")
        if logarithmic:
            panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.set_ylim(0, 1)
    panels[0].set_ylabel("accuracy")
    panels[0].text(0, comparison.target, f" target {comparison.target:g}", fontsize=7, va="bottom", color="#444444")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False, fontsize=8)
    _save(figure, path)


def _draw_spread(panel: Axes, runs: Sequence[MethodRun], what: str, unit: float, colour: str, name: str, logarithmic: bool) -> None:
    curves = [(np.array(getattr(run.curve, what), dtype=float) / unit, np.array(run.curve.accuracy)) for run in runs]
    first, last = max(x[min(1, len(x) - 1)] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.geomspace(first, last, GRID_POINTS) if logarithmic and 0 < first < last else np.linspace(0, last, GRID_POINTS)
    heights = np.array([np.interp(grid, x, y) for x, y in curves])
    panel.fill_between(grid, heights.min(axis=0), heights.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    panel.plot(grid, heights.mean(axis=0), color=colour, linewidth=1.6, label=name, linestyle="--" if name == "frozen_client" else "-")


def _draw_accuracy(panel: Axes, summary: Summary, evaluations: Sequence[Evaluation]) -> None:
    panel.plot([point.time_s for point in evaluations], [point.accuracy for point in evaluations], color=OURS, linewidth=1.8)
    end_s = evaluations[-1].time_s if evaluations else 1.0
    if summary.accuracy_final is not None:
        panel.annotate(
            f"{summary.accuracy_final:.3f}", (end_s, summary.accuracy_final), (0, 4), textcoords="offset points", ha="right", color=OURS
        )
    control = summary.accuracy_frozen_control
    if control is not None:
        panel.axhline(control, color=CONTROL, linewidth=1.2, linestyle="--")
        panel.annotate(
            f"frozen control {control:.3f}", (end_s, control), (0, -3), textcoords="offset points", ha="right", va="top", color="#666666"
        )
    panel.set_xlabel("modelled time, s")
    panel.set_title("accuracy", loc="left", fontsize=9)
    panel.set_ylim(0, 1.04)


def _draw_staleness(panel: Axes, staleness: Counter[int]) -> None:
    top = max(staleness)
    width = max(1, -(-(top + 1) // STALENESS_BINS_MAX))
    binned: Counter[int] = Counter()
    for versions, count in staleness.items():
        binned[versions // width] += count
    panel.bar([place * width for place in binned], list(binned.values()), width=0.9 * width, align="edge", color=OURS)
    panel.set_yscale("log")
    panel.set_xlabel("versions")
    panel.set_title("staleness, contributions", loc="left", fontsize=9)


def _draw_bytes(panel: Axes, by_kind: dict[str, int]) -> None:
    kinds = sorted((kind for kind in by_kind if by_kind[kind]), key=lambda kind: by_kind[kind])
    megabytes = [by_kind[kind] / 1e6 for kind in kinds]
    bars = panel.barh(kinds, megabytes, color=OURS, height=0.7)
    panel.bar_label(bars, labels=[f"{number:,.1f}" for number in megabytes], padding=2, fontsize=7)
    panel.set_xlim(0, 1.3 * max(megabytes, default=1.0))
    panel.grid(visible=False)
    panel.set_xticks([])
    panel.set_title(f"MB sent: {sum(megabytes):,.1f}", loc="left", fontsize=9)


def _colours(methods: Sequence[str]) -> dict[str, str]:
    others = [name for name in methods if name not in COLOURS]
    return COLOURS | {name: OTHERS[index % len(OTHERS)] for index, name in enumerate(others)}


def _figure(height_inches: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "svg.hashsalt": "hosfl",
        }
    )
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained", facecolor="white")


def _save(figure: Figure, path: Path) -> None:
    """Equal runs give equal files: no date is written."""
    if path.suffix not in FILES:
        raise SettingsError(
            str(path), "not a kind of picture", expected=f"a name that ends in {', '.join(FILES)}", found=path.suffix or "no ending"
        )
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    try:
        figure.savefig(path, metadata=metadata)
    except (OSError, ValueError) as problem:
        raise SettingsError(
            str(path), "the picture cannot be written", expected="a .png, .svg or .pdf file", found=str(problem)
        ) from problem
