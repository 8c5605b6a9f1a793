"""An operator's authority and the kits of devices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import DEPLOY, app
from hosfl_async.cli.console import errors, wide
from hosfl_async.cli.options import File, Overrides

provision = typer.Typer(no_args_is_help=True, help="An operator's authority, the broker's files, and one kit of files for each device.")
app.add_typer(provision, name="provision", rich_help_panel=DEPLOY)

Folder = Annotated[Path, typer.Argument(help="The operator's folder.", show_default=False)]
Days = Annotated[int, typer.Option(help="How long certificates are valid.", min=1, max=3650)]


@provision.command(epilog="Example: hosfl provision init operator devices --run spring-1 --broker mqtts://broker.example:8883")
def init(
    folder: Folder,
    file: File,
    run: Annotated[str, typer.Option("--run", help="Name of the run: a topic level.", show_default=False)],
    broker: Annotated[str, typer.Option("--broker", help="mqtts://host[:port], as the devices will reach it.", show_default=False)],
    host: Annotated[list[str] | None, typer.Option("--host", help="Another name or address of the broker.", show_default=False)] = None,
    set_: Overrides = None,
    days: Days = 365,
) -> None:
    """Make an authority, the broker's files and the kits of aggregator and split server."""
    from hosfl_async.provisioning.operator import Operator, Plan

    with Operator.create(folder, Plan(run, file, broker, tuple(host or ()), tuple(set_ or ()), days)):
        typer.echo(f"{folder}/broker: to the broker's machine; start it there with `mosquitto -c mosquitto.conf`")
        typer.echo(f"{folder}/kits: one folder for each machine; start it there with `hosfl agent ROLE --config settings.toml`")


@provision.command(epilog="Example: hosfl provision device operator client-1 client-2")
def device(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(help="Devices such as client-3, or `all` for the whole fleet.", show_default=False)],
    days: Days = 365,
) -> None:
    """Make kits for devices of the fleet that have none."""
    from hosfl_async.provisioning.operator import Operator

    with Operator(folder) as operator:
        wanted = operator.without_kit() if names == ["all"] else names
        for kit in operator.add(wanted, days):
            typer.echo(kit)


@provision.command(epilog="Example: hosfl provision renew operator client-3 --days 90")
def renew(
    folder: Folder,
    names: Annotated[list[str], typer.Argument(help="Devices, or `broker`.", show_default=False)],
    revoke: Annotated[bool, typer.Option("--revoke", help="The old certificates are no longer valid, as after a theft.")] = False,
    days: Days = 365,
) -> None:
    """Make new keys and certificates, and the revocation list anew (which a broker refuses when it is 30 days old)."""
    from hosfl_async.provisioning.operator import Operator

    with Operator(folder) as operator:
        for name in names:
            typer.echo(operator.renew(name, days, revoke=revoke))
    typer.echo(f"copy {folder}/broker to the broker and send it SIGHUP")


@provision.command(epilog="Example: hosfl provision revoke operator client-4")
def revoke(folder: Folder, names: Annotated[list[str], typer.Argument(help="Devices.", show_default=False)]) -> None:
    """Make all certificates of devices invalid."""
    from hosfl_async.provisioning.operator import Operator

    with Operator(folder) as operator:
        for name in names:
            typer.echo(f"{name}: {operator.revoke(name)} revoked")
    typer.echo(f"copy {folder}/broker/crl.pem to the broker and restart it: open connections end with it")


@app.command(rich_help_panel=DEPLOY, epilog="Example: hosfl devices --set aggregator.client_steps=200")
def devices(
    file: File = Path("devices"),
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to create; the next free one in runs/ if left out.", show_default=False)
    ] = None,
) -> None:
    """Rehearse a deployment on this machine: mosquitto with mutual TLS, and every agent as a process with a kit of its own."""
    from rich.table import Table

    from hosfl_async.assembly import free_folder
    from hosfl_async.process.rehearsal import rehearse
    from hosfl_async.scenario import load_scenario, scenario_file

    folder = out or free_folder(load_scenario(file, set_ or ()))
    told = lambda line: errors.print(f"[dim]{line}[/dim]")  # noqa: E731
    rehearsed = asyncio.run(rehearse(folder, scenario_file(file), tuple(set_ or ()), told))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("agent", "exit code", "version", "frames sent", "frames received", "last words"):
        table.add_column(heading, justify="left" if heading in ("agent", "last words") else "right")
    for agent in rehearsed.agents:
        counts = agent.health.get("transport_counts", {})
        last = (
            "the run is over, parameters confirmed" if agent.code == 0 else agent.health.get("broken") or f"see {folder / agent.name}.log"
        )
        numbers = (agent.code, agent.health.get("version", ""), counts.get("sent", ""), counts.get("received", ""))
        table.add_row(agent.name, *map(str, numbers), last)
    wide().print(table)
    shown = "none" if rehearsed.accuracy is None else f"{rehearsed.accuracy:.3f}"
    typer.echo(f"accuracy {shown} after {rehearsed.client_steps:,} client steps; everything is in {folder}")
    if not rehearsed.well:
        raise typer.Exit(1)
