"""The ``hosfl`` command itself; each group of its commands is a module that hangs them on ``app``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Annotated, Any

import typer

from hosfl_async.cli.console import complain, errors
from hosfl_async.errors import HosflError

INTERRUPTED = 130

TRAIN, LOOK, FOLLOW, PREPARE, DEPLOY = "Train", "Look at what a run left", "Follow a run", "Scenario files and data", "Real devices"
"""Headings under which `hosfl --help` has the commands."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Asynchronous hybrid-order split federated learning: simulate it, or run it live over MQTT.",
    epilog="To begin: hosfl simulate quickstart, then hosfl report runs/quickstart-seed0",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hosfl_async {version_of('hosfl-async')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """What stands before the name of a command; the text of the whole is that of ``app``."""


def main() -> None:
    """Entry point of the ``hosfl`` command."""
    sys.exit(guarded(app))


def guarded(run: Callable[..., Any]) -> int:
    """Every error that we raise on purpose, and every wrong use of the command, is one line."""
    try:
        code = int(run(standalone_mode=False, prog_name="hosfl") or 0)  # typer returns the code of an Exit, and 130 for an interrupt
    except HosflError as problem:
        return complain(problem)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as problem:
        if not type(problem).__module__.startswith(("click", "typer")):
            raise
        return complain(_misuse(problem)) if str(problem) else 2  # called without a command, it has shown its help
    if code == INTERRUPTED:
        errors.print("interrupted; what is in the run folder can be replayed, and a single run goes on with --resume")
    return code


def _misuse(problem: Any) -> str:
    """Which option or argument is missing or wrong, and of which command; the library's exceptions tell both, their text not always."""
    told = problem.format_message().rstrip(".") if hasattr(problem, "format_message") else str(problem)
    cause: Any = problem.__cause__  # pydantic's, which is not imported here: --version and --help stay quick
    if hasattr(cause, "errors"):
        told += f"; found {cause.errors()[0]['input']}"
    context = getattr(problem, "ctx", None)
    return f"{told}; see {context.command_path} --help" if context is not None else told
