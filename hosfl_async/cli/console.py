"""Where a command speaks: figures to standard output, progress and errors to standard error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console

WIDE = 120
"""Columns that wide tables take, whatever the terminal has."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Progress:
    """One line that tells how far the run is; on a terminal it is rewritten, elsewhere it is printed ten times in all."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._status: Any = None
        self._tenth = -1

    def __enter__(self) -> Progress:
        if errors.is_terminal:
            self._status = errors.status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, progress: Any) -> None:
        self.folder = progress.folder or self.folder
        if self._status is not None:
            self._status.update(progress.line)
            return
        tenth = progress.tenths
        if tenth != self._tenth:
            self._tenth = tenth
            errors.print(progress.line)


def wide() -> Console:
    """For tables of many columns: figures cut off to fit a narrow page would be worthless."""
    return Console(highlight=False, width=max(Console().width, WIDE), soft_wrap=True)


def told(done: int, total: int, name: str) -> None:
    errors.print(f"{done} of {total}: {name}")


def say(line: str) -> None:
    """A remark beside the figures."""
    errors.print(line, markup=False)


def tell(summary: Any, as_json: bool, folder: Path | None) -> None:
    from hosfl_async.report import summary_table

    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    else:
        Console(highlight=False).print(summary_table(summary))
    if folder is not None:
        errors.print(f"[dim]run folder: {folder}[/dim]")
    if summary.unmet or not summary.digests_agree:
        raise typer.Exit(1)


def complain(problem: Exception | str) -> int:
    errors.print(f"[red]error:[/red] {_plain(problem)}")
    return 2


def _plain(problem: Exception | str) -> str:
    return str(problem).replace("[", r"\[")
