"""The Python interface: run a scenario, compare methods, look at what came out. At home in a notebook, fit for a script.

::

    from hosfl_async import compare, simulate

    run = simulate("quickstart", settings={"aggregator.client_steps": 500})
    run.accuracy_final, run.accuracy_frozen_control
    run.frame()          # the curve as a pandas data frame
    run                  # in a notebook: table and picture
    compare("stragglers", ["hosfl_async", "hosfl_sync"], seeds=3).frame()

Everything is read from the run's folder, so a ``Run`` of a folder that ``hosfl simulate`` or ``hosfl live`` left shows the same.
pandas is the extra ``frames``.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from hosfl_async import assembly
from hosfl_async.assembly.compare import Wish
from hosfl_async.assembly.compare import compare as _compare
from hosfl_async.assembly.folder import COMPARISON, METRICS, SUMMARY, scenario_of
from hosfl_async.assembly.stories import ReplayResult
from hosfl_async.assembly.tracked import export
from hosfl_async.errors import SettingsError
from hosfl_async.report import Summary, read_summary, summary_table
from hosfl_async.report.comparing import Comparison, comparison_table, comparison_title, read_comparison, read_evaluations
from hosfl_async.report.recorder import Evaluation
from hosfl_async.scenario import Scenario, load_scenario, scenario_file
from hosfl_async.scenario.writing import override_texts

if TYPE_CHECKING:
    from pandas import DataFrame

Told = Callable[[str], None]
"""Called now and then with one line of text."""

_PAGE = '<pre style="font-family:monospace;line-height:1.3;white-space:pre;overflow-x:auto">{code}</pre>'


def simulate(
    scenario: Scenario | str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    control: bool = True,
    progress: bool | Told | None = None,
    track: str | Sequence[str] = (),
) -> Run:
    """Run a scenario in virtual time, and its frozen-client control beside it.

    ``scenario``: one that is loaded, a file, or a name of the gallery. ``settings``: what replaces the file's, as for ``load_scenario``.
    ``folder``: where the run folder is made; without it, one that lives as long as the ``Run``. ``progress``: whether a line tells how
    far the run is, or who is told; left out, a notebook shows it and a script does not. ``track``: tools that follow the run, such as
    ``["tensorboard"]`` or ``["mlflow=http://127.0.0.1:5000"]``.

    Raises ``SettingsError`` for anything that cannot be run.
    """
    scenario = _loaded(scenario, settings, seed)
    kept, place = _place(folder, "run")
    tell = _teller(progress)
    watch = None if tell is None else lambda look: tell(look.line)
    assembly.simulate(scenario, folder=place, control=control, watch=watch, track=_wishes(track), told=tell)
    _finish(tell)
    return Run(place, kept)


def compare(
    scenario: str | Path,
    methods: Sequence[str] = ("hosfl_async", "hosfl_sync"),
    *,
    seeds: int = 3,
    settings: Mapping[str, Any] | None = None,
    target: float | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: bool | Told | None = None,
) -> Compared:
    """Run several methods on one scenario at equal concurrency, each with the same ``seeds``; the frozen control is always among them.

    ``settings``: a key such as ``"hosfl_sync:aggregator.cohort"`` is for one method alone. ``target``: accuracy to reach; the scenario's
    expectation if left out. ``folder``: what is finished there is not run again. Otherwise as ``simulate``.
    """
    kept, place = _place(folder, "comparison")
    tell = _teller(progress)
    told = None if tell is None else lambda done, total, name: tell(f"{done} of {total}: {name}")
    named = (methods,) if isinstance(methods, str) else tuple(methods)
    wish = Wish(scenario_file(scenario), named, seeds, tuple(override_texts(settings or {})), target)
    _compare(wish, place, processes=processes, told=told)
    _finish(tell)
    return Compared(place, kept)


class Run:
    """A finished run, read from its folder: ``Run("runs/quickstart-seed0")``."""

    def __init__(self, folder: str | Path, kept: TemporaryDirectory[str] | None = None) -> None:
        """Raises ``SettingsError`` if there is no finished run. ``kept`` is removed when the run is no longer needed."""
        self.folder = Path(folder)
        self.scenario: Scenario = scenario_of(self.folder)
        self.summary: Summary = read_summary(self.folder / SUMMARY)
        self._kept = kept

    @property
    def accuracy_final(self) -> float | None:
        """Of the last evaluation, on held-out data."""
        return self.summary.accuracy_final

    @property
    def accuracy_best(self) -> float | None:
        """Of the best evaluation."""
        return self.summary.accuracy_best

    @property
    def accuracy_frozen_control(self) -> float | None:
        """Final accuracy of the same run with clients that never move; None if it was not run."""
        return self.summary.accuracy_frozen_control

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The curve, oldest first."""
        return read_evaluations(self.folder / METRICS)

    def frame(self) -> DataFrame:
        """The curve, one row for each evaluation; bytes by kind are columns such as ``bytes_activations``."""
        return _frame([_row(each) for each in self.evaluations])

    def story(self, step: str) -> str:
        """Everything that happened to a step such as ``client-3/17``, one line an event."""
        return "\n".join(assembly.story_lines(self.folder, step))

    def replay(self) -> ReplayResult:
        """The client half rebuilt from the update log, and whether its digest is the one that the run ended with."""
        return assembly.replay(self.folder)

    def export(self, to: str | Sequence[str]) -> None:
        """Write the run into tracking tools: ``tensorboard``, ``mlflow``, ``wandb``, ``parquet``, or ``TOOL=PLACE``.

        A tool that has the run already is left alone.
        """
        export([self.folder], _wishes(to))

    def picture(self, file: str | Path | None = None) -> bytes:
        """Accuracy, staleness and bytes as a PNG; written to ``file`` (.png, .svg or .pdf), too, if one is given."""
        return _picture(self.folder, file)

    def __repr__(self) -> str:
        return _text(summary_table(self.summary)).rstrip()

    def _repr_html_(self) -> str:
        return _html(summary_table(self.summary), self.picture())


