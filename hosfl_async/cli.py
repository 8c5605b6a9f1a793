"""The ``hosfl`` command. Figures go to standard output; progress and errors go to standard error.

Exit codes: 0 done; 1 the run or check found something wrong (an expectation not met, digests that differ); 2 a file, option or setting
that cannot be; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from hosfl_async.errors import HosflError, SettingsError

INTERRUPTED = 130
WIDE = 120
"""Columns that wide tables take, whatever the terminal has."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Asynchronous hybrid-order split federated learning: simulate it, or run it live over MQTT.",
)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)

File = Annotated[Path, typer.Argument(help="Scenario file (TOML).", show_default=False)]
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


@app.command()
def simulate(
    file: File, seed: Seed = None, set_: Overrides = None, out: Out = None, as_json: AsJson = False, control: Control = True
) -> None:
    """Run a scenario in virtual time: every agent in one thread, the same seed gives the same bytes."""
    from hosfl_async import assembly
    from hosfl_async.scenario import load_scenario

    scenario = load_scenario(file, set_ or (), seed)
    with _Progress() as progress:
        summary = assembly.simulate(scenario, folder=out or assembly.free_folder(scenario), control=control, watch=progress.show)
    _tell(summary, as_json, progress.folder)


@app.command()
def live(
    file: File,
    broker: Annotated[str, typer.Option(help="auto, mosquitto or iotcore start one; or mqtt://host:port.")] = "auto",
    time_scale: Annotated[float | None, typer.Option(help="Wall seconds per modelled second.", show_default=False)] = None,
    seed: Seed = None,
    set_: Overrides = None,
    out: Out = None,
    as_json: AsJson = False,
    control: Control = True,
) -> None:
    """Run a scenario in wall-clock time over a real MQTT broker: the very same agents, each with its own connection."""
    from hosfl_async import assembly
    from hosfl_async.scenario import load_scenario

    overrides = [*(set_ or ()), *([f"live.time_scale={time_scale}"] if time_scale is not None else [])]
    scenario = load_scenario(file, overrides, seed)
    with _Progress() as progress:
        folder = out or assembly.free_folder(scenario)
        summary = assembly.run_live(scenario, folder=folder, broker=broker, control=control, watch=progress.show)
    _tell(summary, as_json, progress.folder)


@app.command()
def compare(
    file: File,
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; the frozen-client control is added.")
    ] = "hosfl_async,hosfl_sync",
    seeds: Annotated[int, typer.Option(help="How many, from the scenario's own seed on.", min=1, max=1000)] = 3,
    target: Annotated[
        float | None, typer.Option(help="Accuracy to reach; expect.accuracy_min if left out.", show_default=False, min=0, max=1)
    ] = None,
    unequal: Annotated[bool, typer.Option("--unequal", help="Allow methods that differ in client steps in flight.")] = False,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; goes on there; runs/compare-NAME if left out.", show_default=False)
    ] = None,
    jobs: Jobs = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print comparison.json instead of the table.")] = False,
) -> None:
    """Run several methods on one scenario at equal concurrency: accuracy against samples, modelled time and bytes."""
    from hosfl_async.assembly.compare import Wish
    from hosfl_async.assembly.compare import compare as run_comparison
    from hosfl_async.assembly.folder import COMPARISON
    from hosfl_async.report.comparing import comparison_table, comparison_title

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    folder = out or Path("runs") / f"compare-{file.stem}"
    wish = Wish(file, names, seeds, tuple(set_ or ()), target, unequal)
    comparison = run_comparison(wish, folder, processes=jobs, told=_told)
    if as_json:
        sys.stdout.write((folder / COMPARISON).read_text(encoding="utf-8"))
    else:
        _wide().print(comparison_title(comparison), markup=False, style="bold")
        _wide().print(comparison_table(comparison))
    _errors.print(f"[dim]table, figures and pictures: {folder}[/dim]")


@app.command()
def sweep(
    file: File,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; goes on there; runs/sweep-NAME if left out.", show_default=False)
    ] = None,
    jobs: Jobs = 1,
    control: Control = True,
) -> None:
    r"""Run every point of a scenario's \[sweep]; what is finished is not run again. One table at the end."""
    from hosfl_async.assembly.many import Point, run_many
    from hosfl_async.report.sweep_table import sweep_row, write_sweep
    from hosfl_async.scenario import sweep_points

    points = sweep_points(file, set_ or ())
    folder = out or Path("runs") / f"sweep-{file.stem}"
    summaries = run_many([Point(each.name, each.scenario, control) for each in points], folder, processes=jobs, told=_told)
    rows = [sweep_row(point.values, summary) for point, summary in zip(points, summaries, strict=True)]
    written = write_sweep(rows, folder)
    sys.stdout.write(written[0].read_text(encoding="utf-8"))
    _errors.print(f"[dim]table: {', '.join(map(str, written))}[/dim]")


