"""A user's own models and data: a name is looked up among ours, then among installed entry points, then as ``module:function``.

A scenario that names a function runs that function. So a scenario file from somebody else is to be read before it is run, like any
program; nothing that arrives over the network can name one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hosfl_async.errors import SettingsError

MODELS, DATA = "hosfl_async.models", "hosfl_async.data"
"""Entry point groups."""

TABLE_SUFFIXES = (".csv", ".jsonl")
"""Of tables with texts and labels."""


def find_plugin(group: str, name: str, where: str, known: Collection[str]) -> Callable[..., Any]:
    """The function that ``name`` stands for. Raises ``SettingsError`` naming the setting ``where``, if there is none.

    ``module:function`` is imported with the current folder on the path, so that a file beside the scenario will do.
    """
    found: Any
    if ":" in name:
        found = _imported(name, where)
    else:
        points = {point.name: point for point in entry_points(group=group)}
        if name not in points:
            expected = f"one of {', '.join([*known, *points])}, or module:function"
            raise SettingsError(where, "unknown name", expected=expected, found=name)
        found = points[name].load()
    if not callable(found):
        raise SettingsError(where, f"{name} is no function", found=type(found).__name__)
    function: Callable[..., Any] = found
    return function


def _imported(name: str, where: str) -> Any:
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except ImportError as problem:
        mend = "install it, or run from the folder that holds it"
        raise SettingsError(where, f"{module_name} cannot be imported: {problem}", mend=mend) from problem
    if not hasattr(module, function_name):
        raise SettingsError(where, f"{module_name} has no {function_name}", found=name)
    return getattr(module, function_name)


def called(function: Callable[..., Any], where: str, name: str, *arguments: Any) -> Any:
    """What the function gives; whatever it raises is told as its author's."""
    try:
        return function(*arguments)
    except SettingsError:
        raise
    except Exception as problem:
        raise SettingsError(where, f"{name} failed: {type(problem).__name__}: {problem}") from problem


def is_path(name: str) -> bool:
    """Whether ``task.data`` names a file or folder: by a slash, or by how it ends."""
    return ":" not in name and ("/" in name or name.endswith((".npz", *TABLE_SUFFIXES)))
