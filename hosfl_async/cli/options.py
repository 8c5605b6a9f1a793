"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[
    Path,
    typer.Argument(help="Scenario file (TOML), or a name of the gallery, such as quickstart.", show_default=False),
]
FileUnlessResumed = Annotated[
    Path | None,
    typer.Argument(help="Scenario file (TOML), or a name of the gallery, such as quickstart; not with --resume.", show_default=False),
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", help="Go on with the run in this folder, in it; --set may wish for more steps.", show_default=False),
]
Run = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="Replaces the scenario's seed.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, for example aggregator.client_steps=500; may be repeated.", show_default=False)
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run folder to create; the next free one in runs/ if left out.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")]
Jobs = Annotated[int, typer.Option("-j", help="Processes at once.", min=1, max=256)]
Control = Annotated[bool, typer.Option("--control/--no-control", help="Also run the frozen-client control.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track", help="tensorboard, mlflow, wandb or parquet follows the run; or TOOL=PLACE. May be repeated.", show_default=False
    ),
]
