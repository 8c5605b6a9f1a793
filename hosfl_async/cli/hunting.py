"""The search for a world that breaks something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import TRAIN, app
from hosfl_async.cli.console import errors
from hosfl_async.cli.options import File, Overrides, Seed


@app.command(rich_help_panel=TRAIN, epilog="Example: hosfl hunt lossy --tries 50 --out smallest.toml")
def hunt(
    file: File,
    tries: Annotated[int, typer.Option(help="Worlds to try beside the file's own; 0 tries that one only.", min=0)] = 200,
    steps: Annotated[int, typer.Option(help="Client steps of the shortened runs.", min=1)] = 60,
    budgets: Annotated[bool, typer.Option("--budgets", help="Hold the runs to the upper bounds of \\[expect] too.")] = False,
    seed: Seed = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="File for the smallest breaking scenario.")] = Path("hunted.toml"),
) -> None:
    """Search for a world that breaks an invariant: losses, delays, orders, crashes; write the smallest one as a scenario."""
    from hosfl_async.assembly.hunt import hunt as search
    from hosfl_async.scenario import load_scenario

    scenario = load_scenario(file, set_ or (), seed)
    found = search(scenario, tries=tries, client_steps=steps, budgets=budgets, told=_tried)
    if not found.problems:
        typer.echo(f"nothing broke in {found.tried} worlds of {scenario.name}, {steps} client steps each")
        return
    out.write_text(found.toml, encoding="utf-8")
    for problem in found.problems:
        typer.echo(problem)
    typer.echo(f"broken, after {found.tried} worlds; the smallest is in {out}")
    raise typer.Exit(1)


def _tried(number: int) -> None:
    if number % 50 == 0:
        errors.print(f"{number} worlds tried")
