"""Every command of the documents that trains is run as it is told, with numbers that make it short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_dashboard import loop_of_its_own
from test_resuming import interrupted_after
from told_commands import ROOT, of_kind, words_of

from hosfl_async import assembly, load_scenario
from hosfl_async.broker.embedded import start_broker
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded

STEPS = 40
SHORTER = {
    r"aggregator\.client_steps=\d+": f"aggregator.client_steps={STEPS}",
    r"server\.evaluate_every_steps=\d+": f"server.evaluate_every_steps={STEPS // 2}",
    r"expect\.accuracy_min=\S+": "expect.accuracy_min=0",
    r"--seeds \d+": "--seeds 1",
    r"--tries [1-9]\d*": "--tries 2",
    r"--time-scale \S+": "--time-scale 0.02",
    r"-j \d+": "-j 1",  # over two processes: test_sweep.py
}
"""Numbers that a command may tell, and smaller ones."""

FEW = (f"--set aggregator.client_steps={STEPS}", f"--set server.evaluate_every_steps={STEPS // 2}", "--set expect.accuracy_min=0")
ADDED = {
    "simulate": FEW,
    "live": (*FEW, "--time-scale 0.02"),
    "compare": (*FEW, "--seeds 1"),
    "sweep": FEW,
    "hunt": ("--tries 2", "--steps 20"),
}
"""What a command is given in addition, unless it tells it itself."""

MINE = 'extends = "quickstart"\nname = "mine"\n'
SWEPT = f"{MINE}[sweep]\nseeds = [1]\nshared.probes = [2, 3]\n"


def shortened(command: str) -> str:
    """The same command with fewer steps, seeds and tries; what resumes a run keeps that run's settings, but for more steps."""
    for long, short in SHORTER.items():
        command = re.sub(rf"(?<![\w-]){long}", short, command)
    command = re.sub(" +", " ", command)
    if "--resume" in command:
        return command.replace(f"client_steps={STEPS}", f"client_steps={STEPS + 20}")
    first, _, rest = command.partition(" && ")
    added = [option for option in ADDED[command.split()[1]] if not re.search(rf" {re.escape(re.split('[=0-9]', option)[0])}", first)]
    return " ".join([first, *added]) + (f" && {rest}" if rest else "")


COMMANDS = sorted({shortened(command) for command in of_kind("training")})


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The URL of a broker that was running before."""
    with loop_of_its_own() as run_there:
        running = run_there(start_broker("auto"))
        yield running.url
        run_there(running.stop())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: the scenarios of a checkout, files of their own, and no runs yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    (tmp_path / "docs/pictures").mkdir(parents=True)
    for name in ("mine.toml", "FILE", "THAT-FILE"):
        (tmp_path / name).write_text(MINE)
    return tmp_path


def stopped_run(folder: Path, *, by_its_end: bool) -> None:
    """What an interrupt, or the end of a run, left in ``folder``."""
    scenario = load_scenario("quickstart", {"aggregator.client_steps": STEPS, "server.evaluate_every_steps": STEPS // 2, "expect": {}})
    if by_its_end:
        assembly.simulate(scenario, folder=folder, control=False)
        return
    with interrupted_after(300), pytest.raises(KeyboardInterrupt):
        assembly.simulate(scenario, folder=folder, control=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_told_command_trains(
    command: str, place: Path, broker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if " sweep " in command:
        for name in ("mine.toml", "FILE"):
            (place / name).write_text(SWEPT)
    if "--resume" in command:
        stopped_run(place / "runs/quickstart-seed0", by_its_end="client_steps" in command)
    for each in command.replace("mqtt://127.0.0.1:1883", broker).split(" && "):
        monkeypatch.setattr("sys.argv", words_of(each))
        assert guarded(app) == 0, (each, capsys.readouterr())
    told = capsys.readouterr()
    if command.startswith("hosfl hunt"):
        assert "nothing broke in" in told.out
        return
    finished = [json.loads(file.read_text()) for file in place.rglob("summary.json")]
    assert finished and all(summary["digests_agree"] and summary["client_steps"] >= STEPS for summary in finished), finished


def test_what_is_shortened_is_the_same_command() -> None:
    """The words that are told stay, in their order, but for the numbers."""
    for command in of_kind("training"):
        told, run = (re.findall(r"[A-Za-z_]{2,}", text) for text in (command, shortened(command)))
        rest = iter(run)
        assert all(word in rest for word in told), (command, shortened(command))
    assert shortened("hosfl simulate a --set aggregator.client_steps=500").count("client_steps") == 1
