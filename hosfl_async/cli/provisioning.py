"""An operator's authority and the kits of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import app
from hosfl_async.cli.options import File, Overrides

provision = typer.Typer(no_args_is_help=True, help="An operator's authority, the broker's files, and one kit of files for each device.")
app.add_typer(provision, name="provision")

Folder = Annotated[Path, typer.Argument(help="The operator's folder.", show_default=False)]
Days = Annotated[int, typer.Option(help="How long certificates are valid.", min=1, max=3650)]


@provision.command()
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


@provision.command()
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


@provision.command()
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


@provision.command()
def revoke(folder: Folder, names: Annotated[list[str], typer.Argument(help="Devices.", show_default=False)]) -> None:
    """Make all certificates of devices invalid."""
    from hosfl_async.provisioning.operator import Operator

    with Operator(folder) as operator:
        for name in names:
            typer.echo(f"{name}: {operator.revoke(name)} revoked")
    typer.echo(f"copy {folder}/broker/crl.pem to the broker and restart it: open connections end with it")
