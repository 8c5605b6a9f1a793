"""What is wrong with a scenario file, said so that it can be mended: file, line, key, expected, found, and the key that was meant.

pydantic knows the key's path but not the line, and tomllib knows the line but not the path; :class:`Source` joins the two by reading
the text once more for headers and keys. Where that finds no line of its own (a key in an inline table, a key that is missing), the
line of the table around it is named.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from hosfl_async.errors import SettingsError, meant
from hosfl_async.scenario.schema import SHARED, schema, type_name

Path = tuple[str | int, ...]
"""Of a key, from the top: ``("fleet", 0, "count")``."""

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]#]+)\]")
_KEY = re.compile(r"\s*([\w\-. \"']+?)\s*=")
_SHOULD = re.compile(r"^\w+ should (be )?")
_FOUND_LENGTH_MAX = 60


def dotted(path: Path) -> str:
    """``("fleet", 0, "count")`` -> ``fleet[0].count``"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _parts(key: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in key.split("."))


def key_lines(text: str) -> dict[Path, int]:
    """Line (from 1) of every header and key of a TOML text; ``[[fleet]]`` is counted through."""
    lines: dict[Path, int] = {}
    last: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = ()
            parts = _parts(header[2])
            for part in parts[:-1]:
                table += (part,)
                table += (last[table],) if table in last else ()
            table += parts[-1:]
            if header[1] == "[[":
                lines.setdefault(table, number)
                last[table] = last.get(table, -1) + 1
                table += (last[table],)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + _parts(key[1]), number)
    return lines


@dataclass(frozen=True, slots=True)
class Source:
    """Where the values of a scenario come from: a file and those it extends (``places``: ``FILE:LINE``), and the command line."""

    file: str
    places: dict[Path, str]
    yielding: frozenset[Path] = frozenset()
    """Inherited by the file that writes the method: what the method fixes wins over them."""
    overridden: set[Path] = field(default_factory=set)

    def where(self, path: Path) -> str:
        """``scenarios/a.toml:12: fleet[0].count``, or ``--set fleet[0].count``."""
        if self.is_overridden(path):
            return f"--set {dotted(path)}"
        known = (self.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.places)
        return f"{next(known, self.file)}: {dotted(path)}"

    def is_overridden(self, path: Path) -> bool:
        """Whether the command line writes it, or a table around it."""
        return any(path[:end] in self.overridden for end in range(1, len(path) + 1))

    def problem(self, path: Path, problem: str, **details: str) -> SettingsError:
        return SettingsError(self.where(path), problem, **details)


def found(value: Any) -> str:
    """A TOML value as a short text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _FOUND_LENGTH_MAX else text[: _FOUND_LENGTH_MAX - 3] + "..."


def explain(error: ValidationError, source: Source) -> list[SettingsError]:
    """One problem for each thing that the schema refused; a list is not blamed for what is wrong with its items."""
    details = error.errors(include_url=False)
    inner = {each["loc"][:end] for each in details for end in range(len(each["loc"]))}
    return [_explain(each, source) for each in details if each["loc"] not in inner]


def _explain(detail: Any, source: Source) -> SettingsError:
    path: Path = detail["loc"]
    if detail["type"] == "unexpected_keyword_argument":
        return source.problem(path, "unknown key", mend=near_miss(path))
    if detail["type"] == "missing":
        return source.problem(path, "missing", expected=_described(path))
    expected = _SHOULD.sub("", detail["msg"]).replace("match pattern", "text matching")
    words = re.findall(r"'([^']+)'", expected) if detail["type"] == "literal_error" else []
    return source.problem(path, "not allowed", expected=expected, found=found(detail["input"]), mend=meant(str(detail["input"]), words))


def near_miss(path: Path) -> str:
    """What an unknown key was probably meant to be: a like name in the same table, or the same name in another one."""
    key, table = str(path[-1]), path[:-1]
    keys = _keys(table)
    if close := get_close_matches(key, keys, n=1):
        return f"did you mean {dotted((*table, close[0]))}?"
    if table[:1] and key in SHARED.get(str(table[0]), ()):
        return f"it is written once for all agents: shared.{key}"
    elsewhere = [dotted((other, key)) for other in schema()["properties"] if key in _keys((other,))]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"known keys: {', '.join(keys)}" if keys else ""


def _node(path: Path) -> dict[str, Any]:
    document = schema()
    node: dict[str, Any] = document
    for part in path:
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
        node = {**document["$defs"].get(type_name(node), {}), **node}
    return node


def _keys(table: Path) -> list[str]:
    node = _node(table)
    return list(node.get("properties", {}) or _node((*table, 0)).get("properties", {}))


def _described(path: Path) -> str:
    """What a missing key is about; of a table also how it is written."""
    node = _node(path)
    words = str(node.get("description", "")).split(". ")[0].rstrip(".").replace("\n", " ")
    inner = _node((*path, 0)).get("properties")
    head = f"[[{dotted(path)}]]" if inner else f"[{dotted(path)}]" if node.get("properties") else ""
    return f"{head} ({words[:1].lower()}{words[1:]})" if head and words else head or words
