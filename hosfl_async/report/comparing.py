"""Several methods on one scenario, boiled down: what each reaches, and what it costs to get to a target accuracy.

A *sample* is one row of one batch whose client step is in the log. The *target* is reached at the first evaluation that is at least as
high; costs are those at that evaluation, so they are never better than the interval between evaluations. A cost is the mean over the
seeds, and there is none if any seed never got there. The spread is the highest final accuracy of any seed minus the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from hosfl_async.errors import SettingsError
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Summary


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One run, evaluation by evaluation; all lists are equally long. ``bytes``: all kinds together."""

    samples: list[int]
    time_s: list[float]
    bytes: list[int]
    accuracy: list[float]


class MethodRun(msgspec.Struct, frozen=True, kw_only=True):
    """One method with one seed. A cost to target is None where the target was never reached."""

    seed: int
    accuracy_final: float
    accuracy_best: float
    samples_to_target: int | None
    time_to_target_s: float | None
    bytes_to_target: int | None
    bytes: dict[str, int]
    """Sent in the whole run, by kind."""
    curve: Curve


class MethodFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One method, over its seeds: means, and the spread of the final accuracy."""

    accuracy_final: float
    accuracy_best: float
    spread: float
    samples_to_target: float | None
    time_to_target_s: float | None
    bytes_to_target: float | None
    reached: int
    """Seeds that got to the target."""
    concurrency: int
    """Client steps that may be in flight at once."""
    runs: list[MethodRun]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``comparison.json``. Fields may be added, never renamed or removed."""

    scenario: str
    seeds: list[int]
    clients: int
    target: float
    batch_size: int
    overrides: list[str]
    methods: dict[str, MethodFigures]


def curve_of(evaluations: Sequence[Evaluation], batch_size: int) -> Curve:
    return Curve(
        samples=[point.client_steps * batch_size for point in evaluations],
        time_s=[point.time_s for point in evaluations],
        bytes=[sum(point.bytes.values()) for point in evaluations],
        accuracy=[point.accuracy for point in evaluations],
    )


def method_run(summary: Summary, evaluations: Sequence[Evaluation], batch_size: int, target: float) -> MethodRun:
    """``evaluations``: the curve of the finished run that ``summary`` is about."""
    curve = curve_of(evaluations, batch_size)
    place = next((index for index, accuracy in enumerate(curve.accuracy) if accuracy >= target), None)
    return MethodRun(
        seed=summary.seed,
        accuracy_final=summary.accuracy_final or 0.0,
        accuracy_best=summary.accuracy_best or 0.0,
        samples_to_target=None if place is None else curve.samples[place],
        time_to_target_s=None if place is None else curve.time_s[place],
        bytes_to_target=None if place is None else curve.bytes[place],
        bytes=summary.bytes,
        curve=curve,
    )


def method_figures(runs: Sequence[MethodRun], concurrency: int) -> MethodFigures:
    """At least one run."""
    finals = [run.accuracy_final for run in runs]
    return MethodFigures(
        accuracy_final=_mean(finals),
        accuracy_best=_mean([run.accuracy_best for run in runs]),
        spread=max(finals) - min(finals),
        samples_to_target=_mean_if_all([run.samples_to_target for run in runs]),
        time_to_target_s=_mean_if_all([run.time_to_target_s for run in runs]),
        bytes_to_target=_mean_if_all([run.bytes_to_target for run in runs]),
        reached=sum(run.time_to_target_s is not None for run in runs),
        concurrency=concurrency,
        runs=list(runs),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_if_all(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return _mean(there) if len(there) == len(values) else None


HEADINGS = ("method", "in flight", "final", "spread", "best", "samples to target", "modelled s to target", "MB to target", "reached")


def comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row of texts per method, under ``HEADINGS``."""
    return [
        (
            name,
            str(method.concurrency),
            f"{method.accuracy_final:.3f}",
            f"{method.spread:.3f}",
            f"{method.accuracy_best:.3f}",
            _told(method.samples_to_target, ",.0f"),
            _told(method.time_to_target_s, ",.1f"),
            _told(method.bytes_to_target and method.bytes_to_target / 1e6, ",.2f"),
            f"{method.reached} of {len(method.runs)}",
        )
        for name, method in comparison.methods.items()
    ]


def comparison_title(comparison: Comparison) -> str:
    seeds = ", ".join(map(str, comparison.seeds))
    changed = f", with {', '.join(comparison.overrides)}" if comparison.overrides else ""
    return f"{comparison.scenario}: {comparison.clients} clients, seeds {seeds}, target accuracy {comparison.target:g}{changed}"


def comparison_table(comparison: Comparison) -> Table:
    """Its title is ``comparison_title``."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, heading in enumerate(HEADINGS):
        stacked = heading.replace(" to ", "\nto ").replace("in ", "in\n")
        table.add_column(stacked, justify="right" if number else "left", style="" if number else "cyan", no_wrap=True)
    for row in comparison_rows(comparison):
        table.add_row(*row)
    return table


def comparison_markdown(comparison: Comparison) -> str:
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *comparison_rows(comparison)]
    return f"{comparison_title(comparison)}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _told(value: float | None, form: str) -> str:
    return "never" if value is None else format(value, form)


def read_comparison(path: Path) -> Comparison:
    """Raises ``SettingsError`` if the file is not a comparison of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Comparison)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise SettingsError(str(path), "not a comparison", expected="what `hosfl compare` writes", found=str(problem)) from problem


def read_evaluations(path: Path) -> list[Evaluation]:
    """The curve of a run, from its ``metrics.jsonl``. Raises ``SettingsError`` if it is not one; a torn last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=Evaluation) for line in lines]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise SettingsError(str(path), "not the curve of a run", expected="what `hosfl simulate` writes", found=str(problem)) from problem
