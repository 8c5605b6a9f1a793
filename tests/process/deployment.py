"""A whole deployment on one machine, for tests: a real broker, and every agent as a process that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hosfl_async.broker.embedded import find_mosquitto, free_port

PATIENCE_S = 120.0
"""Nothing here takes so long on a machine that works; a test that waits longer has failed."""


class Zygote:
    """See ``zygote.py``. ``start`` returns a process identifier, ``code`` its exit code once it has ended."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._pids: queue.Queue[int] = queue.Queue()
        self._codes: dict[int, int] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        self._pids.get(timeout=PATIENCE_S)

    def start(self, *argv: str | Path, log: Path, namespace: str = "", folder: Path | None = None, **environment: str) -> int:
        assert self._process.stdin is not None
        order: dict[str, Any] = {"argv": [str(word) for word in argv], "log": str(log), "environment": environment}
        order |= {"namespace": namespace, "folder": str(folder or "")}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self._pids.get(timeout=PATIENCE_S)

    def code(self, pid: int, timeout_s: float = PATIENCE_S) -> int:
        with self._news:
            if not self._news.wait_for(lambda: pid in self._codes, timeout_s):
                raise TimeoutError(f"process {pid} does not end")
            return self._codes[pid]

    def ended(self, pid: int) -> bool:
        return pid in self._codes

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "code" not in told:
                self._pids.put(told["pid"])
                continue
            with self._news:
                self._codes[told["pid"]] = told["code"]
                self._news.notify_all()


class Mosquitto:
    """A real mosquitto on a fixed port that forgets everything when it is killed."""

    CONFIG = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nmax_queued_messages 0\n"

    def __init__(self, folder: Path, config: str = CONFIG, port: int = 0) -> None:
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(config.format(port=self.port))
        self._words = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._words.open("ab") as words:
            command = [find_mosquitto() or "mosquitto", "-c", str(self._config)]
            self._process = subprocess.Popen(command, stdout=words, stderr=words, stdin=subprocess.DEVNULL)
        until(self._listens, f"mosquitto to listen: {self._words.read_text()}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def reload(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._words.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class Deployment:
    """Settings files, processes by agent name, their health and state. ``common`` is the text that all settings files begin with."""

    def __init__(
        self, zygote: Zygote, folder: Path, scenario: Path, url: str, *, common: str = "", tables: str = "", run: str = "test"
    ) -> None:
        self._zygote, self.folder, self.scenario = zygote, folder, scenario
        self.pids: dict[str, int] = {}
        self.starts: dict[str, int] = {}
        self._text = f'run = "{run}"\nscenario = "{scenario}"\n{common}\n'
        self._tables = f'[broker]\nurl = "{url}"\n{tables}\n[log]\nformat = "json"\nlevel = "debug"\n'

    def settings(self, name: str) -> Path:
        file = self.folder / f"{name}.toml"
        own = f'name = "{name}"\nstate = "state-{name}"\n'
        health = f'[health]\nfile = "{name}.health"\nevery_s = 0.2\n'
        file.write_text(own + self._text + self._tables + health)
        return file

    def start(self, name: str, namespace: str = "", **environment: str) -> None:
        role = {"aggregator": "aggregator", "split_server": "server"}.get(name, "client")
        words = ("agent", role, "--config", self.settings(name))
        self.pids[name] = self._zygote.start(*words, log=self.log(name), namespace=namespace, **environment)
        self.starts[name] = self.starts.get(name, 0) + 1

    def kill(self, name: str) -> int:
        """SIGKILL, unless it has ended already; its exit code."""
        return self.signal(name, signal.SIGKILL)

    def signal(self, name: str, number: int) -> int:
        pid = self.pids.pop(name)
        if not self._zygote.ended(pid):
            os.kill(pid, number)
        return self._zygote.code(pid)

    def ended(self, name: str) -> bool:
        return self._zygote.ended(self.pids[name])

    def wait(self, name: str, timeout_s: float = PATIENCE_S) -> int:
        return self._zygote.code(self.pids[name], timeout_s)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """What the log of ``name`` tells of that kind, over all its lives."""
        told = []
        for line in self.log(name).read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed process
                told.append(json.loads(line))
        return [each for each in told if each.get("event") == event]

    def health(self, name: str) -> dict[str, Any]:
        file = self.folder / f"{name}.health"
        return json.loads(file.read_text()) if file.exists() else {}

    def health_once(self, name: str, true: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """What the process that runs now says of itself, once ``true`` is."""

        def told() -> bool:
            health = self.health(name)
            return health.get("process") == self.pids[name] and bool(health.get(true))

        until(told, f"{name} to be {true}", timeout_s)
        return self.health(name)

    def close(self) -> None:
        for name in tuple(self.pids):
            self.kill(name)


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    try:
        yield made
    finally:
        made.close()


def until(true: Any, what: str, timeout_s: float = PATIENCE_S) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < give_up_at, f"waited in vain for {what}"
        time.sleep(0.02)
