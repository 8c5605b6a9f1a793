"""Pictures of studies that a table shows badly: ``python -m benchmarks.study_pictures`` draws them again from docs/tables.

``staleness_sweep`` becomes a heat map, slowness of the stragglers by buffer K: accuracy at equal samples, and modelled time to the target.
Studies of bytes become accuracy against bytes of the cut, a panel for each task, one below the other; a line joins what nothing beats in
both. Drawing takes a second; with ``--small`` the pictures are the same, and thrown away.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks import ROOT, new_parser
from benchmarks.study import FROZEN, TABLES, Study, read_lines, read_study
from hosfl_async.errors import HosflError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = ROOT / "docs/pictures"
FACTOR = "fleet[1].speed_factor"
BYTES = ("bytes_digits", "bytes_watch", "bytes_fashion", "bytes_minilm")
LINE, POINT, FAINT = "#0b6e99", "#333333", "#9a9a9a"
Lines = Sequence[Mapping[str, str]]


def mean_if_all(lines: Lines, figure: str) -> float | None:
    """Mean over the seeds of a figure that all of them have, else None."""
    there = [float(line[figure]) for line in lines if line[figure]]
    return fmean(there) if lines and len(there) == len(lines) else None


def grid(lines: Lines, labels: Sequence[str], factors: Sequence[str], figure: str) -> list[list[float | None]]:
    """One row for each label, one column for each factor."""
    return [
        [mean_if_all([line for line in lines if line["label"] == label and line[FACTOR] == factor], figure) for factor in factors]
        for label in labels
    ]


def unbeaten(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, gain) that no other one equals or beats in both and beats in one, by rising cost."""
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    found: list[int] = []
    for place in order:
        if not found or points[place][1] > points[found[-1]][1]:
            found.append(place)
    return found


def draw_staleness(study: Study, lines: Lines, path: Path) -> None:
    from matplotlib.colors import LogNorm, Normalize

    factors = [str(value) for value in study.axes[FACTOR]]
    labels = sorted(
        (row.label for row in study.row), key=lambda label: (not label.startswith("K = "), int(label.split()[-1]) if " " in label else 0)
    )
    figure = _figure(2.9)
    left, right = figure.subplots(1, 2, sharey=True)
    for panel, what, title in (
        (left, "at_samples", f"accuracy at {study.at.samples:,} samples"),
        (right, "time_to_target_s", f"modelled s to accuracy {study.target:g}"),
    ):
        cells = grid(lines, labels, factors, what)
        known = [value for row in cells for value in row if value is not None]
        frozen = mean_if_all([line for line in lines if line["label"] == FROZEN], what) or min(known)
        norm = LogNorm(min(known), max(known)) if panel is right else Normalize(frozen, max(known))
        numbers = [[float("nan") if value is None else value for value in row] for row in cells]
        panel.imshow(numbers, norm=norm, cmap="Blues" if panel is left else "Oranges", aspect="auto")
        for y, row in enumerate(cells):
            for x, value in enumerate(row):
                text = "-" if value is None else f"{value:.3f}" if panel is left else f"{value:,.0f}"
                dark = value is not None and norm(value) > 0.6
                panel.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        panel.set_xticks(range(len(factors)), [f"{factor}x" for factor in factors])
        panel.set_yticks(range(len(labels)), labels)
        panel.set_xlabel("how many times slower the stragglers are")
        panel.set_title(title, fontsize=9, loc="left")
        panel.tick_params(length=0)
    figure.savefig(path)


def draw_bytes(studies: Sequence[tuple[Study, Lines]], path: Path) -> None:
    figure = _figure(3.0 * len(studies))
    panels = list(figure.subplots(len(studies), 1, squeeze=False)[:, 0])
    for panel, (study, lines) in zip(panels, studies, strict=True):
        _draw_front(panel, study, lines)
        panel.set_ylabel("final accuracy, mean and range")
    panels[-1].set_xlabel("MB across the cut")
    figure.savefig(path)


def _draw_front(panel: Axes, study: Study, lines: Lines) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    labels = [row.label for row in study.row]
    each = [[line for line in lines if line["label"] == label] for label in labels]
    points = [(fmean(float(line["cut_bytes"]) for line in own) / 1e6, fmean(float(line["accuracy_final"]) for line in own)) for own in each]
    front = unbeaten(points)
    panel.plot([points[place][0] for place in front], [points[place][1] for place in front], color=LINE, linewidth=1, zorder=1)
    for place, (label, own, (x, y)) in enumerate(zip(labels, each, points, strict=True)):
        finals = [float(line["accuracy_final"]) for line in own]
        colour = LINE if place in front else POINT
        panel.plot([x, x], [min(finals), max(finals)], color=colour, linewidth=1)
        panel.plot(x, y, "o", color=colour, markersize=4)
        panel.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=colour)
    frozen = [float(line["accuracy_final"]) for line in lines if line["label"] == FROZEN]
    title = study.scenario + (f" (frozen client {fmean(frozen):.3f})" if frozen else "")
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(x=0.25)


def _figure(height_inches: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    return Figure(figsize=(7.0, height_inches), dpi=100, layout="constrained", facecolor="white")


def draw(folder: Path) -> None:
    sweep = read_study("staleness_sweep")
    draw_staleness(sweep, read_lines(sweep), folder / "staleness-sweep.png")
    there = [read_study(name) for name in BYTES if (TABLES / f"{name}.csv").exists()]
    if there:
        draw_bytes([(study, read_lines(study)) for study in there], folder / "bytes.png")


def main() -> int:
    small = new_parser(__doc__, as_json=False).parse_args().small
    try:
        with TemporaryDirectory() as thrown_away:
            folder = Path(thrown_away) if small else PICTURES
            draw(folder)
            print(*sorted(path.name for path in folder.glob("*.png")) if small else [f"drawn into {folder}"])
    except HosflError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
