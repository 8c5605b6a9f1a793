"""Every command of the documents that runs an agent, a broker or a whole deployment, looks at one, or follows a run: as it is told.

Addresses, ports and the names of runs are this machine's own. What serves until somebody ends it is seen to serve, and ended as a
user does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from deployment import Deployment, Mosquitto, Zygote, until
from test_provisioning import SMALL, SecureMosquitto, kit
from told_commands import of_kind, words_of

from hosfl_async import simulate
from hosfl_async.assembly.folder import SUMMARY, TRACE
from hosfl_async.broker.embedded import free_port
from hosfl_async.cli import app
from hosfl_async.cli.app import INTERRUPTED, guarded
from hosfl_async.process import exits
from hosfl_async.provisioning.access import OPERATOR
from hosfl_async.provisioning.operator import Operator, Plan

pytestmark = pytest.mark.mosquitto
RUN = "spring-1"
LONG = ("aggregator.client_steps=100000", "live.time_scale=0.5", "live.telemetry_every_s=0.2")
NAMES = {"aggregator": "aggregator", "server": "split_server", "client": "client-1"}
"""Role -> whose kit its command is run in."""
TELLS = {"HOSFL_HEALTH__EVERY_S": "0.2", "HOSFL_HEALTH__FILE": "health.json"}

ALIKE = {
    r"\b(watch|dashboard) (runs/)?(RUN|live|quickstart-seed0)\b": r"\1 runs/RUN",
    r"\bdevices( devices)?( --set aggregator\.client_steps=\d+)?$": "devices devices --set aggregator.client_steps=200",
}
COMMANDS = of_kind("following", "deployment")
for _many, _one in ALIKE.items():
    COMMANDS = sorted({re.sub(_many, _one, command) for command in COMMANDS})
"""A run is called many things, and an argument is its default; what then is the same command is run once."""


def starting(*words: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(tuple(f"hosfl {word}" for word in words))]


class Screen:
    """What a terminal of 120 columns shows of a command, from its first word on."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 120, 0, 0))
        os.set_blocking(self._ours, False)
        self.device, self._text = Path(os.ttyname(self._theirs)), ""

    def text(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while read := os.read(self._ours, 65536):
                self._text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read.decode(errors="replace"))
        return self._text

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def served(forks: Zygote, command: str, folder: Path, **environment: str) -> Iterator[tuple[Screen, Callable[..., int]]]:
    """A command that goes on in a terminal, and how to wait for its exit code, with or without a signal first."""
    screen = Screen()
    pid = forks.start(*words_of(command)[1:], log=screen.device, folder=folder, TERM="xterm", **environment)

    def ended(number: int | None = signal.SIGINT) -> int:
        if number is not None:
            os.kill(pid, number)
        return forks.code(pid)

    try:
        yield screen, ended
    finally:
        if not forks.ended(pid):
            os.kill(pid, signal.SIGKILL)
            forks.code(pid)
        screen.close()


class Fleet:
    """A provisioned run over mutual TLS: mosquitto, and the told ``hosfl agent`` of each role in the kit of one who has it."""

    def __init__(self, forks: Zygote, folder: Path) -> None:
        self._forks, self._folder, port = forks, folder, free_port()
        self.operator = Operator.create(folder / "operator", Plan(RUN, SMALL, f"mqtts://127.0.0.1:{port}", (), LONG))
        self.operator.add([*self.operator.without_kit(), OPERATOR])
        self.broker = SecureMosquitto(self.operator, folder, port)
        self.broker.start()
        self.pids: dict[str, int] = {}

    def start(self, command: str) -> None:
        name = NAMES[words_of(command)[2]]
        log = self._folder / f"{name}.log"
        self.pids[name] = self._forks.start(*words_of(command)[1:], log=log, folder=kit(self.operator, name), **TELLS)
        until(lambda: self.health(name).get("process") == self.pids[name] and self.health(name)["connected"], f"{name}, see {log}", 60)

    def health(self, name: str) -> dict[str, object]:
        file = kit(self.operator, name) / "health.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def end(self, name: str) -> int:
        pid = self.pids.pop(name)
        os.kill(pid, signal.SIGTERM)
        return self._forks.code(pid)

    def close(self) -> None:
        for name in tuple(self.pids):
            self.end(name)
        self.broker.kill()
        self.operator.close()


