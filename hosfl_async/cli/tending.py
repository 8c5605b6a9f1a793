"""What an operator asks of a deployment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from hosfl_async.cli.agents import ROLES
from hosfl_async.cli.app import DEPLOY, app
from hosfl_async.cli.console import wide
from hosfl_async.cli.watching import HEARD_WITHIN_S, Broker, RunId, chosen

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "wrong": "[red]WRONG[/red]"}


@app.command(rich_help_panel=DEPLOY, epilog="Example: hosfl doctor --config settings.toml")
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


@app.command(rich_help_panel=DEPLOY, epilog="Example: hosfl fleet --config settings.toml --json")
def fleet(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Settings file: the aggregator's, on its machine, or that of the kit `operator`, anywhere.", show_default=False
        ),
    ] = None,
    broker: Broker = None,
    run_id: RunId = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
) -> None:
    """Who is there: version, lag, last seen, what was refused, throughput. As the aggregator last wrote it down, or as the agents say."""
    import json
    import time

    from rich.markup import escape

    told = _told_of_fleet(config, broker, run_id)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    wide().print(_fleet_table(told))
    rate = told["client_steps_per_minute"]
    over = "" if told["window_s"] is None else f" over the last {told['window_s']:.0f} s"
    shown = "" if rate is None else f", {rate:g} client steps a minute{over}"
    typer.echo(f"version {told['head']}, {told['client_steps']:,} client steps{shown}; as of {time.time() - told['time_s']:.0f} s ago")
    if told["frames_of_unlisted_devices"]:
        typer.echo(escape(f"{told['frames_of_unlisted_devices']:,} frames came from devices beyond those listed"))


def _told_of_fleet(config: Path | None, broker: str | None, run_id: str | None) -> dict[str, Any]:
    """From the aggregator's state folder if this is its settings file, else by listening."""
    import json

    from hosfl_async.errors import SettingsError
    from hosfl_async.messages import AGGREGATOR

    if config is None and broker is None:
        raise SettingsError("fleet", "whose fleet?", expected="--config or --broker", mend="see --help")
    if config is None or broker is not None:
        return _heard_fleet(config, broker, run_id)
    from hosfl_async.process.settings import load_process_settings
    from hosfl_async.process.state import FLEET
    from hosfl_async.process.watching import any_settings

    if any_settings(config).name != AGGREGATOR:
        return _heard_fleet(config, broker, run_id)
    file = load_process_settings(config, "aggregator").state / FLEET
    try:
        told: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as problem:
        mend = "an aggregator that runs writes it every few seconds, on its machine; elsewhere give --broker, or the kit `operator`"
        raise SettingsError(str(file), "no roll of the fleet", found=str(problem), mend=mend) from problem
    return told


def _heard_fleet(config: Path | None, broker: str | None, run_id: str | None) -> dict[str, Any]:
    import time

    from hosfl_async.assembly.listening import TelemetryWatch

    with chosen(None, broker, run_id, config) as watch:
        assert isinstance(watch, TelemetryWatch)
        time.sleep(HEARD_WITHIN_S)
        return watch.fleet()


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
        heard = "never" if row["heard_s"] is None else f"{told['time_s'] - row['heard_s']:.0f} s ago"
        table.add_row(escape(name), "yes" if row["present"] else "lost", heard, *cells, escape(refused))
    return table
