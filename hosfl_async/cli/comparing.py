"""Many runs: methods side by side, and the points of a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import TRAIN, app
from hosfl_async.cli.console import errors, told, wide
from hosfl_async.cli.options import Control, File, Jobs, Overrides


@app.command(rich_help_panel=TRAIN, epilog="Example: hosfl compare stragglers --methods hosfl_async,hosfl_sync --seeds 3")
def compare(
    file: File,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; the frozen-client control is added.")
    ] = "hosfl_async,hosfl_sync",
    seeds: Annotated[int, typer.Option(help="How many, from the scenario's own seed on.", min=1, max=1000)] = 3,
    target: Annotated[
        float | None, typer.Option(help="Accuracy to reach; expect.accuracy_min if left out.", show_default=False, min=0, max=1)
    ] = None,
    unequal: Annotated[bool, typer.Option("--unequal", help="Allow methods that differ in client steps in flight.")] = False,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; goes on there; runs/compare-NAME if left out.", show_default=False)
    ] = None,
    jobs: Jobs = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print comparison.json instead of the table.")] = False,
) -> None:
    """Run several methods on one scenario at equal concurrency: accuracy against samples, modelled time and bytes."""
    from hosfl_async.assembly.compare import Wish
    from hosfl_async.assembly.compare import compare as run_comparison
    from hosfl_async.assembly.folder import COMPARISON
    from hosfl_async.report.comparing import comparison_table, comparison_title

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    folder = out or Path("runs") / f"compare-{file.stem}"
    wish = Wish(file, names, seeds, tuple(set_ or ()), target, unequal)
    comparison = run_comparison(wish, folder, processes=jobs, told=told)
    if as_json:
        sys.stdout.write((folder / COMPARISON).read_text(encoding="utf-8"))
    else:
        wide().print(comparison_title(comparison), markup=False, style="bold")
        wide().print(comparison_table(comparison))
    errors.print(f"[dim]table, figures and pictures: {folder}[/dim]")


@app.command(rich_help_panel=TRAIN, epilog="Example: hosfl sweep mine.toml -j 2 --out runs/sweep-mine")
def sweep(
    file: File,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; goes on there; runs/sweep-NAME if left out.", show_default=False)
    ] = None,
    jobs: Jobs = 1,
    control: Control = True,
) -> None:
    r"""Run every point of a scenario's \[sweep]; what is finished is not run again. One table at the end."""
    from hosfl_async.assembly.many import Point, run_many
    from hosfl_async.report.sweep_table import sweep_row, write_sweep
    from hosfl_async.scenario import sweep_points

    points = sweep_points(file, set_ or ())
    folder = out or Path("runs") / f"sweep-{file.stem}"
    summaries = run_many([Point(each.name, each.scenario, control) for each in points], folder, processes=jobs, told=told)
    rows = [sweep_row(point.values, summary) for point, summary in zip(points, summaries, strict=True)]
    written = write_sweep(rows, folder)
    sys.stdout.write(written[0].read_text(encoding="utf-8"))
    errors.print(f"[dim]table: {', '.join(map(str, written))}[/dim]")
