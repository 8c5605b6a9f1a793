"""Commands in the documents: each exists with the options that are told, and the tutorial's are run as they stand."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from told_commands import DOCUMENTS, ENTRY, FENCED, told_in

from hosfl_async.cli import app
from hosfl_async.cli.app import guarded

ROOT = Path(__file__).parent.parent
FOR_LATER = ("hosfl doctor", "hosfl agent")
"""Of the tutorial: they need a broker, or run until somebody ends them; ``tests/process`` runs them."""
BLOCKS = ("sh", "python", "toml", "hex", "text")


def wrong_with(command: str) -> str:
    """What a reader who types it would stumble over: no such command or option, no such benchmark. Empty if nothing."""
    words = shlex.split(command, comments=True)
    if words[0] == "python":
        return _wrong_benchmark(words[2], words[3:])
    here: click.Command = ENTRY
    rest = words[1:]
    while rest and hasattr(here, "commands"):
        missing = [name for name in rest[0].split("|") if name not in here.commands]  # one of several may be told as a|b
        if missing:
            return f"no command {missing[0]}"
        here, rest = here.commands[rest[0].partition("|")[0]], rest[1:]
    known = {option for parameter in here.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    return f"no option {sorted(given - known)} of {here.name}" if given - known else ""


def _wrong_benchmark(module: str, words: list[str]) -> str:
    if module != "benchmarks.NAME" and find_spec(module) is None:
        return f"no module {module}"
    if module == "benchmarks.NAME":
        return ""
    path = ROOT / module.replace(".", "/")
    text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text() + (ROOT / "benchmarks/__init__.py").read_text()
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = [name for name in names if f'"{name}"' not in text and f'"{name[2:]}"' not in text]
    return f"no option {unknown} of {module}" if unknown else ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_told_exists(document: Path) -> None:
    wrong = {
        command: found for command in told_in(document.read_text()) if (found := wrong_with(command.replace("[", "").replace("]", "")))
    }
    assert not wrong


def test_what_does_not_exist_is_seen() -> None:
    assert wrong_with("hosfl simulat quickstart") == "no command simulat"
    assert wrong_with("hosfl simulate quickstart --sed 3").startswith("no option")
    assert wrong_with("python -m benchmarks.nothing") == "no module benchmarks.nothing"
    assert wrong_with("python -m benchmarks.scale --client 3").startswith("no option")
    assert len([command for document in DOCUMENTS for command in told_in(document.read_text())]) > 60


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_says_what_it_is(document: Path) -> None:
    """By that it is known what runs it; ``text`` is a drawing, or what a command printed."""
    unknown = {block.partition("\n")[0] for kind, block in FENCED.findall(document.read_text()) if kind not in BLOCKS}
    assert not unknown, f"```sh, python, toml, hex or text: {unknown}"


def test_the_tutorial_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In order and in one empty folder; blocks that begin with ``# NAME.toml:`` are written there."""
    text = (ROOT / "docs/tutorial.md").read_text()
    ran = []
    monkeypatch.chdir(tmp_path)
    for kind, block in FENCED.findall(text):
        if kind == "toml":
            (tmp_path / re.match(r"# (\S+\.toml):", block)[1]).write_text(block)  # type: ignore[index]
        for line in block.splitlines() if kind == "sh" else ():
            if line.startswith(FOR_LATER):
                continue
            words = shlex.split(line)
            assert words[0] == "hosfl", line
            monkeypatch.setattr("sys.argv", words)
            assert guarded(app) == 0, (line, capsys.readouterr())
            ran.append(words[1])
    assert {"simulate", "story", "replay", "report", "check", "compare", "live", "provision"} <= set(ran)
