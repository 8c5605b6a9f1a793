"""Commands of the documents and of the help texts that work on what is there run as they are told, in one folder.

Those that train, follow, deploy, fetch, export or measure have test files of their own (``told_commands.KINDS``); none is left out.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_told_commands import wrong_with
from told_commands import COMMANDS, DOCUMENTS, KINDS, NAMED, PLACEHOLDERS, ROOT, TOLD, WORDS, kind_of, of_kind, words_of

from hosfl_async import simulate
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded

SMALL = {"aggregator.client_steps": 60, "server.evaluate_every_steps": 30, "expect.accuracy_min": 0.0}
SCENARIO = '# mine.toml\nextends = "quickstart"\nname = "mine"\n'
BROKER = "mqtts://broker.example:8883"


RUN = sorted({re.sub(r"\b(runs/)?(RUN\b(\.\.\.)?|first\b|live-seed0)", "runs/RUN", command) for command in of_kind("plain")})
"""A run is called many things; what then is the same command is run once."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run under every name that the documents call one, a scenario file, and an operator's kits."""
    folder = tmp_path_factory.mktemp("told")
    first = folder / "runs/RUN"
    simulate("quickstart", settings=SMALL, folder=first, control=False)
    for name in ("runs/quickstart-seed0", "runs/stragglers-seed0", "runs/compare-stragglers/seed0"):
        shutil.copytree(first, folder / name)
    for name in ("mine.toml", "FILE", "scenario.toml"):
        (folder / name).write_text(SCENARIO)
    return folder


def pipes(command: str) -> list[str]:
    """``hosfl provision init|device`` is two commands."""
    first, _, last = command.rpartition(" ")
    return [f"{first} {word}" for word in last.split("|")]


def ran(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command that is run in that folder; a shell's redirection is left out."""
    words = words_of(command.replace("client-3/17", "client-3/1"))
    assert words[0] == "hosfl"
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", words)
    return guarded(app)


@pytest.mark.parametrize("command", [command for command in RUN if "provision" not in command])
def test_a_told_command_runs(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(command, place, monkeypatch) == 0, capsys.readouterr()


def test_an_operators_commands_run_in_their_order(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each document and help text begins anew, with kits of its own."""
    told = [command for command in RUN if "provision" in command]
    assert {command.split()[2] for command in told} == {"init", "device", "renew", "revoke"}
    for number, command in enumerate(told):
        own = place / f"operator-{number}"
        own.mkdir()
        (own / "scenario.toml").write_text(SCENARIO)
        if " init " not in command:
            assert ran(f"hosfl provision init operator quickstart --run r --broker {BROKER}", own, monkeypatch) == 0, capsys.readouterr()
        if " renew " in command or " revoke " in command:
            assert ran(f"hosfl provision device operator {command.split()[4]}", own, monkeypatch) == 0, capsys.readouterr()
        assert ran(command, own, monkeypatch) == 0, (command, capsys.readouterr())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_that_exists(name: str) -> None:
    example = str(COMMANDS[name].epilog or "").removeprefix("Example: ")
    assert example.startswith(name) and not wrong_with(example.partition(" > ")[0])


@pytest.mark.parametrize("command", [way for command in NAMED for way in pipes(command)])
def test_a_command_that_lacks_what_it_works_on_says_so(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A sentence names it; whoever types no more than that is told what is missing, in one line, or is shown the commands of its group."""
    assert ran(command, place, monkeypatch) == 2
    told = capsys.readouterr()
    one_line = len(told.err.splitlines()) == 1 and (
        "expected" in told.err or ("Missing" in told.err and f"see {command} --help" in told.err)
    )
    assert one_line or "Usage" in told.out + told.err, told


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_commands_and_a_file_that_runs_them(kind: str) -> None:
    file = ROOT / "tests" / KINDS[kind][1]
    assert of_kind(kind) and re.search(rf'of_kind\((?:"\w+", )?"{kind}"', file.read_text())


def test_no_told_command_is_forgotten() -> None:
    """Each is named only, or of a kind; and a choice for what the reader chooses is one that the documents tell."""
    assert sorted(NAMED + [command for command in TOLD if kind_of(command) in KINDS]) == WORDS
    assert {"story", "replay", "report", "picture", "check", "schema", "calibrate", "watch"} <= {command.split()[1] for command in RUN}
    texts = " ".join(document.read_text() for document in DOCUMENTS)
    assert all(word in texts for choice in PLACEHOLDERS.values() for word in choice.split("=")[0].split() if word.startswith("--"))
