"""One scenario, several methods, several seeds: at equal concurrency, with the frozen-client control among them, always.

Equal concurrency means that as many client steps may be in flight under every method: a synchronous round of twenty clients is compared
with twenty asynchronous clients, never with two hundred. Every run has the same initial parameters, partition and devices for one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hosfl_async.assembly.folder import COMPARISON, METRICS, SUMMARY
from hosfl_async.assembly.many import Point, Told, run_many
from hosfl_async.errors import SettingsError, meant
from hosfl_async.report import read_summary
from hosfl_async.report.comparing import Comparison, MethodFigures, comparison_markdown, method_figures, method_run, read_evaluations
from hosfl_async.report.pictures import draw_comparison
from hosfl_async.scenario import Scenario, find_problems, load_scenario
from hosfl_async.scenario.methods import METHODS

CONTROL = "frozen_client"
WAITS_FOR_ALL = "aggregator.buffer_deadline_s=1000000"
"""A synchronous method waits for everyone, however slow; given where the file's own deadline would not."""

TABLE, PICTURE = "comparison.md", "comparison"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared. ``seeds``: how many, from the scenario's own seed on. ``target``: None is the file's expectation."""

    file: Path
    methods: tuple[str, ...]
    seeds: int = 3
    overrides: tuple[str, ...] = ()
    target: float | None = None
    unequal: bool = False


def concurrency(scenario: Scenario) -> int:
    """Client steps that may be in flight at once."""
    everyone = scenario.clients * scenario.client.steps_unanswered_max
    aggregator = scenario.aggregator
    limit = aggregator.concurrency or (aggregator.cohort and aggregator.cohort + aggregator.cohort_extra)
    return min(everyone, limit or everyone)


def compare(wish: Wish, out: Path, *, processes: int = 1, told: Told | None = None) -> Comparison:
    """Run what is not yet in ``out``; write ``comparison.json``, a table and pictures there.

    Raises ``SettingsError`` for files and methods that cannot be, for methods of unequal concurrency, and where there is no target.
    """
    methods = [*dict.fromkeys([*wish.methods, CONTROL])]
    for method in methods:
        if method not in METHODS:
            raise SettingsError("--methods", "no such method", expected=", ".join(METHODS), found=method, mend=meant(method, METHODS))
    scenarios = {method: _scenarios(wish, method) for method in methods}
    first = scenarios[methods[0]][0]
    _refuse_unequal({method: concurrency(scenarios[method][0]) for method in methods}, wish)
    target = wish.target if wish.target is not None else first.expect.accuracy_min
    if target is None:
        raise SettingsError(str(wish.file), "there is no target accuracy", expected="expect.accuracy_min, or --target")
    points = {method: [Point(f"{method}-seed{each.seed}", each) for each in scenarios[method]] for method in methods}
    run_many([point for each in points.values() for point in each], out, processes=processes, told=told)
    comparison = Comparison(
        scenario=first.name,
        seeds=[each.seed for each in scenarios[methods[0]]],
        clients=first.clients,
        target=target,
        batch_size=first.task.batch_size,
        overrides=list(wish.overrides),
        methods={method: _figures(points[method], out, target) for method in methods},
    )
    (out / COMPARISON).write_bytes(msgspec.json.format(msgspec.json.encode(comparison), indent=1) + b"\n")
    (out / TABLE).write_text(comparison_markdown(comparison), encoding="utf-8")
    for ending in ("png", "svg"):
        draw_comparison(comparison, out / f"{PICTURE}.{ending}")
    return comparison


def _scenarios(wish: Wish, method: str) -> list[Scenario]:
    """The scenario under ``method``, once per seed. What a method means by definition wins over the overrides."""
    overrides = [*(own for each in wish.overrides if (own := _for_method(each, method))), f"method={method}"]
    fixed = {problem.where for problem in find_problems(wish.file, overrides) if problem.problem == f"method {method} fixes this"}
    overrides = [each for each in overrides if f"--set {each.partition('=')[0].strip()}" not in fixed]
    if any(problem.where.endswith(" aggregator.buffer_deadline_s") for problem in find_problems(wish.file, overrides)):
        overrides.append(WAITS_FOR_ALL)
    first = load_scenario(wish.file, overrides)
    return [load_scenario(wish.file, overrides, first.seed + number) for number in range(wish.seeds)]


def _for_method(override: str, method: str) -> str:
    """What an override says for ``method``; ``METHOD:KEY=VALUE`` says nothing for the others."""
    name, colon, own = override.partition(":")
    if not colon or name not in METHODS:
        return override
    return own if name == method else ""


def _refuse_unequal(in_flight: dict[str, int], wish: Wish) -> None:
    if wish.unequal or len(set(in_flight.values())) == 1:
        return
    found = ", ".join(f"{method} {number}" for method, number in in_flight.items())
    raise SettingsError(
        str(wish.file),
        "the methods do not have equally many client steps in flight",
        found=found,
        mend="set client.steps_unanswered_max=1, or allow it with --unequal",
    )


def _batches(scenario: Scenario) -> int:
    """Batches that one client step sees."""
    return scenario.client.local_steps if scenario.shared.estimator == "local_training" else 1


def _figures(points: Sequence[Point], out: Path, target: float) -> MethodFigures:
    """Of one method, from its finished runs."""
    runs = []
    for point in points:
        folder = out / point.name
        batch_size = point.scenario.task.batch_size * _batches(point.scenario)
        runs.append(method_run(read_summary(folder / SUMMARY), read_evaluations(folder / METRICS), batch_size, target))
    return method_figures(runs, concurrency(points[0].scenario))
