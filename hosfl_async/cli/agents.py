"""Processes of a real deployment: one agent, or a broker of our own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import DEPLOY, app
from hosfl_async.cli.console import errors

ROLES = ("aggregator", "server", "client")


@app.command(rich_help_panel=DEPLOY, epilog="Example: hosfl agent client --config settings.toml")
def agent(
    role: Annotated[str, typer.Argument(help="aggregator, server or client.", show_default=False)],
    config: Annotated[Path, typer.Option("--config", help="Settings file of this process (TOML).", show_default=False)],
    health: Annotated[
        str | None, typer.Option("--health", help="A file to keep, or a port to answer on, instead of the settings'.", show_default=False)
    ] = None,
) -> None:
    """Run one agent in this process, over a broker that runs already. Environment variables HOSFL_... override the settings file."""
    from hosfl_async.errors import SettingsError
    from hosfl_async.process import load_process_settings, run_agent

    if role not in ROLES:
        raise SettingsError("agent", "no such role", expected=", ".join(ROLES), found=role)
    settings = load_process_settings(config, role, health)  # type: ignore[arg-type]
    if code := run_agent(role, settings):  # type: ignore[arg-type]
        raise typer.Exit(code)


@app.command(rich_help_panel=DEPLOY, epilog="Example: hosfl broker --kind mosquitto --port 1884")
def broker(
    kind: Annotated[str, typer.Option("--kind", help="auto, mosquitto or iotcore.")] = "auto",
    port: Annotated[int, typer.Option("--port", help="Port of 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 1883,
) -> None:
    """Run a broker for this machine alone, until interrupted: no access control, nothing durable. Prints its URL."""
    from hosfl_async.errors import SettingsError
    from hosfl_async.process.broker_alone import run_broker

    if kind not in ("auto", "mosquitto", "iotcore"):
        raise SettingsError("--kind", "no such broker", expected="auto, mosquitto or iotcore", found=kind)

    def opened(kind: str, url: str) -> None:
        errors.print(f"[dim]{kind} listens; Ctrl-C ends it[/dim]")
        typer.echo(url)

    asyncio.run(run_broker(kind, port or None, opened))  # type: ignore[arg-type]
