"""Every told ``mosquitto -c FILE`` is run by a real mosquitto in the folder that is told, with the file that is there.

Only the port is this test's own (the told ones may be taken), and root stays root: mosquitto would give its rights up before it reads
files that are root's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import until
from test_provisioning import SMALL, kit, tls
from told_files import ROOT
from told_shell import of_kind

from hosfl_async.broker.embedded import find_mosquitto, free_port
from hosfl_async.provisioning.access import OPERATOR
from hosfl_async.provisioning.operator import Operator, Plan

pytestmark = pytest.mark.mosquitto
CONNECT = bytes.fromhex("101000044d5154540502003c00") + b"\x00\x03who"
"""MQTT 5, a clean start, one minute, the name "who"."""


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = Operator.create(tmp_path_factory.mktemp("told") / "operator", Plan("spring-1", SMALL, "mqtts://127.0.0.1:8883"))
    made.add([OPERATOR])
    yield made
    made.close()


def own_port(file: Path) -> int:
    port, text = free_port(), file.read_text()
    mine, count = re.subn(r"^listener \d+.*$", f"listener {port} 127.0.0.1", text, flags=re.MULTILINE)
    assert count == 1
    file.write_text(mine + ("user root\n" if os.getuid() == 0 else ""))
    return port


def connected(port: int, operator: Operator | None, answer: list[bytes]) -> bool:
    """With the certificate of the kit `operator`, or without one; the first byte of the answer to a CONNECT."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        wrapped = tls(kit(operator, OPERATOR)).context().wrap_socket(line, server_hostname="127.0.0.1") if operator else line
        with wrapped:
            wrapped.sendall(CONNECT)
            answer.append(wrapped.recv(1))
        return True
    return False


@pytest.mark.parametrize("command", of_kind("mosquitto"))
def test_a_told_mosquitto_serves(command: str, operator: Operator, tmp_path: Path) -> None:
    """That of a checkout without certificates; that of an operator's folder, also where a container sees it, with them."""
    words, secure = shlex.split(command), ".dev." not in command
    here = tmp_path / "broker"
    shutil.copytree(operator.folder / "broker" if secure else ROOT / "broker", here)
    port = own_port(here / Path(words[2]).name)
    folder, words[2] = (here, words[2].removeprefix("/broker/")) if secure else (tmp_path, words[2])
    said = tmp_path / "said"
    with said.open("wb") as out, subprocess.Popen([str(find_mosquitto()), *words[1:]], cwd=folder, stdout=out, stderr=out) as broker:
        try:
            answer: list[bytes] = []
            until(lambda: connected(port, operator if secure else None, answer), f"a connection: {said.read_text()}")
            assert broker.poll() is None and answer == [b"\x20"], (answer, said.read_text())
        finally:
            broker.terminate()


def test_the_file_of_the_checkout_is_the_one_that_is_run(operator: Operator) -> None:
    assert (operator.folder / "broker/mosquitto.conf").read_text() == (ROOT / "broker/mosquitto.conf").read_text()
