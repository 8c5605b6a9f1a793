"""From a TOML file, overrides and a seed to a scenario, or to every problem that stands in the way, all at once.

The order matters: what the command line overrides comes first, then what the method fixes by definition, then the schema, then the
copying of ``[shared]`` into the agents' structs, then the rules between settings. A value that the file itself writes against its own
method is a problem; a method chosen on the command line wins over the file, and one that a file writes wins over what that file inherits.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from hosfl_async.errors import SettingsError
from hosfl_async.scenario.consistency import contradictions
from hosfl_async.scenario.inheritance import DEPTH_MAX, Tables, first_comment, read_tables
from hosfl_async.scenario.methods import defaults_of_method, fixed_by_method
from hosfl_async.scenario.problems import Path, Source, dotted, explain, found
from hosfl_async.scenario.schema import SHARED, Scenario, adapter
from hosfl_async.scenario.shares import count_shares
from hosfl_async.scenario.writing import override_texts

_OVERRIDE = re.compile(r"[\w-]+(\[\d+\])*(\.[\w-]+(\[\d+\])*)*", re.ASCII)


def load_scenario(path: str | FilePath, overrides: Sequence[str] | Mapping[str, Any] = (), seed: int | None = None) -> Scenario:
    """Read the scenario file ``path``, or the scenario of the gallery with this name.

    ``overrides``, such as ``"fleet[0].count=3"`` or ``{"fleet[0].count": 3}``, and ``seed`` are put in their places.
    Raises ``SettingsError``; one that names several problems lists them line by line.
    """
    texts = override_texts(overrides) if isinstance(overrides, Mapping) else overrides
    scenario, problems = _load(path, texts, seed)
    if len(problems) > 1:
        raise SettingsError(str(path), "\n  ".join([f"{len(problems)} problems", *map(str, problems)]))
    if problems:
        raise problems[0]
    assert scenario is not None
    return scenario


def find_problems(path: str | FilePath, overrides: Sequence[str] = (), seed: int | None = None) -> tuple[SettingsError, ...]:
    """Everything that is wrong with the file; empty if ``load_scenario`` would succeed."""
    return tuple(_load(path, overrides, seed)[1])


def scenario_of_tables(tables: Tables, shown: str = "tables") -> Scenario:
    """As ``load_scenario``, from tables as a TOML parser gives them. They are changed. Raises ``SettingsError``."""
    scenario, problems = _resolve(tables, Source(shown, {}))
    if problems:
        raise problems[0]
    assert scenario is not None
    return scenario


def _load(path: str | FilePath, overrides: Sequence[str], seed: int | None) -> tuple[Scenario | None, list[SettingsError]]:
    try:
        tables, _, source = read_tables(path)
        tables.setdefault("about", first_comment(path))
        for override in overrides if seed is None else [*overrides, f"seed={seed}"]:
            source.overridden.add(_override(tables, override))
    except SettingsError as problem:
        return None, [problem]
    return _resolve(tables, source)


def _resolve(tables: Tables, source: Source) -> tuple[Scenario | None, list[SettingsError]]:
    problems = [*count_shares(tables, source), *_fix_by_method(tables, source), *_misplaced(tables, source)]
    if odd := [*_odd_values(tables, (), source)]:
        return None, problems + odd
    try:
        scenario = adapter().validate_json(json.dumps(tables), strict=True).agree()
    except ValidationError as error:
        return None, problems + explain(error, source)
    return scenario, [*problems, *contradictions(scenario, source)]


def _override(tables: Tables, override: str) -> Path:
    """Put one ``key.path=value`` in its place; a value that is not TOML is a string. Returns the path."""
    key, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not _OVERRIDE.fullmatch(key.strip()):
        raise SettingsError(where, "not an override", expected="key.path=value, such as fleet[0].count=3", found=override)
    path: Path = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[\w-]+", key))
    place: Any = tables
    for part, following in pairwise(path):
        if isinstance(part, str) and isinstance(place, dict):
            place = place.setdefault(part, [] if isinstance(following, int) else {})
        else:
            place = _item(place, part, where)
    if isinstance(path[-1], int):
        _item(place, path[-1], where)
    elif not isinstance(place, dict):
        raise SettingsError(where, f"{dotted(path[:-1])} is not a table")
    place[path[-1]] = _override_value(text)
    return path


def _override_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text.strip()
    return parsed["value"] if len(parsed) == 1 else text.strip()


def _item(place: Any, part: str | int, where: str) -> Any:
    if not isinstance(place, list) or not isinstance(part, int):
        raise SettingsError(where, f"there is no {part} to go into")
    if part >= len(place):
        raise SettingsError(where, f"there is no item [{part}]", expected=f"an index below {len(place)}")
    return place[part]


def _fix_by_method(tables: Tables, source: Source) -> Iterator[SettingsError]:
    """Write what the method fixes into ``tables``; yields a problem for each value that contradicts it."""
    fleet = tables.get("fleet")
    groups = fleet if isinstance(fleet, list) else []
    counts = [group.get("count", 1) for group in groups if isinstance(group, dict)]
    clients = max(1, sum(count for count in counts if isinstance(count, int)))
    method = tables.get("method", "hosfl_async")
    for key, value in defaults_of_method(str(method)).items():
        path, place = _table_of(tables, key)
        if isinstance(place, dict):
            place.setdefault(path[-1], value)
    for key, value in fixed_by_method(str(method), clients, _cohort(tables)).items():
        path, place = _table_of(tables, key)
        if not isinstance(place, dict):
            continue  # the schema will say what is wrong there
        wins = (("method",) in source.overridden or path in source.yielding) and not source.is_overridden(path)
        written = value if wins else place.get(path[-1], value)
        if written != value:
            yield source.problem(path, f"method {method} fixes this", expected=found(value), found=found(written), mend="leave it out")
        place[path[-1]] = value


def _cohort(tables: Tables) -> int:
    """``aggregator.cohort``, if it is one; else the schema will say what is wrong there."""
    aggregator = tables.get("aggregator")
    cohort = aggregator.get("cohort", 0) if isinstance(aggregator, dict) else 0
    return max(0, cohort) if isinstance(cohort, int) else 0


def _table_of(tables: Tables, key: str) -> tuple[Path, Any]:
    """The path of a dotted key, and the table that it stands in, made if need be; no table if something else is there."""
    path: Path = tuple(key.split("."))
    place: Any = tables
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    return path, place


def _misplaced(tables: Tables, source: Source) -> Iterator[SettingsError]:
    for table, keys in SHARED.items():
        written = tables.get(table)
        for key in keys:
            if isinstance(written, dict) and key in written:
                yield source.problem((table, key), "unknown key", mend=f"it is written once for all agents: shared.{key}")


def _odd_values(value: Any, path: Path, source: Source) -> Iterator[SettingsError]:
    """What TOML can say and a scenario cannot: numbers that are not finite, dates and times, tables without end."""
    if len(path) > DEPTH_MAX:
        yield source.problem(path, "nested too deeply")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _odd_values(inner, (*path, key), source)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _odd_values(inner, (*path, index), source)
    elif isinstance(value, float) and not isfinite(value):
        yield source.problem(path, "not allowed", expected="a finite number", found=str(value))
    elif not isinstance(value, str | bool | int | float):
        yield source.problem(path, "not allowed", expected="no date or time", found=str(value))