@app.command()
def hunt(
    file: File,
    tries: Annotated[int, typer.Option(help="Worlds to try beside the file's own; 0 tries that one only.", min=0)] = 200,
    steps: Annotated[int, typer.Option(help="Client steps of the shortened runs.", min=1)] = 60,
    budgets: Annotated[bool, typer.Option("--budgets", help="Hold the runs to the upper bounds of \\[expect] too.")] = False,
    seed: Seed = None,
    set_: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="File for the smallest breaking scenario.")] = Path("hunted.toml"),
) -> None:
    """Search for a world that breaks an invariant: losses, delays, orders, crashes; write the smallest one as a scenario."""
    from hosfl_async.assembly.hunt import hunt as search
    from hosfl_async.scenario import load_scenario

    scenario = load_scenario(file, set_ or (), seed)
    found = search(scenario, tries=tries, client_steps=steps, budgets=budgets, told=_tried)
    if not found.problems:
        typer.echo(f"nothing broke in {found.tried} worlds of {scenario.name}, {steps} client steps each")
        return
    out.write_text(found.toml, encoding="utf-8")
    for problem in found.problems:
        typer.echo(problem)
    typer.echo(f"broken, after {found.tried} worlds; the smallest is in {out}")
    raise typer.Exit(1)


@app.command()
def picture(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of a comparison.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="File to write: .png, .svg or .pdf.", show_default=False)],
) -> None:
    """Draw a run (accuracy, staleness, bytes) or a comparison."""
    from hosfl_async import assembly

    assembly.draw(run, out)


@app.command()
def check(file: File, seed: Seed = None, set_: Overrides = None) -> None:
    """Say whether a scenario file can be run, and if not, what is wrong with it: file, key, expected, found."""
    from hosfl_async.scenario import find_problems, load_scenario

    problems = find_problems(file, set_ or (), seed)
    for problem in problems:
        _complain(problem)
    if problems:
        raise typer.Exit(2)
    scenario = load_scenario(file, set_ or (), seed)
    typer.echo(f"{file}: fine. {scenario.method}, {scenario.clients} clients, {scenario.aggregator.client_steps} client steps.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenario files."""
    from hosfl_async.scenario import schema as scenario_schema

    typer.echo(json.dumps(scenario_schema(), indent=2))


@app.command()
def story(run: Run, step: Annotated[str, typer.Option(help="Step name, for example client-3/17.", show_default=False)]) -> None:
    """Tell everything that happened to one client step, in order."""
    from hosfl_async import assembly

    lines = assembly.story_lines(run, step)
    if not lines:
        raise SettingsError(str(run), f"nothing happened to step {step}", mend="steps are named client-NUMBER/STEP, counted from 1")
    for line in lines:
        typer.echo(line)


@app.command()
def replay(run: Run) -> None:
    """Rebuild the client half from the update log and compare its digest with the one the run ended with."""
    from hosfl_async import assembly

    result = assembly.replay(run)
    typer.echo(result.text)
    if not result.agrees:
        raise typer.Exit(1)


class _Progress:
    """One line that tells how far the run is; on a terminal it is rewritten, elsewhere it is printed ten times in all."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._status: Any = None
        self._tenth = -1

    def __enter__(self) -> _Progress:
        if _errors.is_terminal:
            self._status = _errors.status("starting")
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
            _errors.print(progress.line)


def _tried(number: int) -> None:
    if number % 50 == 0:
        _errors.print(f"{number} worlds tried")


def _wide() -> Console:
    """For tables of many columns: figures cut off to fit a narrow page would be worthless."""
    return Console(highlight=False, width=max(Console().width, WIDE), soft_wrap=True)


def _told(done: int, total: int, name: str) -> None:
    _errors.print(f"{done} of {total}: {name}")


def _tell(summary: Any, as_json: bool, folder: Path | None) -> None:
    from hosfl_async.report import summary_table

    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    else:
        Console(highlight=False).print(summary_table(summary))
    if folder is not None:
        _errors.print(f"[dim]run folder: {folder}[/dim]")
    if summary.unmet or not summary.digests_agree:
        raise typer.Exit(1)


def _plain(problem: Exception) -> str:
    return str(problem).replace("[", r"\[")


def main() -> None:
    """Entry point of the ``hosfl`` command."""
    sys.exit(_guarded(app))


def _guarded(run: Callable[..., Any]) -> int:
    """Every error that we raise on purpose, and every wrong use of the command, is one line."""
    try:
        code = int(run(standalone_mode=False) or 0)  # typer returns the code of an Exit, and 130 for an interrupt
    except HosflError as problem:
        return _complain(problem)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as problem:
        if not type(problem).__module__.startswith(("click", "typer")):
            raise
        return _complain(problem)
    if code == INTERRUPTED:
        _errors.print("interrupted; what is in the run folder can be replayed")
    return code


def _complain(problem: Exception) -> int:
    _errors.print(f"[red]error:[/red] {_plain(problem)}")
    return 2