@pytest.fixture(scope="module")
def fleet(forks: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(forks, tmp_path_factory.mktemp("fleet"))
    try:
        for command in starting("agent"):
            made.start(command)
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("command", starting("agent"))
def test_an_agent_is_ended_and_goes_on(command: str, fleet: Fleet) -> None:
    name = NAMES[words_of(command)[2]]
    assert fleet.end(name) == exits.TERMINATED
    fleet.start(command)


@pytest.mark.parametrize("command", starting("doctor"))
def test_a_device_is_looked_at(command: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(kit(fleet.operator, "client-2"))
    assert run_here(command, monkeypatch) == 0, capsys.readouterr()
    told = capsys.readouterr().out
    assert "WRONG" not in told and re.search(r"^access +ok", told, re.MULTILINE)


@pytest.mark.parametrize("command", starting("fleet"))
def test_the_fleet_is_told(command: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On the aggregator's machine, or from the operator's folder."""
    home = kit(fleet.operator, "aggregator")
    monkeypatch.chdir(fleet.operator.folder if "kits/" in command else home)
    until((home / "state" / "fleet.json").exists, "the roll of the fleet")

    def told() -> str:
        assert run_here(command, monkeypatch) == 0, capsys.readouterr()
        return capsys.readouterr().out

    if "--json" in command:
        until(lambda: "client-1" in json.loads(told())["devices"], "client-1 to be heard")
    else:
        until(lambda: re.search(r"^client-1 +yes ", told(), re.MULTILINE), "client-1 to be heard")
        assert "client steps" in told()


def run_here(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", words_of(command))
    return guarded(app)


@pytest.fixture(scope="module")
def open_url(forks: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run of that name over a broker that lets everybody in."""
    folder = tmp_path_factory.mktemp("open")
    broker = Mosquitto(folder)
    broker.start()
    settings = ", ".join(f'"{each}"' for each in LONG)
    deployed = Deployment(forks, folder, SMALL, broker.url, common=f"overrides = [{settings}]", run=RUN)
    try:
        for name in NAMES.values():
            deployed.start(name)
        deployed.health_once("client-1", "version")
        yield broker.url
    finally:
        deployed.close()
        broker.kill()


FOLLOWING_RUNS = [command for command in starting("watch", "dashboard") if "runs/RUN" not in command]


@pytest.mark.parametrize("command", FOLLOWING_RUNS)
def test_a_live_run_is_followed_over_its_broker(command: str, fleet: Fleet, open_url: str, forks: Zygote) -> None:
    told = command.replace("mqtt://127.0.0.1:1883", open_url)
    assert told != command or "--config kits/operator/" in command
    if told.startswith("hosfl dashboard"):
        told += " --port 0"
    with served(forks, told, fleet.operator.folder) as (screen, ended):
        if told.startswith("hosfl dashboard"):
            page_shows(screen, lambda look: look["version"] > 0)
        else:
            until(lambda: re.search(r"client-1 .*client-1/\d+", screen.text()), f"the first page of {told}: {screen.text()}")
        assert ended() == INTERRUPTED, screen.text()


def page_shows(screen: Screen, true: Callable[[dict[str, float]], bool]) -> None:
    """The dashboard's address is told, and its page is given what it asks for."""
    until(lambda: re.search(r"http://\S+\s", screen.text()), f"an address: {screen.text()}")
    address = urlsplit(re.findall(r"http://\S+", screen.text())[0])

    def shown() -> bool:
        connection = HTTPConnection(str(address.hostname), address.port or 80, timeout=20)
        connection.request("GET", "/look.json")
        answer = connection.getresponse()
        return answer.status == 200 and true(json.loads(answer.read())["look"])

    until(shown, "the look that is waited for")


@pytest.mark.parametrize("command", starting("watch runs/", "dashboard runs/"))
def test_a_run_is_followed_in_its_folder(command: str, forks: Zygote, tmp_path: Path) -> None:
    """From its middle to its end: the watch ends with it, the dashboard is ended."""
    run = tmp_path / "runs/RUN"
    few = {"aggregator.client_steps": 60, "server.evaluate_every_steps": 30, "expect.accuracy_min": 0.0}
    summary = simulate("quickstart", settings=few, folder=run, control=False).summary
    whole, told = (run / TRACE).read_bytes(), shutil.move(run / SUMMARY, tmp_path / SUMMARY)
    (run / TRACE).write_bytes(whole[: len(whole) // 2])
    with served(forks, command if "watch" in command or "--port" in command else f"{command} --port 0", tmp_path) as (screen, ended):
        if "dashboard" in command:
            page_shows(screen, lambda look: 0 < look["client_steps"] < summary.client_steps)
        else:
            until(lambda: "going on" in screen.text(), "the first page")
        (run / TRACE).write_bytes(whole)
        shutil.move(told, run / SUMMARY)
        if "dashboard" in command:
            page_shows(screen, lambda look: look["client_steps"] == summary.client_steps)
            assert ended() == INTERRUPTED
        else:
            assert ended(None) == 0 and f"{summary.accuracy_final:.4f}" in screen.text()


@pytest.mark.parametrize("command", starting("broker"))
def test_a_broker_serves_until_it_is_ended(command: str, forks: Zygote, tmp_path: Path) -> None:
    port = free_port()
    with served(forks, f"{command.partition(' --port')[0]} --port {port}", tmp_path) as (screen, ended):
        until(lambda: f"mqtt://127.0.0.1:{port}" in screen.text(), f"its address: {screen.text()}")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(bytes.fromhex("101000044d5154540502003c00") + b"\x00\x03who")
            assert client.recv(1) == b"\x20", "a CONNACK"
        assert ended() in (0, INTERRUPTED), screen.text()


@pytest.mark.parametrize("command", starting("devices"))
def test_a_deployment_is_rehearsed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one device instead of eight: three processes, and mosquitto."""
    monkeypatch.chdir(tmp_path)
    short = "--set aggregator.client_steps=6 --set 'fleet=[{count = 1}]' --set aggregator.buffer_contributions=1"
    assert run_here(f"{command} {short}", monkeypatch) == 0, capsys.readouterr()
    assert "after 6 client steps" in capsys.readouterr().out


def test_every_command_has_been_taken() -> None:
    assert (
        sorted([*FOLLOWING_RUNS, *starting("agent", "doctor", "fleet", "broker", "devices", "watch runs/", "dashboard runs/")]) == COMMANDS
    )
