"""Several machines on this one: a network namespace for each, joined by a bridge; bandwidth, loss and partitions by the kernel.

``ip``, ``tc`` and ``nft`` do the work, so it needs root. Not every kernel has netem, which delays packets; so a machine that is far away
reaches the broker through ``delaying_proxy.py`` in its own namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

TOOLS = ("ip", "tc", "nft")
PROXY = Path(__file__).with_name("delaying_proxy.py")


def why_not() -> str:
    """Empty if namespaces can be made here, else the reason."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, nftables)"
    name = f"hosfl-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machines:
    """``names`` in a row on one network; the address of each in ``address``. A context manager that leaves nothing behind."""

    def __init__(self, names: Iterable[str]) -> None:
        self._prefix = f"hosfl-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self.address = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=1)}
        self._port = {name: f"port{number}" for number, name in enumerate(self.address, start=1)}
        self._running: list[subprocess.Popen[bytes]] = []

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self._switch)
            self.on_switch("ip", "link", "add", "bridge", "type", "bridge")
            self.on_switch("ip", "link", "set", "bridge", "up")
            for name, address in self.address.items():
                space, port = self.namespace(name), self._port[name]
                _ip("netns", "add", space)
                self.on(name, "ip", "link", "set", "lo", "up")
                self.on(name, "ip", "link", "add", "wire", "type", "veth", "peer", "name", port, "netns", self._switch)
                self.on(name, "ip", "address", "add", f"{address}/24", "dev", "wire")
                self.on(name, "ip", "link", "set", "wire", "up")
                self.on_switch("ip", "link", "set", port, "master", "bridge")
                self.on_switch("ip", "link", "set", port, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for space in (*map(self.namespace, self.address), self._switch):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", space)

    def on(self, name: str, *command: str) -> None:
        """Run a command on a machine to its end."""
        _ip("netns", "exec", self.namespace(name), *command)

    def on_switch(self, *command: str) -> None:
        _ip("netns", "exec", self._switch, *command)

    def start(self, name: str, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a program on a machine; it is killed at the end."""
        with log.open("ab") as words:
            whole = ["ip", "netns", "exec", self.namespace(name), *command]
            process = subprocess.Popen(whole, stdout=words, stderr=words, stdin=subprocess.DEVNULL)
        self._running.append(process)
        return process

    def limit(self, name: str, *, up_bytes_per_s: int, down_bytes_per_s: int) -> None:
        """Bandwidth of a machine's link, both ways (a token bucket of 4 kB)."""
        bucket: tuple[Any, ...] = ("root", "tbf", "burst", "4kb", "latency", "5s", "rate")
        self.on(name, "tc", "qdisc", "add", "dev", "wire", *bucket, f"{up_bytes_per_s}bps")
        self.on_switch("tc", "qdisc", "add", "dev", self._port[name], *bucket, f"{down_bytes_per_s}bps")

    def cut(self, names: Iterable[str]) -> None:
        """Partition: nothing passes from or to these machines, and nobody is told."""
        ports = ", ".join(f'"{self._port[name]}"' for name in names)
        self._rules(f"iifname {{ {ports} }} drop", f"oifname {{ {ports} }} drop")

    def lose(self, percent: int) -> None:
        """Every packet may get lost."""
        self._rules(f"numgen random mod 100 < {percent} drop")

    def mend(self) -> None:
        """Neither partition nor loss any more."""
        self.on_switch("nft", "flush", "ruleset")

    def _rules(self, *rules: str) -> None:
        self.mend()
        self.on_switch("nft", "add", "table", "bridge", "trouble")
        self.on_switch("nft", "add chain bridge trouble forward { type filter hook forward priority 0; }")
        for rule in rules:
            self.on_switch("nft", f"add rule bridge trouble forward {rule}")

    def delay(self, name: str, seconds: float, broker: str, port: int, log: Path) -> str:
        """Hold back all that a machine and the broker say to each other, each way; the address under which it reaches the broker then."""
        self.start(name, sys.executable, str(PROXY), str(port), broker, str(port), str(seconds), log=log)
        return "127.0.0.1"
