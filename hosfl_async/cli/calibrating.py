"""A run turned into a scenario, and that scenario held against the run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from hosfl_async.cli.app import LOOK, app
from hosfl_async.cli.console import Progress, errors, wide
from hosfl_async.cli.options import Run
from hosfl_async.errors import SettingsError

if TYPE_CHECKING:
    from hosfl_async.calibration import Calibration, Compared
    from hosfl_async.scenario import Scenario


@app.command(rich_help_panel=LOOK, epilog="Example: hosfl calibrate runs/live-seed0 --out measured.toml")
def calibrate(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Scenario file to write; calibrated.toml in the run's folder if left out.", show_default=False),
    ] = None,
    predict: Annotated[bool, typer.Option("--predict/--no-predict", help="Simulate the scenario and hold it against the run.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON instead of the tables.")] = False,
) -> None:
    """Turn a run's journal into a scenario: device speeds, links, absences. Then simulate it, and say how well it predicts the run."""
    from hosfl_async.assembly.folder import scenario_of
    from hosfl_async.calibration import calibrate as fit
    from hosfl_async.calibration.clocks import together
    from hosfl_async.calibration.observing import observe

    scenario, journals = scenario_of(run), _journals(run)
    made, calibration = fit(scenario, observe(together(journals)))
    file = out or run / "calibrated.toml"
    _write(file, made)
    rows = _predict(made, journals) if predict else []
    if as_json:
        told = {"scenario": str(file), **msgspec.to_builtins(calibration), "prediction": msgspec.to_builtins(rows)}
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    else:
        _show(calibration, rows)
    errors.print(f"[dim]scenario: {file}[/dim]")


def _write(file: Path, made: Scenario) -> None:
    from hosfl_async.scenario import to_toml

    try:
        file.write_text(to_toml(made), encoding="utf-8")
    except OSError as problem:
        raise SettingsError(str(file), "cannot be written", found=str(problem), mend="choose another with --out") from problem


def _journals(run: Path) -> list[Path]:
    """The run's own journal, or those of its processes, gathered in its folder."""
    from hosfl_async.assembly.folder import TRACE

    found = [run / TRACE] if (run / TRACE).is_file() else sorted(run.glob("*.msgpack"))
    if not found:
        mend = "runs of `hosfl live` and `hosfl simulate` keep one; agents write one each with `trace` in their settings"
        raise SettingsError(str(run), "this run keeps no journal", expected=f"{TRACE}, or one *.msgpack of each agent", mend=mend)
    return found


def _predict(made: Scenario, journals: list[Path]) -> list[Compared]:
    from hosfl_async.assembly import simulate
    from hosfl_async.assembly.folder import TRACE
    from hosfl_async.calibration import compared, course_of
    from hosfl_async.calibration.clocks import together
    from hosfl_async.trace import read_trace

    with TemporaryDirectory(prefix="hosfl-calibrate-") as place, Progress() as progress:
        course, folder = course_of(together(journals)), Path(place) / "run"
        if 0 < course.client_steps < made.aggregator.client_steps:  # the run was broken off
            made = replace(made, aggregator=replace(made.aggregator, client_steps=course.client_steps))
        simulate(made, folder=folder, control=False, watch=progress.show)
        return compared(course, course_of(read_trace(folder / TRACE)))


def _show(calibration: Calibration, rows: list[Compared]) -> None:
    from rich.markup import escape

    groups = [
        (f"{group.first} to {group.last}" if group.clients > 1 else group.first, str(group.clients), f"{group.forward_s:.4g}",
         f"{group.error:.2g}", f"{group.jitter_sigma:.3g}", f"{group.jobs:,}")
        for group in calibration.groups
    ]  # fmt: skip
    wide().print(_table(("clients", "number", "s a forward pass", "error", "jitter sigma", "jobs"), groups))
    figures = [(each.key, f"{each.value:.5g}", f"{each.error:.2g}", f"{each.samples:,}") for each in calibration.figures]
    wide().print(_table(("figure", "value", "error", "samples"), figures))
    wide().print("\nnot told by the journal; the run's own setting stands:")
    for unknown in calibration.unknown:
        wide().print(f"  {escape(unknown.key)}: {escape(unknown.why)}")
    if rows:
        shown = [(row.figure, _short(row.run), _short(row.simulated), "-" if row.ratio is None else f"{row.ratio:.3f}") for row in rows]
        wide().print()
        wide().print(_table(("", "run", "simulated", "ratio"), shown))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table
