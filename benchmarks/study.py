"""A question of docs/results.md, asked again: a file of ``studies/`` names a scenario, rows of settings and seeds; this runs them.

``python -m benchmarks.study NAME -j 2``, or ``--size small`` (or ``full``) for all of a size; ``--list`` tells what there is. What has
been run stands below ``runs/studies`` and is not run again. The figures of every run go to ``docs/tables/NAME.csv``, and the table below
``<!-- study: NAME -->`` in docs/results.md is written anew from them; ``--render`` does only that. With ``--small`` a few steps of one
seed of each row are run, and nothing is written.

A study is TOML::

    question = "What do quantised activations cost?"   # one sentence
    scenario = "quickstart"            # a name of the gallery, or a file beside the study
    seeds = [0, 1, 2]
    size = "small"                     # or "full": not part of `make results`
    control = true                     # the frozen client beside it, for every seed and every value of the axes
    target = 0.88                      # optional: samples, time and bytes to the first evaluation that is as good
    loss = true                        # optional: held-out loss beside accuracy, where the latter is too coarse
    at = { samples = 40000, time_s = 200.0, bytes = 8000000 }   # optional: accuracy at the last evaluation before
    [set]                              # settings for every row, as for --set
    "server.evaluate_every_steps" = 100
    [axes]                             # optional: every row is run with every combination
    "fleet[1].speed_factor" = [1, 10]
    [[row]]
    label = "float32"
    set = { "cut.activations" = "float32" }

The first row is what the others are compared with, seed by seed.
"""

from __future__ import annotations

import csv
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks import ROOT, SMALL_RUN, new_parser
from hosfl_async.assembly.folder import METRICS, SUMMARY
from hosfl_async.assembly.many import Point, run_many
from hosfl_async.errors import HosflError, SettingsError
from hosfl_async.report import read_summary
from hosfl_async.report.comparing import curve_of, method_run, read_evaluations
from hosfl_async.report.summary import Personal
from hosfl_async.scenario import Scenario, gallery, load_scenario, scenario_file
from hosfl_async.scenario.writing import override_texts, scenario_digest

STUDIES, TABLES, RESULTS, RUNS = ROOT / "studies", ROOT / "docs/tables", ROOT / "docs/results.md", ROOT / "runs/studies"
FROZEN = "frozen client"
NEVER = 2.0
"""A target that no accuracy reaches, for studies without one."""
FIGURES: tuple[str, ...] = (
    "accuracy_final",
    "accuracy_best",
    "samples",
    "time_s",
    "bytes",
    "cut_bytes",
    "samples_to_target",
    "time_to_target_s",
)
FIGURES += ("bytes_to_target", "at_samples", "at_time_s", "at_bytes")
PERSONAL: tuple[str, ...] = ("own_before", "own_after", "own_worst_before", "own_worst_after")
"""Of studies with personal fine-tuning: accuracies on the clients' own tests, mean and worst client."""
LOSS: tuple[str, ...] = ("loss_final",)
"""Of studies that want it: held-out loss at the last evaluation."""


class At(BaseModel):
    """Where accuracies are read off the curve: at equal samples, modelled time, bytes."""

    model_config = ConfigDict(extra="forbid")
    samples: int | None = Field(default=None, gt=0)
    time_s: float | None = Field(default=None, gt=0)
    bytes: int | None = Field(default=None, gt=0)


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: str
    set: dict[str, Any] = {}


class Study(BaseModel):
    """A file of ``studies/``. Fields as in the module's text."""

    model_config = ConfigDict(extra="forbid")
    name: str
    question: str
    scenario: str
    seeds: list[int] = Field(min_length=1)
    size: Literal["small", "full"]
    control: bool = True
    target: float | None = Field(default=None, gt=0, le=1)
    loss: bool = False
    at: At = At()
    set: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    row: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Study:
        labels = [row.label for row in self.row]
        if len({*labels, FROZEN}) <= len(labels):
            raise ValueError(f"labels of rows must differ from each other and from {FROZEN!r}")
        return self

    def conditions(self) -> Iterator[dict[str, Any]]:
        """One value for each axis, the last axis varying fastest."""
        for values in product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


def in_small(study: Study) -> Study:
    """The same rows and columns, with a few steps of one seed and one value of each axis."""
    rows = [row.model_copy(update={"set": {**row.set, **SMALL_RUN}}) for row in study.row]
    axes = {key: values[:1] for key, values in study.axes.items()}
    return study.model_copy(update={"seeds": study.seeds[:1], "axes": axes, "row": rows})


def read_study(name: str) -> Study:
    """Raises ``SettingsError``."""
    path = STUDIES / f"{name}.toml"
    if not path.exists():
        raise SettingsError(f"study {name}", "does not exist", expected=", ".join(names()) or "a file in studies/")
    try:
        return Study(name=name, **tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError, TypeError) as problem:
        raise SettingsError(str(path.relative_to(ROOT)), f"is not a study: {problem}") from None


