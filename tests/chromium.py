"""Debian's Chromium by its WebDriver, for tests that look at a page as a reader does; the fixture ``browser`` in conftest.py opens it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1400,1000"]  # fmt: skip


class Browser:
    """A window of 1400 x 1000 pixels, and the few words of the WebDriver that tests need."""

    def __init__(self, port: int, profile: Path) -> None:
        self._port, self._base = port, ""
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL"}}
        made = self._say("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"/session/{made['sessionId']}"
        self.open("about:blank")
        self.asked_for()  # what the browser's own first page wanted

    def _say(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request(method, self._base + path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.loads(answer.read())["value"]
        assert answer.status == 200, value
        return value

    def open(self, url: str) -> None:
        self._say("POST", "/url", {"url": url})

    def do(self, script: str) -> Any:
        return self._say("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, css: str) -> None:
        found = self._say("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]
        self._say("POST", f"/element/{found}/click", {})

    def click_corner(self, name: str) -> None:
        """Five pixels inside the upper left corner."""
        x, y = self.do(f"const box = document.getElementById('{name}').getBoundingClientRect(); return [box.x, box.y]")
        move = {"type": "pointerMove", "duration": 0, "origin": "viewport", "x": int(x) + 5, "y": int(y) + 5}
        steps = [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._say("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def devtools(self, command: str, **values: Any) -> Any:
        """A word of the DevTools protocol, for what the WebDriver has none."""
        return self._say("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    @contextmanager
    def seen(self, width: int, height: int, scheme: str) -> Iterator[None]:
        """A window of this size, by a reader who prefers ``light`` or ``dark``; afterwards as before."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        try:
            yield
        finally:
            self.devtools("Emulation.clearDeviceMetricsOverride")
            self.devtools("Emulation.setEmulatedMedia", features=[])

    def asked_for(self) -> list[str]:
        """Every address that pages have asked for since the last call, answered or not."""
        told = [json.loads(entry["message"])["message"] for entry in self._say("POST", "/se/log", {"type": "performance"})]
        return [each["params"]["request"]["url"] for each in told if each["method"] == "Network.requestWillBeSent"]

    def screenshot(self, name: str, folder: Path, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG, left as ``name`` in HOSFL_ARTEFACTS if that is set, otherwise in ``folder``."""
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)["data"] if whole else self._say("GET", "/screenshot")
        picture = b64decode(taken)
        kept = Path(os.environ.get("HOSFL_ARTEFACTS", folder))
        kept.mkdir(parents=True, exist_ok=True)
        (kept / name).write_bytes(picture)
        return picture

    def close(self) -> None:
        self._say("DELETE", "")


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser of its own. Skips where there is none, unless HOSFL_REQUIRE_CHROMIUM says that this must not happen."""
    program = shutil.which("chromedriver")
    if program is None or shutil.which("chromium") is None:
        if os.environ.get("HOSFL_REQUIRE_CHROMIUM"):
            pytest.fail("chromedriver is missing: apt-get install chromium chromium-driver")
        pytest.skip("needs Debian's chromium and chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        try:
            wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
            opened = Browser(port, profile)
            yield opened
            opened.close()
        finally:
            driver.terminate()


def wait_for(holds: Callable[[], Any], most_s: float = 30.0) -> None:
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
