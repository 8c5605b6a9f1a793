"""The dashboard: its answers over HTTP, and its page in a real browser, held against summary.json."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from chromium import Browser, wait_for

from hosfl_async import Run, SettingsError, load_scenario, run_live, simulate
from hosfl_async.assembly.dashboard import CLIENTS_SHOWN_MAX, STREAMS_MAX, Dashboard
from hosfl_async.assembly.folder import METRICS, SUMMARY, TRACE
from hosfl_async.assembly.listening import TelemetryWatch
from hosfl_async.assembly.watching import FolderWatch, RunWatch, Watched
from hosfl_async.broker.embedded import start_broker
from hosfl_async.report.hearing import Hearing
from hosfl_async.scenario import to_toml
from hosfl_async.telemetry import STATES, TELEMETRY_VERSION, Telemetry, encode_telemetry

SMALL = {"aggregator.client_steps": 120, "shared.probes": 2, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    scenario = load_scenario("quickstart", SMALL)
    return simulate(scenario, folder=tmp_path_factory.mktemp("dashboard") / "run", control=False)


@contextmanager
def served(run: Path | RunWatch, port: int = 0) -> Iterator[Dashboard]:
    with Dashboard(FolderWatch(run) if isinstance(run, Path) else run, port, every_s=0.1) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def ask(server: Dashboard, path: str, host: str = "localhost", method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_look_and_a_story_and_nothing_else(run: Run) -> None:
    with served(run.folder) as server:
        status, text = ask(server, "/look.json")
        look = json.loads(text)
        assert (status, look["look"]["client_steps"], look["look"]["version"]) == (200, run.summary.client_steps, run.summary.version)
        status, story = ask(server, "/story?client=client-3")
        assert status == 200
        assert "client-3" in story
        assert ask(server, "/story?client=../../etc/passwd")[0] == 404
        assert ask(server, "/log.sqlite")[0] == 404
        assert ask(server, "/look.json", host="elsewhere.example")[0] == 403
        assert ask(server, "/look.json", method="POST")[0] == 501


def test_streams_are_bounded(run: Run) -> None:
    with served(run.folder) as server:
        connections = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(STREAMS_MAX)]
        for each in connections:
            each.sendall(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert b"200" in each.recv(64)
        assert ask(server, "/events")[0] == 503
        server.over.set()
        for each in connections:
            each.close()


def test_a_large_fleet_is_shown_in_part(run: Run, tmp_path: Path) -> None:
    scenario = load_scenario("fleet_10k")
    (tmp_path / "scenario.toml").write_text(to_toml(scenario), encoding="utf-8")
    server = Dashboard(FolderWatch(tmp_path))
    try:
        look = json.loads(server.look())
        assert len(look["look"]["clients"]) == CLIENTS_SHOWN_MAX
        assert sum(look["look"]["states"].values()) == 10_000
    finally:
        server.server_close()


def test_a_port_in_use_is_one_line(run: Run) -> None:
    with served(run.folder) as server, pytest.raises(SettingsError, match="choose another"):
        Dashboard(FolderWatch(run.folder), server.server_address[1])


def text_of(browser: Browser, name: str) -> str:
    return str(browser.do(f"return document.getElementById('{name}').textContent"))


def test_in_a_browser_the_page_says_what_the_summary_says(run: Run, browser: Browser, tmp_path: Path) -> None:
    summary = run.summary
    with served(run.folder) as server:
        browser.open(server.url)
        wait_for(lambda: text_of(browser, "steps") == f"{summary.client_steps:,}")
        assert text_of(browser, "accuracy") == f"{summary.accuracy_final:.4f}"
        assert text_of(browser, "version") == f"{summary.version:,}"
        assert text_of(browser, "staleness") == f"{summary.staleness.mean:.2f}"
        assert text_of(browser, "digest").startswith(f"digests agree: {str(summary.digest)[:12]}")
        browser.do("document.querySelector('[data-client=client-4]').scrollIntoView({block: 'center'})")
        browser.click("[data-client=client-4]")
        wait_for(lambda: "client-4" in text_of(browser, "story"))
        assert text_of(browser, "who") == "client-4"
        browser.do("window.scrollTo(0, 0)")
        browser.click_corner("map")
        wait_for(lambda: text_of(browser, "who") == "client-1")
        assert browser.do("return document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        browser.do("document.querySelector('#map').scrollIntoView({block: 'center'})")
        shown = browser.screenshot("dashboard.png", tmp_path)
        assert shown.startswith(b"\x89PNG") and len(shown) > 10_000


def test_in_a_browser_the_page_grows_with_the_run_and_its_words_do_no_harm(run: Run, browser: Browser, tmp_path: Path) -> None:
    words = "<img src=x onerror=\"document.title='harm'\"><script>document.title='harm'</script>"
    (tmp_path / "scenario.toml").write_text(to_toml(replace(run.scenario, about=words)), encoding="utf-8")
    shutil.copy(run.folder / METRICS, tmp_path)
    whole = (run.folder / TRACE).read_bytes()
    (tmp_path / TRACE).write_bytes(whole[: len(whole) // 2])
    with served(tmp_path) as server:
        browser.open(server.url)
        wait_for(lambda: "going on" in text_of(browser, "state"))
        before = int(text_of(browser, "steps").replace(",", ""))
        assert 0 < before < run.summary.client_steps
        assert "onerror" in text_of(browser, "about"), "as text"
        (tmp_path / TRACE).write_bytes(whole)
        shutil.copy(run.folder / SUMMARY, tmp_path)
        wait_for(lambda: text_of(browser, "steps") == f"{run.summary.client_steps:,}")
        wait_for(lambda: "ended" in text_of(browser, "state"))
        assert browser.do("return document.title") == "hosfl dashboard"
        port = server.server_address[1]
    wait_for(lambda: "does not answer" in text_of(browser, "state"))
    with served(tmp_path, port):
        wait_for(lambda: "ended" in text_of(browser, "state"))


LIVE = {**SMALL, "live.time_scale": 0.05, "live.telemetry_every_s": 0.2}


def test_in_a_browser_a_live_run_over_its_broker_says_what_the_summary_says(browser: Browser, tmp_path: Path) -> None:
    """From the broker alone: the page never sees the run's folder."""
    opened: Queue[tuple[str, str]] = Queue()
    found: list[Any] = []

    def live() -> None:
        scenario = load_scenario("quickstart", LIVE)
        found.append(run_live(scenario, folder=tmp_path / "run", broker=url, control=False, on_open=lambda *told: opened.put(told)))

    with loop_of_its_own() as run_there:
        broker = run_there(start_broker("iotcore"))
        url = broker.url
        running = Thread(target=live)
        running.start()
        try:
            where, run_id = opened.get(timeout=60)
            assert where == url
            with TelemetryWatch(url, run_id) as watch, served(watch) as server:
                browser.open(server.url)
                wait_for(lambda: "heard over" in text_of(browser, "state"))
                wait_for(lambda: text_of(browser, "wanted") == "of 120")
                wait_for(lambda: "ended" in text_of(browser, "state"), 60)
                running.join()
                [summary] = found
                assert text_of(browser, "name") == "quickstart"
                assert text_of(browser, "steps") == f"{summary.client_steps:,}"
                assert text_of(browser, "accuracy") == f"{summary.accuracy_final:.4f}"
                assert text_of(browser, "version") == f"{summary.version:,}"
                assert text_of(browser, "staleness") == f"{summary.staleness.mean:.2f}"
                wait_for(lambda: text_of(browser, "server").startswith(f"{summary.server_steps:,} "))
                assert text_of(browser, "digest").startswith(f"digests agree: {str(summary.digest)[:12]}, confirmed by 20 of 20")
                wait_for(lambda: text_of(browser, "legend").count("20 offline") == 1)
                browser.click("[data-client=client-4]")
                wait_for(lambda: "version" in text_of(browser, "story"))
                browser.do("window.scrollTo(0, 0)")
                assert len(browser.screenshot("dashboard-over-mqtt.png", tmp_path)) > 10_000
        finally:
            running.join()
            run_there(broker.stop())


