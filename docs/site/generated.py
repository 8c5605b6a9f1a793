"""Pages made from the package: the command line from typer, scenario keys from the schema, the rest from docstrings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.cli import get_docs_for_click

import hosfl_async
from hosfl_async.cli import app
from hosfl_async.scenario import schema


def commands() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(app)
    _say_in_full(command)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="hosfl", title="Command line")


def _say_in_full(group: Any) -> None:
    """In lists of commands typer cuts their texts after 45 letters; here there is room for the first sentence."""
    for command in group.commands.values():
        command.short_help = " ".join((command.help or "").split("\n\n")[0].split())
        if hasattr(command, "commands"):
            _say_in_full(command)


def scenario_keys() -> str:
    """A table for each section of a scenario file."""
    document = schema()
    out = [
        "# Scenario keys\n",
        "Every key that a scenario file may hold, from `hosfl schema`; [scenario files](../scenarios.md) says how they go together.\n",
        *_section("", document, document["$defs"]),
    ]
    done: set[str] = set()
    for name, node in document["properties"].items():
        out += _sections(name, node, document["$defs"], done)
    return "\n".join(out)


def _sections(name: str, node: Any, definitions: dict[str, Any], done: set[str]) -> list[str]:
    """The section of this key and, below it, those of its own tables; each kind of table once."""
    out: list[str] = []
    for kind in _kinds(node):
        if kind in done or "properties" not in definitions[kind]:
            continue
        done.add(kind)
        several = "items" in node
        out += [f"\n## `{'[[' if several else '['}{name}{']]' if several else ']'}`\n", *_section(name, definitions[kind], definitions)]
        for key, below in definitions[kind]["properties"].items():
            out += _sections(f"{name}.{key}", below, definitions, done)
    return out


def _section(name: str, table: Any, definitions: dict[str, Any]) -> list[str]:
    rows = ["| key | what it may be | default | |", "| --- | --- | --- | --- |"]
    for key, node in table["properties"].items():
        default = node.get("default")
        shown = "" if "default" not in node or default is None or isinstance(default, dict | list) else f"`{_toml(default)}`"
        rows.append(f"| `{key}` | {_type(node, definitions)} | {shown} | {_words(_about(node, definitions))} |")
    return [_words(table.get("description", "")) + "\n", *rows]


def _about(node: Any, definitions: dict[str, Any]) -> str:
    """Of a key that is a table and has no words of its own: the table's first paragraph."""
    own = node.get("description", "")
    return own or " ".join(str(definitions[kind].get("description", "")).split("\n\n")[0] for kind in _kinds(node)[:1])


def _kinds(node: Any) -> list[str]:
    """The tables that a key's value may be."""
    if "$ref" in node:
        return [node["$ref"].rpartition("/")[2]]
    found = [kind for choice in node.get("anyOf", node.get("oneOf", [])) for kind in _kinds(choice)]
    return found + (_kinds(node["items"]) if isinstance(node.get("items"), dict) else [])


def _type(node: Any, definitions: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if "$ref" in node:
        kind = definitions[node["$ref"].rpartition("/")[2]]
        return "a table" if "properties" in kind else _type(kind, definitions)
    choices = node.get("anyOf", node.get("oneOf"))
    if choices:
        return " or ".join(dict.fromkeys(_type(choice, definitions) for choice in choices))
    if node.get("type") == "array":
        items = node.get("items")
        return f"list of {_type(items, definitions)}" if isinstance(items, dict) else "list"
    bounds = [
        f"{sign} {node[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in node
    ]
    return " ".join([str(node.get("type", "anything")).replace("object", "a table"), ", ".join(bounds)]).strip()


def _words(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else f"{value}"


def _modules(title: str, about: str, *names: str) -> Callable[[], str]:
    return lambda: "\n\n".join([f"# {title}", about, *(f"::: {name}" for name in names)])


def python_interface() -> str:
    """What ``hosfl_async`` exports, each under its public name."""
    names = [name for name in hosfl_async.__all__ if not name.startswith("__")]
    about = "What `import hosfl_async` gives; [from Python](../python.md) shows it at work."
    return "\n\n".join(["# Python interface", about, *(f"::: hosfl_async.{name}" for name in names)])


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/scenario.md": scenario_keys,
    "reference/python.md": python_interface,
    "reference/agents.md": _modules(
        "Agents and messages",
        "Three pure state machines, `handle(event, now) -> effects`, and what they say to each other.",
        *(f"hosfl_async.{name}" for name in ("agents.edge_client", "agents.split_server", "agents.aggregator", "agents.update_log")),
        *(f"hosfl_async.{name}" for name in ("agents.update_buffer", "agents.staleness", "agent", "messages", "jobs")),
    ),
    "reference/learning.md": _modules(
        "Learning",
        "Numbers: the readable loop that everything else must equal, directions, and the two orders of learning.",
        *(f"hosfl_async.learning.{name}" for name in ("reference", "split_model", "splitting", "perturbation", "zeroth_order")),
        *(f"hosfl_async.learning.{name}" for name in ("first_order", "update_rule", "skip_feedback", "data")),
        "hosfl_async.scaling",
    ),
}
