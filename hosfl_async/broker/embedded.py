"""A broker of our own for one machine and one run: a real mosquitto if there is one, else iotcore from PyPI.

It is a child process on a free port of 127.0.0.1 and is never reachable from elsewhere. Nothing persists: guarantees are the agents', not
the broker's. Both brokers need settings that are not their defaults, each for a reason that was measured:

* mosquitto: ``set_tcp_nodelay true`` (else 40 ms stalls), ``max_queued_messages 0`` with a byte cap (it drops silently after 1,000).
* iotcore: a payload limit above its 20 KB, and 127.0.0.1 instead of every interface.

The child is a broker behind a three-line shell guard that ends it when our end of a pipe closes. So it cannot outlive us: not after an
exception, not after Ctrl-C (it is in a session of its own, and stops *after* the agents said farewell), not after ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.errors import TransportError

BrokerKind = Literal["auto", "mosquitto", "iotcore"]

START_S = 15.0
"""Bound on the time from start to the first accepted connection."""
STOP_S = 5.0
"""Bound on a polite stop; then the child is killed."""
PORTS_TRIED_MAX = 3
"""A free port may be taken between finding it and listening on it."""
REPORT_BYTES_MAX = 2000
"""At most so much of a failed broker's own words is shown."""

_GUARD = 'exec 3<&0; "$@" 3<&- </dev/null & broker=$!; (cat <&3 >/dev/null; kill $broker) 2>/dev/null & wait $broker'

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes {queue_bytes}
max_inflight_messages 100
message_size_limit {packet_bytes}
log_dest stderr
log_type error
log_type warning
"""

_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = {segment_bytes}
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 0
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {packet_bytes}
max_inflight_count = 100
dynamic_filters = true
"""


class RunningBroker:
    """A broker process that we started. ``stop`` asks it to end, ``kill`` does not ask; both wait until it is gone."""

    def __init__(self, kind: str, port: int, process: asyncio.subprocess.Process) -> None:
        self.kind, self.port, self._process = kind, port, process

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def listens(self) -> bool:
        """Wait until the port accepts a connection; False if the child ended or time ran out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while self._process.returncode is None:
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        return self._process.returncode is None
                    await asyncio.sleep(0.02)
        return False

    async def ended(self) -> int:
        """Wait for the child's end; its exit code."""
        return await self._process.wait()

    async def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the child's whole session, which is ours alone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(OSError):
                await self._process.stdin.wait_closed()


@contextlib.asynccontextmanager
async def embedded_broker(kind: BrokerKind = "auto", settings: BrokerSettings | None = None) -> AsyncIterator[str]:
    """Run a private broker and yield its URL. ``auto``: mosquitto if installed, else iotcore. Raises ``TransportError`` if none starts."""
    broker = await start_broker(kind, settings)
    try:
        yield broker.url
    finally:
        await asyncio.shield(asyncio.ensure_future(broker.stop()))


async def start_broker(kind: BrokerKind = "auto", settings: BrokerSettings | None = None, port: int | None = None) -> RunningBroker:
    """Start a broker on 127.0.0.1, on ``port`` or a free one; whoever calls this must stop it."""
    chosen = kind if kind != "auto" else ("mosquitto" if find_mosquitto() else "iotcore")
    failure = TransportError("")
    for _ in range(PORTS_TRIED_MAX):
        number = port or free_port()
        if is_taken(number):  # else we would take the stranger who listens there for our child
            failure = TransportError(f"the embedded broker {chosen} did not start: port {number} of 127.0.0.1 is taken")
            continue
        with tempfile.TemporaryDirectory(prefix="hosfl-broker-") as folder:
            try:
                return await launch(chosen, _command(chosen, number, Path(folder), settings or BrokerSettings()), number, Path(folder))
            except TransportError as error:
                failure = error
    raise failure


async def launch(kind: str, command: list[str], port: int, folder: Path) -> RunningBroker:
    """Run a broker's ``command`` under the guard and wait until it accepts connections on ``port``. Its words go to a file in ``folder``.

    Raises ``TransportError`` with the last of these words if it ends or does not listen in time.
    """
    words = folder / "words"
    broker = RunningBroker(kind, port, await _spawn(command, words))
    try:
        if await broker.listens():
            return broker
    except BaseException:
        await broker.kill()
        raise
    await broker.kill()
    raise TransportError(f"the embedded broker {kind} did not start: {_last_words(words)}")


def find_mosquitto() -> str | None:
    """The mosquitto on PATH, or where Debian puts it for root."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _command(kind: str, port: int, folder: Path, settings: BrokerSettings) -> list[str]:
    packet_bytes = settings.payload_bytes_max + 1024
    if kind == "mosquitto":
        program = find_mosquitto()
        if program is None:
            raise TransportError("no mosquitto on PATH or in /usr/sbin; install it or use the broker iotcore")
        config = folder / "mosquitto.conf"
        config.write_text(_MOSQUITTO.format(port=port, queue_bytes=settings.broker_queue_bytes_max, packet_bytes=packet_bytes))
        return [program, "-c", str(config)]
    config = folder / "iotcore.toml"
    segment_bytes = max(settings.broker_queue_bytes_max // 10, 2**20)
    config.write_text(_IOTCORE.format(port=port, packet_bytes=packet_bytes, segment_bytes=segment_bytes))
    return [sys.executable, "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"]


async def _spawn(command: list[str], words: Path) -> asyncio.subprocess.Process:
    try:
        with words.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                _GUARD,
                "hosfl-broker",
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise TransportError(f"the embedded broker cannot be started: {error}") from error


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """True if somebody listens on this port of 127.0.0.1; connections that are only just closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _last_words(words: Path) -> str:
    said = words.read_bytes()[-REPORT_BYTES_MAX:].decode(errors="replace").split("\n")
    return " / ".join(line.strip() for line in said if line.strip()) or "it said nothing"
