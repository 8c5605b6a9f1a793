"""A finished run: its picture, the story of a step, its log replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import LOOK, app
from hosfl_async.cli.options import Run
from hosfl_async.errors import SettingsError


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl picture runs/quickstart-seed0 --out run.svg")
def picture(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of a comparison.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="File to write: .png, .svg or .pdf.", show_default=False)],
) -> None:
    """Draw a run (accuracy, staleness, bytes) or a comparison."""
    from hosfl_async import assembly

    assembly.draw(run, out)


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl report runs/quickstart-seed0 runs/stragglers-seed0 --out page.html")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or of a comparison or sweep.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Page to write; report.html in the first folder if left out.", show_default=False)
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder for the drawings: .png, .svg.", show_default=False)] = None,
) -> None:
    """Write one HTML page about runs: accuracy, staleness, bytes, what each client did. Several runs stand side by side."""
    from hosfl_async.assembly.reporting import report as write_report

    page = out or runs[0] / "report.html"
    write_report(runs, page, pictures)
    typer.echo(page)


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl export runs/quickstart-seed0 --to tensorboard")
def export(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or of a comparison or sweep.", show_default=False)],
    to: Annotated[
        list[str], typer.Option("--to", help="tensorboard, mlflow, wandb or parquet; or TOOL=PLACE. May be repeated.", show_default=False)
    ],
) -> None:
    """Write finished runs into a tracking tool: settings, curves, figures, digest. What the tool has already is left alone."""
    from hosfl_async.assembly.tracked import export as write_export

    write_export(runs, to, typer.echo)


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl story runs/quickstart-seed0 --step client-3/17")
def story(run: Run, step: Annotated[str, typer.Option(help="Step name, for example client-3/17.", show_default=False)]) -> None:
    """Tell everything that happened to one client step, in order."""
    from hosfl_async import assembly

    lines = assembly.story_lines(run, step)
    if not lines:
        raise SettingsError(str(run), f"nothing happened to step {step}", mend="steps are named client-NUMBER/STEP, counted from 1")
    for line in lines:
        typer.echo(line)


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl replay runs/quickstart-seed0")
def replay(run: Run) -> None:
    """Rebuild the client half from the update log and compare its digest with the one the run ended with."""
    from hosfl_async import assembly

    result = assembly.replay(run)
    typer.echo(result.text)
    if not result.agrees:
        raise typer.Exit(1)
