"""A scenario written back as TOML, every value explicit: what a run folder keeps, and what gives the same run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

from hosfl_async.scenario.schema import SHARED, Scenario


def to_toml(scenario: Scenario) -> str:
    """The resolved scenario; ``load_scenario`` reads it back as an equal one. Bounds that are not set are left out."""
    return "\n".join(_table((), scenario)).strip() + "\n"


def scenario_digest(scenario: Scenario) -> str:
    """BLAKE2b-128 of everything that the agents of a run must agree upon, as hexadecimal text."""
    return blake2b(to_toml(replace(scenario, about="")).encode(), digest_size=16).hexdigest()


def _table(path: tuple[str, ...], settings: Any, header: str = "") -> list[str]:
    lines, tables = ["", header] if header else [], []
    for each in fields(settings):
        value = getattr(settings, each.name)
        inner = (*path, each.name)
        if value is None or each.name in SHARED.get(".".join(path), ()):
            continue
        if is_dataclass(value):
            tables += _table(inner, value, f"[{'.'.join(inner)}]")
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            tables += [line for item in value for line in _table(inner, item, f"[[{'.'.join(inner)}]]")]
        else:
            lines.append(f"{each.name} = {toml_value(value)}")
    return lines + tables


def override_texts(settings: Mapping[str, Any]) -> list[str]:
    """Dotted keys and their values as ``--set`` takes them."""
    return [f"{key}={toml_value(value)}" for key, value in settings.items()]


def toml_value(value: Any) -> str:
    """Text, number, truth value, list or table of such, as it stands behind the equals sign."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {toml_value(inner)}' for key, inner in value.items())} }}"
    return repr(value)
