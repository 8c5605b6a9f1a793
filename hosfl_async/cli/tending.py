"""What an operator asks of a deployment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.agents import ROLES
from hosfl_async.cli.app import app
from hosfl_async.cli.console import wide

_MARKS = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "wrong": "[red]WRONG[/red]"}


@app.command()
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
