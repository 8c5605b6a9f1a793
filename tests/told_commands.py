"""What the documents and the help texts tell a reader to type, and which tests run it.

A command is told in a block, between backticks, or as the example in a command's help. Each belongs to one kind of ``KINDS``, whose test
file takes all commands of its kind from here, so a command that is new in a document is run, or fails. So are the benchmarks' commands that
docstrings tell. What no kind claims is run as it
stands by ``test_told_commands_run.py``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import product
from typing import Any

import typer
from told_files import FENCED, ROOT, elsewhere, recipes

from hosfl_async.cli import app

DOCUMENTS = [
    path for path in sorted(ROOT.rglob("*.md")) if not {".venv", "site", "node_modules", "runs"} & set(path.relative_to(ROOT).parts[:-1])
]
INLINE = re.compile(r"`((?:\.venv/bin/)?hosfl (?:--)?[a-z][^`]*|(?:\.venv/bin/)?python -m benchmarks[^`]*)`")

NO_COMMANDS = ("hosfl trace 1",)
"""The first line of a trace file."""

KINDS = {
    "training": (r"hosfl (simulate|live|compare|sweep|hunt)\b", "e2e/test_told_training.py"),
    "following": (r"hosfl (watch|dashboard)\b(?!.*--once)", "process/test_told_deployments.py"),
    "deployment": (r"hosfl (agent|doctor|fleet|devices|broker)\b", "process/test_told_deployments.py"),
    "fetching": (r"hosfl data fetch\b", "assets/test_told_fetching.py"),
    "export": (r"hosfl export\b", "tracking/test_told_exports.py"),
    "benchmark": (r"python -m benchmarks\b", "test_told_benchmarks.py"),
    "plain": (r"hosfl ", "test_told_commands_run.py"),
}
"""Kind -> commands of it, those of an earlier kind excepted, and the file below tests/ that runs them."""

COMPLETED = {
    "hosfl compare --target": "hosfl compare quickstart --target 0.3",
    "hosfl live --resume": "hosfl live --resume runs/quickstart-seed0",
    "hosfl simulate --check": "hosfl simulate quickstart --check",
    "hosfl watch --broker": "hosfl watch --broker mqtt://127.0.0.1:1883",
}
"""An option that a sentence mentions with its command, and the command that it stands for."""

PLACEHOLDERS = {
    r"scenarios/NAME\.toml": "scenarios/quickstart.toml",
    r"\bNAME\.png": "quickstart.png",
    r"\bbenchmarks\.NAME": "benchmarks.client_step",
    r"\bbenchmarks\.study NAME": "benchmarks.study activities",
    r"agent ROLE --config (FILE|settings\.toml)": "agent client --config settings.toml",
    r"data fetch NAME\b": "data fetch snippets",
    r"/(etc/hosfl|kit)/settings\.toml": "settings.toml",
    r"\bSCENARIO\b": "devices",
    r"--seed S\b": "--seed 1",
    r"=N\b": "=2",
    r"--clients N\b": "--clients 20",
    r"--steps S\b": "--steps 40",
    r"KEY=VALUE": "shared.directions=per_version",
    r"\bRULES\b": "--set shared.directions=per_step --set aggregator.location=mean --set aggregator.clipping.rule=none"
    " --set aggregator.clipping.held_devices=0 --set aggregator.trust.rule=none",
}
"""What stands for something that the reader chooses, and a choice."""


def told_in(text: str) -> list[str]:
    """Commands in blocks, whose lines a backslash may continue, and between backticks."""
    blocks = [block.replace("\\\n", " ") for kind, block in FENCED.findall(text) if kind == "sh"]
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [*lines, *(found.replace("\n", " ") for found in INLINE.findall(FENCED.sub("", text)))]
    told = [one.removeprefix(".venv/bin/") for one in commands]
    return [one for one in told if re.match("hosfl (--)?[a-z]|python -m benchmarks", one) and one not in NO_COMMANDS]


def commands_of(group: Any, name: str = "hosfl") -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


ENTRY: Any = typer.main.get_command(app)
COMMANDS = dict(commands_of(ENTRY))
WITHOUT_WHAT = ("hosfl simulate", "hosfl live", "hosfl watch", "hosfl dashboard", "hosfl fleet")
"""They have no required argument, and still cannot do without one of several."""


def only_named(command: str) -> bool:
    """Words in a sentence, without what they work on: ``hosfl live``, ``hosfl provision init``, ``hosfl provision``."""
    known = COMMANDS.get(command)
    first = command.partition("|")[0]
    unfinished = known is None and any(name == first or name.startswith(f"{first} ") for name in COMMANDS)
    return unfinished or command in WITHOUT_WHAT or (known is not None and any(parameter.required for parameter in known.params))


def alternatives(command: str) -> list[str]:
    """A told command as it can be typed: completed, with a choice for each placeholder, and each of the ways that ``[A | B]`` leaves."""
    command = COMPLETED.get(command, command)
    for placeholder, choice in PLACEHOLDERS.items():
        command = re.sub(placeholder, choice, command)
    parts = re.split(r"\s\[(--.*?)\](?=\s|$)", command)
    return [
        "".join(f" {part}" if part else "" for part in chosen).strip() for chosen in product(*(_ways(i, p) for i, p in enumerate(parts)))
    ]


def _ways(place: int, part: str) -> list[str]:
    return [way.strip() for way in part.split(" | ")] if place % 2 else [part.strip()]


BESIDE = [*(told.line for told in elsewhere()), *recipes("devices", "pretrained", "results", "results-full")]
"""Comments, service units and container files, and what make types; `make simulate` and `make live` are made by ``test_told_shell.py``."""
EXAMPLES = [str(command.epilog or "").removeprefix("Example: ") for command in COMMANDS.values()]
SOURCES = [path for folder in ("benchmarks", "hosfl_async") for path in sorted((ROOT / folder).rglob("*.py"))]
BENCHMARKS_IN_SOURCES = [command for path in SOURCES for command in told_in(path.read_text()) if command.startswith("python ")]
IN_DOCUMENTS = {command for document in DOCUMENTS for command in told_in(document.read_text())}
WORDS = sorted(IN_DOCUMENTS | {*EXAMPLES, *BENCHMARKS_IN_SOURCES, *filter(re.compile("hosfl [a-z]").match, BESIDE)})
NAMED = [command for command in WORDS if only_named(command)]
TOLD = [command for command in WORDS if not only_named(command)]


def kind_of(command: str) -> str:
    return next(kind for kind, (pattern, _) in KINDS.items() if re.match(pattern, command))


def of_kind(*kinds: str) -> list[str]:
    """All told commands of these kinds, as they can be typed, in one order."""
    return sorted({way for command in TOLD if kind_of(command) in kinds for way in alternatives(command)})


def words_of(command: str) -> list[str]:
    """As a shell gives them to the program, without a redirection and without a remark."""
    return shlex.split(command.partition(" > ")[0], comments=True)
