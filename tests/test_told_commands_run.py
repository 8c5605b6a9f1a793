"""Commands in the documents and in the help texts run as they are told, in one folder; those that do not are here, with the reason.

A command that is new in a document and is neither of the two is a failure: whoever writes it says which it is.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from test_told_commands import DOCUMENTS, told_in, wrong_with

from hosfl_async import simulate
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded

ROOT = Path(__file__).parent.parent

NOT_RUN = {
    r"hosfl (simulate|live|compare|sweep|hunt)\b": "trains, for seconds to hours: tests/e2e runs each with fewer steps",
    r"hosfl (watch|dashboard)\b(?!.*--once)": "follows until somebody ends it: test_watching.py, test_dashboard.py",
    r"hosfl (agent|doctor|fleet|devices|broker)\b": "needs a broker, or runs until somebody ends it: tests/process",
    r"hosfl data fetch\b": "fetches from a registry: tests/assets has packages of its own",
    r"hosfl export\b": "needs tracking tools that are no part of the test extra: tests of tracking run it with those that are there",
    r"python -m benchmarks\b": "takes minutes: tests/test_benchmarks.py runs small cases",
}
"""Which commands, and why not here."""

SMALL = {"aggregator.client_steps": 60, "server.evaluate_every_steps": 30, "expect.accuracy_min": 0.0}
SCENARIO = '# mine.toml\nextends = "quickstart"\nname = "mine"\n'
BROKER = "mqtts://broker.example:8883"


def commands_of(group: Any, name: str = "hosfl") -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


COMMANDS = dict(commands_of(typer.main.get_command(app)))


def only_named(command: str) -> bool:
    """Words in a sentence, without what they work on: ``hosfl live``, ``hosfl provision init``."""
    known = COMMANDS.get(command)
    unfinished = known is None and command.partition("|")[0] in {name[: len(command.partition("|")[0])] for name in COMMANDS}
    return unfinished or (known is not None and any(parameter.required for parameter in known.params))


def is_left_out(command: str) -> bool:
    return any(re.match(kind, command) for kind in NOT_RUN)


EXAMPLES = [str(command.epilog or "").removeprefix("Example: ") for command in COMMANDS.values()]
TOLD = sorted({command for document in DOCUMENTS for command in told_in(document.read_text()) if not only_named(command)} | {*EXAMPLES})
RUN = sorted(
    {re.sub(r"\b(runs/)?(RUN\b(\.\.\.)?|first\b|live-seed0)", "runs/RUN", command) for command in TOLD if not is_left_out(command)}
)
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


def ran(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command that is run in that folder; a shell's redirection is left out."""
    words = shlex.split(command.partition(" > ")[0].replace("client-3/17", "client-3/1"), comments=True)
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


def test_every_reason_has_commands_and_some_are_run() -> None:
    assert not [kind for kind in NOT_RUN if not any(re.match(kind, command) for command in TOLD)]
    assert {"story", "replay", "report", "picture", "check", "schema", "calibrate", "watch"} <= {command.split()[1] for command in RUN}