class Compared:
    """Methods that were run on one scenario, read from the folder of the comparison."""

    def __init__(self, folder: str | Path, kept: TemporaryDirectory[str] | None = None) -> None:
        """Raises ``SettingsError`` if there is no comparison."""
        self.folder = Path(folder)
        self.comparison: Comparison = read_comparison(self.folder / COMPARISON)
        self._kept = kept

    def frame(self) -> DataFrame:
        """One row for each method and seed: final and best accuracy, and what it took to get to the target (missing: never got there)."""
        rows = []
        for method, figures in self.comparison.methods.items():
            for run in figures.runs:
                costs = {name: getattr(run, name) for name in ("samples_to_target", "time_to_target_s", "bytes_to_target")}
                best = {"accuracy_final": run.accuracy_final, "accuracy_best": run.accuracy_best}
                rows.append({"method": method, "seed": run.seed, **best, **costs, "bytes": sum(run.bytes.values())})
        return _frame(rows)

    def curves(self) -> DataFrame:
        """One row for each method, seed and evaluation: samples, modelled time, bytes and accuracy."""
        rows = []
        for method, figures in self.comparison.methods.items():
            for run in figures.runs:
                points = zip(run.curve.samples, run.curve.time_s, run.curve.bytes, run.curve.accuracy, strict=True)
                names = ("samples", "time_s", "bytes", "accuracy")
                rows += [{"method": method, "seed": run.seed, **dict(zip(names, point, strict=True))} for point in points]
        return _frame(rows)

    def picture(self, file: str | Path | None = None) -> bytes:
        """Accuracy against samples, modelled time and bytes as a PNG; written to ``file``, too, if one is given."""
        return _picture(self.folder, file)

    def __repr__(self) -> str:
        return f"{comparison_title(self.comparison)}\n{_text(comparison_table(self.comparison)).rstrip()}"

    def _repr_html_(self) -> str:
        table = comparison_table(self.comparison)
        table.title, table.title_justify = comparison_title(self.comparison), "left"
        return _html(table, self.picture())


def _loaded(scenario: Scenario | str | Path, settings: Mapping[str, Any] | None, seed: int | None) -> Scenario:
    if not isinstance(scenario, Scenario):
        return load_scenario(scenario, settings or {}, seed)
    if settings or seed is not None:
        raise SettingsError("settings", "this scenario is loaded already", mend="give them to load_scenario, or give the file")
    return scenario


def _wishes(tools: str | Sequence[str]) -> Sequence[str]:
    return [tools] if isinstance(tools, str) else tools


def _place(folder: str | Path | None, name: str) -> tuple[TemporaryDirectory[str] | None, Path]:
    """The folder, and what keeps it if nobody wants it for good."""
    if folder is not None:
        return None, Path(folder)
    kept: TemporaryDirectory[str] = TemporaryDirectory(prefix="hosfl-")
    return kept, Path(kept.name) / name


def _teller(progress: bool | Told | None) -> Told | None:
    if callable(progress):
        return progress
    wanted = _in_notebook() if progress is None else progress
    return (lambda line: print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)) if wanted else None


def _in_notebook() -> bool:
    """Whether a kernel runs this code; that somebody has imported one, as a script that runs notebooks does, is not enough."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _finish(tell: Told | None) -> None:
    if tell is not None:
        tell("")


def _picture(folder: Path, file: str | Path | None) -> bytes:
    if file is not None:
        assembly.draw(folder, Path(file))
    with TemporaryDirectory() as place:
        drawn = Path(place) / "picture.png"
        assembly.draw(folder, drawn)
        return drawn.read_bytes()


def _row(point: Evaluation) -> dict[str, Any]:
    flat = {name: getattr(point, name) for name in point.__struct_fields__ if name != "bytes"}
    return flat | {f"bytes_{kind}": number for kind, number in point.bytes.items()}


def _frame(rows: list[dict[str, Any]]) -> DataFrame:
    try:
        from pandas import DataFrame
    except ImportError as problem:
        raise SettingsError("frame", f"it needs pandas: {problem}", mend="pip install 'hosfl-async[frames]'") from problem
    return DataFrame(rows)


def _text(table: Table) -> str:
    console = Console(file=StringIO(), width=120, highlight=False, color_system=None, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def _html(table: Table, picture: bytes) -> str:
    console = Console(file=StringIO(), width=120, highlight=False, record=True, force_jupyter=False)
    console.print(table)
    text = console.export_html(inline_styles=True, code_format=_PAGE)
    return f'{text}<img alt="pictures of the run" src="data:image/png;base64,{b64encode(picture).decode()}">'
