"""Scenario files that build on others: ``extends = "quickstart.toml"``, as seen from the file that says so, or a name of the gallery.

Tables are merged key by key, deeply, and the file that extends wins; everything else is replaced as a whole, arrays of tables such as
``[[fleet]]`` included: a fleet made of two files would be nobody's fleet. ``[sweep]`` is a file's own and is not inherited. Where each
value stands is kept through the merge, so that a mistake is shown in the file that makes it. Which values are older than the method is kept
too: what a method fixes wins over what its file inherits, never over what that file, or one that builds on it, writes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path as FilePath
from typing import Any

from hosfl_async.errors import SettingsError
from hosfl_async.scenario.names import gallery, scenario_file
from hosfl_async.scenario.problems import Path, Source, found, key_lines

Tables = dict[str, Any]

ANCESTORS_MAX = 16
"""Files in one line of inheritance."""

DEPTH_MAX = 8
"""Keys on the way to a value; twice as deep as the schema goes."""


def read_tables(path: str | FilePath) -> tuple[Tables, Tables, Source]:
    """What the file and its ancestors say, its own ``[sweep]``, and where everything stands. Raises ``SettingsError``.

    ``path``: a file, or the name of a scenario of the gallery.
    """
    file = scenario_file(path)
    tables, places, yielding = _read_family(file, str(path) if FilePath(path) == file else str(file), ())
    sweep = tables.pop("sweep", {})
    return tables, sweep, Source(str(path), places, yielding)


def first_comment(path: str | FilePath) -> str:
    """The comment that a scenario file begins with, without its marks; at most as long as ``about`` may be."""
    text = scenario_file(path).read_text(encoding="utf-8")
    lines = [line.strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    return "\n".join(line.lstrip("#").strip() for line in lines)[:2000]


def _read_family(path: FilePath, shown: str, children: tuple[FilePath, ...]) -> tuple[Tables, dict[Path, str], frozenset[Path]]:
    """Merged tables, where each value stands, and which values yield to the method."""
    text = _read(path, shown, children)
    tables, places = _parse(shown, text), {key: f"{shown}:{line}" for key, line in key_lines(text).items()}
    if "extends" not in tables:
        return tables, places, frozenset()
    parent = tables.pop("extends")
    where = f"{places.get(('extends',), shown)}: extends"
    if not isinstance(parent, str) or not parent or "\0" in parent:
        raise SettingsError(where, "not allowed", expected="the path of a scenario file, seen from this one", found=found(parent))
    family = (*children, path.resolve())
    file, told = _parent(path, shown, parent)
    if file.exists() and file.resolve() in family:
        raise SettingsError(where, "goes round in a circle", found=" -> ".join(each.name for each in (*family, FilePath(parent))))
    if len(family) >= ANCESTORS_MAX:
        raise SettingsError(where, "too long a line of files", expected=f"at most {ANCESTORS_MAX}")
    older, older_places, older_yielding = _read_family(file, told, family)
    older.pop("sweep", None)
    inherited = dict(_exact(older, older_places, told))
    merged_places = dict(inherited)
    _merge(older, tables, (), merged_places, places, shown)
    kept = frozenset(key for key, place in inherited.items() if merged_places.get(key) == place)
    return older, merged_places, kept if "method" in tables else kept & older_yielding


def _parent(path: FilePath, shown: str, parent: str) -> tuple[FilePath, str]:
    """The file that ``path`` extends, and how it is called in messages. What stands beside ``path`` comes before the gallery."""
    beside = path.parent / parent
    if not beside.exists() and (named := gallery().get(parent)) is not None:
        return named, parent
    return beside, str(FilePath(shown).parent / parent)


def _merge(older: Tables, newer: Tables, path: Path, places: dict[Path, str], newer_places: dict[Path, str], shown: str) -> None:
    """``newer`` into ``older``; where it stands into ``places``."""
    for key, value in newer.items():
        inner = (*path, key)
        if isinstance(value, dict) and isinstance(older.get(key), dict) and len(inner) <= DEPTH_MAX:
            _merge(older[key], value, inner, places, newer_places, shown)
            continue
        for stale in [each for each in places if each[: len(inner)] == inner]:
            del places[stale]
        older[key] = value
        places.update(_exact_below(value, inner, newer_places, _place(inner, newer_places, shown)))


def _exact(tables: Tables, places: dict[Path, str], shown: str) -> Iterator[tuple[Path, str]]:
    for key, value in tables.items():
        yield from _exact_below(value, (key,), places, _place((key,), places, shown))


def _exact_below(value: Any, path: Path, places: dict[Path, str], around: str) -> Iterator[tuple[Path, str]]:
    """A place for every single value, that of the table around it where it has no line of its own."""
    place = places.get(path, around)
    yield path, place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if len(path) <= DEPTH_MAX:
        for key, inner in items:
            yield from _exact_below(inner, (*path, key), places, place)


def _place(path: Path, places: dict[Path, str], shown: str) -> str:
    return next((places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places), shown)


def _read(path: FilePath, shown: str, children: tuple[FilePath, ...]) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SettingsError(shown, "not UTF-8", found=f"byte 0x{error.object[error.start]:02x} at offset {error.start}") from None
    except FileNotFoundError:
        mend = f"{children[-1].name} extends it" if children else "scenarios/ holds examples"
        raise SettingsError(shown, "no such file", mend=mend) from None
    except (OSError, ValueError) as error:
        mend = f"the scenario of that run is {shown}/scenario.toml" if (path / "scenario.toml").is_file() else ""
        raise SettingsError(shown, f"cannot be read: {getattr(error, 'strerror', None) or error}", mend=mend) from None


def _parse(file: str, text: str) -> Tables:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).partition(" (at ")
        numbers = re.findall(r"\d+", place)
        where = ":".join([file, *numbers]) if numbers else file
        raise SettingsError(where, f"not TOML: {problem}" + (" at the end of the file" if place.startswith("end") else "")) from None
    except RecursionError:
        raise SettingsError(file, "not TOML: nested too deeply") from None