def names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def scenario_for(study: Study, condition: Mapping[str, Any], own: Mapping[str, Any], seed: int) -> Scenario:
    file = scenario_file(study.scenario) if study.scenario in gallery() else STUDIES / study.scenario
    return load_scenario(file, override_texts({**study.set, **condition, **own}), seed)


def points_of(study: Study) -> list[tuple[dict[str, Any], str, Point]]:
    """(condition, label, run) of every run, the controls last under each condition."""
    found = []
    for condition in study.conditions():
        rows = [(row.label, scenario_for(study, condition, row.set, seed)) for row in study.row for seed in study.seeds]
        first = rows[: len(study.seeds)] if study.control else []
        rows += [(FROZEN, scenario.frozen_control()) for _, scenario in first]
        found += [(condition, label, _point(scenario)) for label, scenario in rows]
    return found


def _point(scenario: Scenario) -> Point:
    """Named by everything that it is, so that a study that grows, and another with a row like it, finds what was run."""
    return Point(f"{scenario.name}-{scenario_digest(scenario)[:16]}", scenario)


def figures_of(point: Point, folder: Path, study: Study) -> dict[str, Any]:
    """Of a finished run; None where there is no such figure."""
    summary, evaluations = read_summary(folder / SUMMARY), read_evaluations(folder / METRICS)
    scenario = point.scenario
    batch = scenario.task.batch_size * (scenario.client.local_steps if scenario.shared.estimator == "local_training" else 1)
    run = method_run(summary, evaluations, batch, study.target or NEVER)
    curve = curve_of(evaluations, batch)

    def at(limit: float | None, along: Sequence[float]) -> float | None:
        return next((one for one, cost in zip(curve.accuracy[::-1], along[::-1], strict=True) if limit and cost <= limit), None)

    return {
        "accuracy_final": run.accuracy_final,
        "accuracy_best": run.accuracy_best,
        "samples": curve.samples[-1],
        "time_s": round(summary.modelled_time_s, 3),
        "bytes": sum(summary.bytes.values()),
        "cut_bytes": sum(summary.bytes.get(kind, 0) for kind in ("activations", "duals", "labels")),
        "samples_to_target": run.samples_to_target,
        "time_to_target_s": run.time_to_target_s and round(run.time_to_target_s, 3),
        "bytes_to_target": run.bytes_to_target,
        "at_samples": at(study.at.samples, curve.samples),
        "at_time_s": at(study.at.time_s, curve.time_s),
        "at_bytes": at(study.at.bytes, curve.bytes),
        **({"loss_final": evaluations[-1].loss} if study.loss else {}),
        **({} if summary.personal is None else _personal(summary.personal)),
    }


def _personal(found: Personal) -> dict[str, float]:
    return dict(zip(PERSONAL, (found.before, found.after, found.worst_before, found.worst_after), strict=True))


