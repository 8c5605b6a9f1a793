"""Scenario files: whether one can be run, and what may stand in it."""

from __future__ import annotations

import json

import typer

from hosfl_async.cli.app import PREPARE, app
from hosfl_async.cli.console import complain
from hosfl_async.cli.options import File, Overrides, Seed


@app.command(rich_help_panel=PREPARE, epilog="Example: hosfl check mine.toml --set aggregator.client_steps=500")
def check(file: File, seed: Seed = None, set_: Overrides = None) -> None:
    """Say whether a scenario file can be run, and if not, what is wrong with it: file, key, expected, found."""
    from hosfl_async.assembly.building import Parts
    from hosfl_async.assembly.fitting import wants_cost
    from hosfl_async.scenario import find_problems, load_scenario

    problems = find_problems(file, set_ or (), seed)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(2)
    scenario = load_scenario(file, set_ or (), seed)
    if wants_cost(scenario):
        _ = Parts(scenario).forward_flops  # raises where a step does not fit a device
    typer.echo(f"{file}: fine. {scenario.method}, {scenario.clients} clients, {scenario.aggregator.client_steps} client steps.")


@app.command(rich_help_panel=PREPARE, epilog="Example: hosfl schema > scenario.schema.json")
def schema() -> None:
    """Print the JSON Schema of scenario files."""
    from hosfl_async.scenario import schema as scenario_schema

    typer.echo(json.dumps(scenario_schema(), indent=2))
