"""From run folders to one page: which runs belong together, and what the journal says of staleness and of the clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hosfl_async.assembly.folder import METRICS, SUMMARY, TRACE, scenario_of
from hosfl_async.errors import SettingsError
from hosfl_async.report import read_summary
from hosfl_async.report.client_states import courses, followed
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.groups import Group, ReportedRun
from hosfl_async.report.page import report_page
from hosfl_async.report.page_panels import draw_panels
from hosfl_async.report.panels import RUNS_MAX, write
from hosfl_async.scenario import Scenario
from hosfl_async.trace import TraceRecord, read_trace

DIFFERENCES_SHOWN_MAX = 3


def report(runs: Sequence[Path], out: Path, pictures: Path | None = None) -> None:
    """Write the page ``out`` about the run folders ``runs``, and its drawings as .png and .svg into ``pictures``.

    A folder that is no run but holds runs, such as that of a comparison or a sweep, stands for them. Raises ``SettingsError`` for a folder
    that is neither, and if there are more kinds of runs than a page can tell apart.
    """
    groups = _groups([run for each in runs for run in runs_in(each)])
    drawn = draw_panels(groups)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(report_page(groups, drawn), encoding="utf-8")
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SettingsError(str(out), "the report cannot be written", found=str(problem)) from problem
    for panel in drawn if pictures is not None else ():
        for ending in ("png", "svg"):
            write(panel.figure, pictures / f"{panel.name}.{ending}")  # type: ignore[operator]


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the finished runs below it. Raises ``SettingsError`` if there are none."""
    if (folder / SUMMARY).is_file():
        return [folder]
    inner = sorted(path.parent for path in folder.glob(f"*/{SUMMARY}")) if folder.is_dir() else []
    if not inner:
        scenario_of(folder)  # says what is wrong, unless it is a run that has not ended
        raise SettingsError(str(folder), "the run did not end", expected=f"a folder with {SUMMARY}")
    return inner


def _groups(folders: Sequence[Path]) -> list[Group]:
    """Runs of one scenario that differ in their seed only, together; in the order in which they were named."""
    found: list[tuple[Scenario, list[Path]]] = []
    for folder in dict.fromkeys(folders):
        alike = replace(scenario_of(folder), seed=0)
        for known, members in found:
            if known == alike:
                members.append(folder)
                break
        else:
            found.append((alike, [folder]))
    if len(found) > RUNS_MAX:
        raise SettingsError("report", "too many kinds of runs for one page", expected=f"at most {RUNS_MAX}", found=str(len(found)))
    labels = _labels([scenario for scenario, _ in found])
    return [
        Group(label, scenario.about, scenario.expect.accuracy_min, [_reported(folder, scenario) for folder in members])
        for label, (scenario, members) in zip(labels, found, strict=True)
    ]


def _labels(scenarios: Sequence[Scenario]) -> list[str]:
    """What tells the groups apart, in as few words as do."""
    values = [dict(_flat("", scenario)) for scenario in scenarios]
    keys = [key for key in dict.fromkeys(key for each in values for key in each) if len({repr(each.get(key)) for each in values}) > 1]
    telling = [key for key in ("name", "method") if key in keys] or keys[:DIFFERENCES_SHOWN_MAX]
    if len({tuple(repr(each.get(key)) for key in telling) for each in values}) < len(values):
        telling = [*telling, *[key for key in keys if key not in telling][:DIFFERENCES_SHOWN_MAX]]
    if not telling:
        return [scenarios[0].method]
    return [
        ", ".join(str(each.get(key, "none")) if key in ("name", "method") else f"{key}={each.get(key, 'none')}" for key in telling)
        for each in values
    ]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting that matters to a run."""
    if is_dataclass(value):
        for each in fields(value):
            if each.compare:
                yield from _flat(f"{path}.{each.name}" if path else each.name, getattr(value, each.name))
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for place, item in enumerate(value):
            yield from _flat(f"{path}[{place}]", item)
    else:
        yield path, value


def _reported(folder: Path, scenario: Scenario) -> ReportedRun:
    summary, evaluations = read_summary(folder / SUMMARY), read_evaluations(folder / METRICS)
    staleness: Counter[int] = Counter()
    names = followed([name for name, _ in scenario.devices()])
    found = courses(_counting(read_trace(folder / TRACE), staleness), names) if (folder / TRACE).is_file() else ()
    return ReportedRun(summary, evaluations, scenario.task.batch_size, staleness, found)


def _counting(records: Iterator[TraceRecord], staleness: Counter[int]) -> Iterator[TraceRecord]:
    """The records as they are; the staleness of admitted contributions is counted in passing."""
    for record in records:
        if record.kind == "admitted" and record.values:
            staleness[int(record.values["staleness_versions"])] += 1
        yield record