def run_study(study: Study, processes: int, folder: Path | None = None) -> list[dict[str, Any]]:
    """One line of the table's file for each run; they stand below ``folder``, or ``RUNS``."""
    runs, out = points_of(study), folder or RUNS
    begun = perf_counter()

    def told(done: int, total: int, name: str) -> None:
        print(f"{study.name}: {done} of {total}, {name}, {perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)

    run_many(list({point.name: point for _, _, point in runs}.values()), out, processes=processes, told=told, logs=False)
    lines = []
    for condition, label, point in runs:
        figures = figures_of(point, out / point.name, study)
        lines.append({**condition, "label": label, "seed": point.scenario.seed, **figures})
    return lines


def write_lines(study: Study, lines: Sequence[Mapping[str, Any]], folder: Path | None = None) -> None:
    text = StringIO()
    writer = csv.DictWriter(
        text, [*study.axes, "label", "seed", *FIGURES, *(LOSS if study.loss else ()), *_own(lines)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    tables = folder or TABLES
    tables.mkdir(parents=True, exist_ok=True)
    (tables / f"{study.name}.csv").write_text(text.getvalue(), encoding="utf-8")


def _own(lines: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """``PERSONAL`` if any of these runs has them."""
    return PERSONAL if any(line.get(PERSONAL[0]) for line in lines) else ()


def read_lines(study: Study, folder: Path | None = None) -> list[dict[str, str]]:
    with ((folder or TABLES) / f"{study.name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(study: Study, lines: Sequence[Mapping[str, str]]) -> str:
    """The lines of a table's file as Markdown: means over the seeds, the spread, the difference to the first row seed by seed."""
    to_target = ("samples to target", "modelled s to target", "MB to target") if study.target else ()
    at = {key: limit for key, limit in study.at.model_dump().items() if limit}
    marks = [f"at {limit:,g} {key}".replace("time_s", "s") for key, limit in at.items()]
    heads = [*study.axes, "setting", "final", "lowest to highest", "best", "difference", "MB", "modelled s", *to_target, *marks]
    own = ("own test (worst client)", "after tuning") if _own(lines) else ()
    heads += [*(("loss", "its difference") if study.loss else ()), *own]
    rows = [_cells(heads), "|" + "---|" * (len(study.axes) + 1) + "---:|" * (len(heads) - len(study.axes) - 1)]
    for condition in study.conditions():
        for label in [*(row.label for row in study.row), *([FROZEN] if study.control else [])]:
            mine = _chosen(lines, condition, label)
            first = _chosen(lines, condition, study.row[0].label)
            finals = [float(line["accuracy_final"]) for line in mine]
            is_first = label == study.row[0].label
            cells = [*map(str, condition.values()), label, f"{fmean(finals):.3f}", f"{min(finals):.3f} to {max(finals):.3f}"]
            cells.append(f"{fmean(float(line['accuracy_best']) for line in mine):.3f}")
            cells.append("" if is_first else _difference("accuracy_final", mine, first))
            cells.append(f"{fmean(float(line['bytes']) for line in mine) / 1e6:,.2f}")
            cells.append(f"{fmean(float(line['time_s']) for line in mine):,.1f}")
            if study.target:
                cells += [_to_target(mine, key, form, by) for key, form, by in _COSTS]
            cells += [_read_off(mine, f"at_{key}") for key in at]
            if study.loss:
                cells += [_read_off(mine, "loss_final"), "" if is_first else _difference("loss_final", mine, first)]
            if own:
                cells += [f"{_read_off(mine, f'own_{when}')} ({_read_off(mine, f'own_worst_{when}')})" for when in ("before", "after")]
            rows.append(_cells(cells))
    return "\n".join(rows) + "\n"


_COSTS = (("samples_to_target", ",.0f", 1.0), ("time_to_target_s", ",.1f", 1.0), ("bytes_to_target", ",.2f", 1e-6))


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _chosen(lines: Sequence[Mapping[str, str]], condition: Mapping[str, Any], label: str) -> list[Mapping[str, str]]:
    wanted = {key: str(value) for key, value in condition.items()} | {"label": label}
    found = [line for line in lines if all(line[key] == value for key, value in wanted.items())]
    if not found:
        raise SettingsError("docs/tables", f"has no runs of {wanted}", mend="run the study")
    return found


def _difference(key: str, lines: Sequence[Mapping[str, str]], first: Sequence[Mapping[str, str]]) -> str:
    """To the first row: the mean, and seed by seed."""
    gained = [float(own[key]) - float(line[key]) for own, line in zip(lines, first, strict=True)]
    return f"{fmean(gained):+.3f} ({', '.join(f'{one:+.3f}' for one in gained)})"


def _to_target(lines: Sequence[Mapping[str, str]], key: str, form: str, by: float) -> str:
    """Mean over the seeds, if all of them got there; how many did, if not."""
    there = [float(line[key]) * by for line in lines if line[key]]
    return f"{fmean(there):{form}}" if len(there) == len(lines) else f"{len(there)} of {len(lines)} got there" if there else "never"


def _read_off(lines: Sequence[Mapping[str, str]], key: str) -> str:
    there = [float(line[key]) for line in lines if line[key]]
    return f"{fmean(there):.3f}" if len(there) == len(lines) else "-"


def rendered(text: str, name: str, markdown: str) -> str:
    """``text`` with the table below the study's mark replaced, or as it was where there is no mark."""
    place = re.compile(rf"(<!-- study: {re.escape(name)} -->\n)(?:\|[^\n]*\n)*")
    return place.sub(lambda found: found[1] + markdown, text)


def _render(study: Study) -> str:
    markdown = table(study, read_lines(study))
    RESULTS.write_text(rendered(RESULTS.read_text(encoding="utf-8"), study.name, markdown), encoding="utf-8")
    return markdown


def _answer(study: Study, processes: int) -> str:
    """Run it, write its figures and its table: the table."""
    write_lines(study, run_study(study, processes))
    return _render(study)


def _small_answer(study: Study, processes: int) -> str:
    """The table of a study in small; nothing of it is kept."""
    small = in_small(study)
    with TemporaryDirectory() as thrown_away:
        folder = Path(thrown_away)
        write_lines(small, run_study(small, processes, folder / "runs"), folder)
        return table(small, read_lines(small, folder))


def main() -> int:
    parser = new_parser(__doc__, as_json=False)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--size", choices=["small", "full"], help="all studies of a size")
    parser.add_argument("--list", action="store_true", help="names and questions")
    parser.add_argument("--render", action="store_true", help="only write the tables anew, from what is in docs/tables")
    parser.add_argument("-j", "--processes", type=int, default=1, metavar="N")
    arguments = parser.parse_args()
    try:
        chosen = [read_study(name) for name in arguments.names or names()]
        chosen = [study for study in chosen if arguments.size in (None, study.size)]
        if arguments.list:
            print("\n".join(f"{study.name:24} {study.size:5} {len(points_of(study)):4} runs  {study.question}" for study in chosen))
            return 0
        if not (arguments.names or arguments.size or arguments.render):
            parser.error("name a study, or --size, or --list")
        if arguments.render and arguments.small:
            parser.error("--render writes the tables of what was run in full")
        for study in chosen:
            answer = _small_answer if arguments.small else _answer
            told = _render(study) if arguments.render else answer(study, arguments.processes)
            print(f"\n{study.name}: {study.question}\n\n{told}", flush=True)
    except HosflError as problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
