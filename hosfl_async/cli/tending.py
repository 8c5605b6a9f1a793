"""What an operator asks of a deployment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from hosfl_async.cli.agents import ROLES
from hosfl_async.cli.app import app
from hosfl_async.cli.console import wide

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "wrong": "[red]WRONG[/red]"}


@app.command(epilog="Example: hosfl doctor --config settings.toml")
def doctor(
    config: Annotated[Path, typer.Option("--config", help="Settings file of the agent (TOML).", show_default=False)],
    role: Annotated[
        str | None, typer.Option("--role", help="aggregator, server or client; known from the name in the settings.", show_default=False)
    ] = None,
) -> None:
    """Look at everything an agent needs here: settings, certificate, disk, replay, broker, and an answer of the aggregator."""
    from rich.markup import escape

    from hosfl_async.errors import SettingsError
    from hosfl_async.process.doctor import examine

    chosen = role or _role_of(config)
    if chosen not in ROLES:
        raise SettingsError("--role", "no such role", expected=", ".join(ROLES), found=chosen)
    wrong = 0
    for finding in examine(config, chosen):  # type: ignore[arg-type]
        wrong += finding.state == "wrong"
        mend = f"\n             [dim]mend:[/dim] {escape(finding.mend)}" if finding.mend else ""
        wide().print(f"{finding.look:<12} {_MARKS[finding.state]:<8} {escape(finding.found)}{mend}")
    if wrong:
        raise typer.Exit(1)


def _role_of(config: Path) -> str:
    from hosfl_async.errors import SettingsError

    try:
        name = os.environ.get("HOSFL_NAME") or tomllib.loads(config.read_text()).get("name", "")
    except (OSError, ValueError) as problem:
        raise SettingsError(str(config), "cannot be read", expected="a settings file (TOML)", found=str(problem)) from problem
    if not name:
        raise SettingsError(f"{config}: name", "missing: whose settings are these?", mend="give --role")
    return {"aggregator": "aggregator", "split_server": "server"}.get(name, "client")


@app.command(epilog="Example: hosfl fleet --config settings.toml --json")
def fleet(
    config: Annotated[Path, typer.Option("--config", help="Settings file of the aggregator (TOML), on its machine.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Who is there, as the aggregator last wrote it down: version, lag, last seen, what was refused and why, throughput."""
    import json
    import time

    from rich.markup import escape

    from hosfl_async.errors import SettingsError
    from hosfl_async.process.settings import load_process_settings
    from hosfl_async.process.state import FLEET

    file = load_process_settings(config, "aggregator").state / FLEET
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        mend = "an aggregator that runs writes it every few seconds; this command works on its machine"
        raise SettingsError(str(file), "no roll of the fleet", found=str(problem), mend=mend) from problem
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    wide().print(_fleet_table(told))
    rate = told["client_steps_per_minute"]
    shown = "" if rate is None else f", {rate:g} client steps a minute over the last {told['window_s']:.0f} s"
    typer.echo(f"version {told['head']}, {told['client_steps']:,} client steps{shown}; as of {time.time() - told['time_s']:.0f} s ago")
    if told["frames_of_unlisted_devices"]:
        typer.echo(escape(f"{told['frames_of_unlisted_devices']:,} frames came from devices beyond those listed"))


def _fleet_table(told: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("device", "here", "last heard", "version", "lag", "incarnation", "accepted", "refused"):
        table.add_column(heading, justify="left" if heading in ("device", "here", "refused") else "right")
    for name, row in told["devices"].items():
        refused = ", ".join(f"{why} {number:,}" for why, number in sorted(row["refused"].items()))
        figures = (row["version"], row["lag"], row["incarnation"], row["accepted_answers"])
        cells = ("" if figure is None else f"{figure:,}" for figure in figures)
        table.add_row(
            escape(name), "yes" if row["present"] else "lost", f"{told['time_s'] - row['heard_s']:.0f} s ago", *cells, escape(refused)
        )
    return table
