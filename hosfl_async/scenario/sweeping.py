"""``[sweep]``: one file, many runs. Every key is that of a setting and has a list of values; ``seeds`` is a number or a list of its own.

The points are all combinations, the last key varying fastest and the seeds faster still. A point's name says its values, so a sweep that
grows keeps the names, and the finished runs, of the points it had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from math import prod
from pathlib import Path as FilePath
from typing import Any

from hosfl_async.errors import SettingsError
from hosfl_async.scenario.inheritance import DEPTH_MAX, read_tables
from hosfl_async.scenario.loading import load_scenario
from hosfl_async.scenario.problems import Source, dotted, found
from hosfl_async.scenario.schema import Scenario
from hosfl_async.scenario.writing import override_texts

POINTS_MAX = 10_000
"""Runs in one sweep."""

_NAME_LENGTH_MAX = 120
_ODD = re.compile(r"[^\w.=,+-]+")


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One run of a sweep. ``values``: dotted key -> value, in the order of the file, without the seed."""

    name: str
    values: Mapping[str, Any]
    scenario: Scenario


def sweep_points(path: str | FilePath, overrides: Sequence[str] = ()) -> tuple[SweepPoint, ...]:
    """Every run of the file's ``[sweep]``. Raises ``SettingsError`` where there is none, or for the first point that cannot be."""
    _, table, source = read_tables(path)
    if not isinstance(table, dict) or not table:
        raise SettingsError(str(path), "there is no [sweep]", mend='for example:  [sweep]  seeds = 3  "shared.probes" = [5, 20]')
    seeds = _seeds(table.pop("seeds", 1), source)
    axes = dict(_axes(table, (), source))
    number = prod(map(len, axes.values())) * (seeds if isinstance(seeds, int) else len(seeds))
    if number > POINTS_MAX:
        raise SettingsError(source.where(("sweep",)), "too many runs", expected=f"at most {POINTS_MAX:,}", found=f"{number:,}")
    points: list[SweepPoint] = []
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        points += _with_seeds(path, overrides, chosen, seeds)
    return tuple(points)


def _with_seeds(path: str | FilePath, overrides: Sequence[str], chosen: dict[str, Any], seeds: int | list[int]) -> Iterator[SweepPoint]:
    texts = override_texts(chosen)
    try:
        first = load_scenario(path, [*overrides, *texts])
        for seed in range(first.seed, first.seed + seeds) if isinstance(seeds, int) else seeds:
            yield SweepPoint(_name([*texts, f"seed={seed}"]), chosen, load_scenario(path, [*overrides, *texts], seed))
    except SettingsError as problem:
        raise SettingsError(f"{path}: sweep", f"{', '.join(texts) or 'its point'} cannot be: {problem}") from None


def _seeds(seeds: Any, source: Source) -> int | list[int]:
    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    if whole(seeds) and 1 <= seeds <= POINTS_MAX:
        return int(seeds)
    if isinstance(seeds, list) and seeds and all(whole(seed) and 0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == len(seeds):
        return seeds
    expected = "a number of seeds, or a list of different ones"
    raise source.problem(("sweep", "seeds"), "not allowed", expected=expected, found=found(seeds))


def _axes(table: Mapping[str, Any], path: tuple[str, ...], source: Source) -> Iterator[tuple[str, list[Any]]]:
    """Dotted key -> values; ``"shared.probes" = []`` and ``shared.probes = []`` are the same."""
    for key, values in table.items():
        inner = (*path, key)
        if isinstance(values, dict) and len(inner) <= DEPTH_MAX:
            yield from _axes(values, inner, source)
        elif not isinstance(values, list) or not values:
            raise source.problem(("sweep", *inner), "not allowed", expected="a list of values", found=found(values))
        else:
            yield dotted(inner), values


def _name(texts: Sequence[str]) -> str:
    """A folder's name: equal for equal values, and different for different ones."""
    full = ",".join(texts)
    plain = _ODD.sub("_", full)
    if plain == full and len(plain) <= _NAME_LENGTH_MAX:
        return plain
    return f"{plain[:_NAME_LENGTH_MAX]}-{blake2b(full.encode(), digest_size=4).hexdigest()}"
