"""Kinds of shell lines that are no ``hosfl`` commands (those are in ``told_commands.py``), and which test runs those of a kind.

A line that nothing claims fails ``test_told_shell.py``: give it a kind and a test that runs it, or say in ``NOT_RUN`` why none can.
"""

from __future__ import annotations

import re

from told_commands import DOCUMENTS, ROOT
from told_files import Told, elsewhere, markdown, messages, recipes

HOSFL = re.compile(r"(hosfl (--)?[a-z]|python -m benchmarks)")
PROGRAM = re.compile(r"(?:[A-Z0-9_]+=\S+ )*[a-z][a-z0-9_-]* (?![-+*/=<>&|]+ )\S")
"""A program's name and an argument, perhaps with variables before."""

PAGE = re.compile(r"^## What the documents tell\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
"""Of CONTRIBUTING.md: how lines begin, not lines."""

KINDS = {
    "make": (r"make\b", "test_told_shell.py"),
    "pytest": (r"(HOSFL_\w+=\S+ |HYPOTHESIS_PROFILE=\S+ )?(python -m )?pytest\b", "test_told_shell.py"),
    "requirement": (r"pip install 'hosfl-async\[", "test_told_shell.py"),
    "package": (r"(python -m )?pip install\b", "test_told_shell.py"),
    "import": (r"from \w+ import", "test_told_shell.py"),
    "drawing": (r"python docs/", "test_told_shell.py"),
    "backup": (r"sqlite3\b", "test_told_shell.py"),
    "mosquitto": (r"mosquitto -c", "process/test_told_brokers.py"),
    "viewer": (r"tensorboard\b", "tracking/test_told_viewers.py"),
    "checker": (r"ruff|mypy|lint-imports|NO_MKDOCS_2_WARNING=1 python -m mkdocs", "test_told_shell.py"),
}
"""Kind -> how its lines begin, and the file below tests/ that runs them."""

NOT_RUN = {
    "podman": "needs an engine and an image from a registry; the steps of the container files are done without one",
    "docker": "as podman; the compose file's command is run with the same files",
    "useradd": "makes a user inside the image",
    "apt-get": "needs root and a network; continuous integration installs mosquitto by it where it is missing",
    "pipx": "installs torch and the rest anew; `e2e/test_packaging.py` calls the command that it would call, of a package just built",
    "mlflow": "its page is in no extra of ours; `make tracking` reads the database back with mlflow's own reader",
    "wandb": "uploads to somebody's account",
    "kill": "no whole command; the tests in `tests/process` kill every agent so",
    "pip download": "no whole command; `hosfl data fetch` runs it, with a folder of ours for the registry",
    "tc": "no whole command; needs root, and `tests/process/test_namespaces.py` types it where it may",
}
"""How a line begins that continuous integration does not run as it stands, and why."""

NO_LINES = {
    "set_tcp_nodelay true": "a setting of mosquitto",
    "max_queued_messages 0": "a setting of mosquitto",
    "persistence false": "a setting of mosquitto",
    "user root": "a setting of mosquitto",
    "ff ff ff ff": "bytes",
}
"""They look like a program with an argument."""

DONE_BY_MAKE = ("simulate", "live")
"""Targets that train, which are made here; what the others would type is told like everything else."""
OTHERS = ("devices", "test", "lint", "docs", "pretrained", "results", "results-full", "soak", "tracking")


def is_line(text: str) -> bool:
    return bool(PROGRAM.match(text)) and not HOSFL.match(text) and text not in NO_LINES


def told() -> list[Told]:
    """Every shell line that is no ``hosfl`` command, with where it stands, of documents, of other files, of messages and of make."""
    lines = [Told(str(path.relative_to(ROOT)), line) for path in DOCUMENTS for line in markdown(PAGE.sub("", path.read_text()))]
    lines += elsewhere()
    for path in sorted(ROOT.glob("hosfl_async/**/*.py")):
        for text in messages(path):
            found = re.findall(r"pip install '[^']+'|apt-get install [a-z]+|(?<!`)`(mosquitto -c [^`]+)`", text)
            whole = re.findall(r"pip install '[^']+'|apt-get install [a-z]+", text)
            lines += [Told(str(path.relative_to(ROOT)), line) for line in (*whole, *filter(None, found))]
    lines += [Told("Makefile", line) for target in OTHERS for line in recipes(target) if not re.match("for |echo ", line)]
    plain = [Told(where, line.removeprefix(".venv/bin/")) for where, line in lines]
    return sorted({each for each in plain if is_line(each.line)})


TOLD = told()


def kind_of(line: str) -> str:
    """Of ``KINDS`` or ``NOT_RUN``; empty if nothing claims the line."""
    found = [kind for kind, (pattern, _) in KINDS.items() if re.match(pattern, line)]
    found += [start for start in NOT_RUN if re.match(rf"{start}\b", line)]
    return found[0] if found else ""


def of_kind(kind: str) -> list[str]:
    return sorted({line for _, line in TOLD if kind_of(line) == kind})
