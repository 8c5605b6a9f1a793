"""How a process is, for whoever asks: a JSON file that is replaced every few seconds, or HTTP on a port of 127.0.0.1.

A process is *well* while its event loop turns (else the file grows old and the port is silent), its agent has not stopped for good, and its
connection to the broker stands or is being mended. The file is replaced whole, so a reader never sees half of one; it is no durable state
and is not synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hosfl_async.errors import SettingsError

REQUEST_BYTES_MAX = 8192
REQUEST_S = 5.0

Report = Callable[[], dict[str, Any]]
"""What is told; its key ``well`` decides between 200 and 503."""

Answer = tuple[str, str, bytes]
"""Status line, content type and body of an HTTP answer."""


async def keep_file(path: Path, report: Report, every_s: float) -> None:
    """Replace the file at once and then every ``every_s`` seconds, and once more when cancelled."""
    try:
        while True:
            write_file(path, report())
            await asyncio.sleep(every_s)
    finally:
        write_file(path, report())


def write_file(path: Path, told: dict[str, Any]) -> None:
    beside = path.with_name(path.name + ".tmp")
    with contextlib.suppress(OSError):  # a full disk must not end an agent that could go on
        beside.write_text(json.dumps(told) + "\n", encoding="utf-8")
        beside.replace(path)


async def serve_port(
    port: int, answer_with: Callable[[], Answer], on_open: Callable[[int], None], address: str = "127.0.0.1", connections_max: int = 16
) -> None:
    """Answer every request until cancelled. ``on_open`` hears the port's number. Raises ``SettingsError`` if it is taken.

    More than ``connections_max`` at once are closed unanswered.
    """
    open_now = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            if open_now <= connections_max:
                async with asyncio.timeout(REQUEST_S):
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(_response(answer_with()))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            open_now -= 1
            writer.close()

    try:
        server = await asyncio.start_server(answer, address, port, limit=REQUEST_BYTES_MAX)
    except OSError as problem:
        raise SettingsError(f"port {port} of {address}", "cannot be listened on", found=str(problem), mend="choose another") from problem
    on_open(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


def as_health(report: Report) -> Answer:
    """200 while all is well, 503 otherwise."""
    told = report()
    return "200 OK" if told.get("well") else "503 Service Unavailable", "application/json", json.dumps(told).encode() + b"\n"


def _response(answer: Answer) -> bytes:
    status, kind, body = answer
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
