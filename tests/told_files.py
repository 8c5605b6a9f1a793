"""What is told to type outside blocks of ``hosfl`` commands: every shell line of the documents, and those of files that are no documents.

A shell line stands in a block of kind ``sh``, between backticks, or alone and indented in a comment; service units, container files and
the compose file have lines of their own, and messages of the package tell what to install. ``test_told_shell.py`` says what runs each.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FENCED = re.compile(r"^```(\w*)[^\n`]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMENTED = ("scenarios/*.toml", "studies/*.toml", "agents/*/*", "broker/*", "Makefile", "mkdocs.yml", "pyproject.toml", ".ci/run")
"""Files whose comments tell something."""
OWN = {
    "*.service": re.compile(r"^ExecStart=(?:/usr/local/bin/)?(.+)$", re.MULTILINE),
    "Containerfile": re.compile(r"^(?:RUN|ENTRYPOINT) (.+)$", re.MULTILINE),
    "compose.yaml": re.compile(r"^ +command: (.+)$", re.MULTILINE),
}
"""Lines of such a file that are run by what reads it."""

READY = ("-o", ".venv/ready", "-o", ".venv/ready-test", "-o", ".venv/ready-docs")
"""Options of make: what a target needs is installed, or the tests would not run."""


WITHOUT_MAKE = {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS|(PYTEST_)?OPTIONS$|SCENARIO$", name)}
"""The environment, as if the tests were not made by make: it would hand its options and variables on."""


class Told(NamedTuple):
    where: str
    line: str


def markdown(text: str) -> Iterator[str]:
    """Lines of blocks, which a backslash may continue, and what is between backticks and has more than one word."""
    for kind, block in FENCED.findall(text):
        if kind == "sh":
            yield from (line.partition("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines())
    yield from (" ".join(span.split()) for span in SPAN.findall(FENCED.sub("", text)) if re.search(r"\S\s+\S", span))


def comments(text: str) -> Iterator[str]:
    """Comments: what is between backticks, and a line that is set apart by being indented."""
    told = re.findall(r"^#( .*)$", text, re.MULTILINE)
    yield from markdown("\n".join(told))
    yield from (line.strip() for line in told if re.match(r" {3,}[a-z]", line))


def own_lines(path: Path) -> Iterator[str]:
    for pattern, lines in OWN.items():
        if path.match(pattern):
            for line in lines.findall(path.read_text()):
                yield from (" ".join(json.loads(line)) if line.startswith("[") else line).split(" && ")


def messages(path: Path) -> Iterator[str]:
    """String constants of a module; NAME stands for what is put into them."""
    inside = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside.update(map(id, node.values))
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "NAME" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def elsewhere() -> list[Told]:
    """Shell lines of files that are no documents, those of notebooks' texts included."""
    told = []
    for path in sorted({path for pattern in COMMENTED for path in ROOT.glob(pattern) if path.is_file() and path.suffix != ".md"}):
        told += [Told(str(path.relative_to(ROOT)), line) for line in (*comments(path.read_text()), *own_lines(path))]
    for path in sorted(ROOT.glob("docs/notebooks/*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
        told += [Told(str(path.relative_to(ROOT)), line) for cell in cells for line in markdown("".join(cell["source"]))]
    return told


def recipes(*targets: str) -> list[str]:
    """What make would type, with the environment's own folder left out; nothing where there is no make."""
    if shutil.which("make") is None:
        return []
    command = ["make", "-n", *READY, *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=WITHOUT_MAKE, check=True)
    return [line.strip().replace(".venv/bin/", "") for line in done.stdout.replace("\\\n", " ").splitlines()]