def test_in_a_browser_a_thousand_clients_are_a_map_and_fifty_rows(browser: Browser, tmp_path: Path) -> None:
    """What the page holds, and is sent at each refresh, is bounded, whatever the fleet."""
    hearing = Hearing()

    class Heard:
        """A fleet that has spoken, without a broker."""

        names = hearing.names
        story = staticmethod(hearing.story)

        def look(self) -> Watched:
            look = hearing.look(0.0, 0.0)
            return Watched("big", "", 0, look, hearing.evaluations, 10_000, journal=True, caught_up=True)

    def say(serial: int) -> None:
        for number in range(1, 1001):
            told = Telemetry(schema=TELEMETRY_VERSION, agent=f"client-{number}", boot=1, serial=serial, time_s=1.0, every_s=2.0,
                             state=STATES[number % 5], version=serial, accepted=serial, step=f"client-{number}/{serial}")  # fmt: skip
            hearing.hear(told.agent, encode_telemetry(told), 0.0)
        hearing.look(0.0, 0.0)

    say(1)
    with served(Heard()) as server:
        browser.open(server.url)
        wait_for(lambda: "200 computing" in text_of(browser, "legend"))
        elements = browser.do("return document.querySelectorAll('*').length")
        sent = len(server.look())
        assert browser.do("return document.querySelectorAll('#rows tr').length") == 50
        for serial in range(2, 12):
            say(serial)
            wait_for(lambda serial=serial: text_of(browser, "version") == str(serial))
        assert browser.do("return document.querySelectorAll('*').length") == elements
        assert len(server.look()) < 1.1 * sent < 200_000
        assert len(browser.screenshot("dashboard-thousand.png", tmp_path)) > 10_000


@contextmanager
def loop_of_its_own() -> Iterator[Callable[[Any], Any]]:
    """Runs coroutines one after another from code that is not asynchronous."""
    loop = asyncio.new_event_loop()
    try:
        yield loop.run_until_complete
    finally:
        loop.close()
