"""Serves the dashboard of one run: on this machine alone, and to read only.

Four answers: the page, one look as JSON, looks as server-sent events, and the story of a client. Everything else is 404.
"""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Event, Lock
from time import monotonic
from urllib.parse import parse_qs, urlsplit

import msgspec

from hosfl_async.assembly.watching import RunWatch, Watched
from hosfl_async.errors import HosflError, SettingsError
from hosfl_async.report.client_states import followed
from hosfl_async.report.dashboard_page import dashboard_page

HOST = "127.0.0.1"
CLIENTS_SHOWN_MAX = 2000
"""Of a larger fleet, so many at equal distances; the page says so."""
STREAMS_MAX = 16
STORY_LINES_MAX = 200

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Dashboard(ThreadingHTTPServer):
    """``serve_forever`` until ``shutdown``. ``port`` 0: a free one, see ``url``.

    Raises ``SettingsError`` for a port in use.
    """

    daemon_threads = True

    def __init__(self, watch: RunWatch, port: int = 0, every_s: float = 0.5) -> None:
        self.watch = watch
        self.every_s = every_s
        self.streams = BoundedSemaphore(STREAMS_MAX)
        self.over = Event()
        self._lock = Lock()
        self._json, self._at_s = b"", 0.0
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as problem:
            raise SettingsError("--port", "cannot be served", found=str(problem), mend="choose another, or 0 for a free one") from problem
        self.url = f"http://{HOST}:{self.server_address[1]}/"

    def look(self) -> bytes:
        """The newest look as JSON; everyone who asks within one interval is given the same."""
        with self._lock:
            if not self._json or monotonic() - self._at_s >= self.every_s:
                self._json, self._at_s = msgspec.json.encode(self._some(self.watch.look())), monotonic()
            return self._json

    def story(self, name: str) -> list[str] | None:
        """What happened to a client lately; None if there is no such client."""
        with self._lock:
            lines = self.watch.story(name)
        return None if lines is None else lines[-STORY_LINES_MAX:]

    def _some(self, seen: Watched) -> Watched:
        if len(seen.look.clients) <= CLIENTS_SHOWN_MAX:
            return seen
        shown = tuple(followed(seen.look.clients, CLIENTS_SHOWN_MAX))
        return msgspec.structs.replace(seen, look=msgspec.structs.replace(seen.look, clients=shown))


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        host = self.headers.get("Host", "").partition(":")[0]
        if host not in (HOST, "localhost"):  # a page elsewhere whose name was pointed at this machine must not read along
            return self._answer(403, b"only by the name of this machine")
        answers: dict[str, Callable[[], None]] = {
            "/": lambda: self._answer(200, dashboard_page().encode(), "text/html"),
            "/look.json": lambda: self._answer(200, self.server.look(), "application/json"),
            "/events": self._events,
            "/story": lambda: self._story(parse_qs(place.query).get("client", [""])[0]),
        }
        try:
            answers.get(place.path, lambda: self._answer(404, b"there is nothing here"))()
        except HosflError as problem:
            self._answer(500, str(problem).encode())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self._headers(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _headers(self, kind: str) -> None:
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")

    def _story(self, name: str) -> None:
        lines = self.server.story(name)
        if lines is None:
            self._answer(404, b"no client of this name")
        else:
            self._answer(200, "\n".join(lines).encode())

    def _events(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            return self._answer(503, b"too many pages are open")
        try:
            self.send_response(200)
            self._headers("text/event-stream")
            self.end_headers()
            told = b""
            while not self.server.over.is_set():
                look = self.server.look()
                # an unchanged run is told as a comment, which finds out whether anyone still listens
                self.wfile.write(b": as before\n\n" if look == told else b"data: " + look + b"\n\n")
                told = look
                self.server.over.wait(self.server.every_s)
        finally:
            self.server.streams.release()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads a line for each request."""
