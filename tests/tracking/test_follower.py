"""Whatever a tool does, the run is neither held up nor ended by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest
from test_facts import SUMMARY

from hosfl_async import SettingsError, load_scenario
from hosfl_async.assembly import simulate
from hosfl_async.assembly.folder import METRICS
from hosfl_async.assembly.folder import SUMMARY as SUMMARY_FILE
from hosfl_async.errors import TrackingError
from hosfl_async.report import Summary
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking import Follower, RunFacts, opening

FACTS = RunFacts("a-seed1", "a", "", "0123456789abcdef", 0.0, {"name": "a"}, {})
SHORT = {"aggregator.client_steps": 60, "server.evaluate_every_steps": 20, "shared.probes": 2, "expect.accuracy_min": 0.0}


def point(number: int) -> Evaluation:
    return Evaluation(float(number), number, number, number, 0.5, 1.0, 0.0)


class Notebook:
    """A tool of ours: keeps what it is told; ``slow`` holds it up until set, ``breaks_at`` makes it fail."""

    def __init__(self, *, breaks_at: str = "", slow: Event | None = None) -> None:
        self.place, self.told, self.breaks_at, self.slow = "notebook", list[str](), breaks_at, slow

    def _take(self, word: str) -> None:
        if self.slow is not None:
            self.slow.wait(30)
        if word == self.breaks_at:
            raise ConnectionError("no\n  such server")
        self.told.append(word)

    def begin(self, facts: RunFacts) -> bool:
        if self.breaks_at == "begin":
            raise OSError("full")
        return self.breaks_at != "known"

    def point(self, point: Evaluation) -> None:
        self._take(f"point {point.client_steps}")

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        self._take(f"end {summary.client_steps} {[file.name for file in files]}")

    def abandon(self) -> None:
        self._take("abandon")


def test_everything_is_told_in_order_and_nothing_after_the_end() -> None:
    follower = Follower(notebook := Notebook(), FACTS)
    for number in range(50):
        follower.point(point(number))
    follower.end(SUMMARY, [Path("x/summary.json")])
    follower.abandon()
    assert notebook.told == [*(f"point {number}" for number in range(50)), "end 10 ['summary.json']"]
    assert follower.complaint == ""


def test_a_slow_tool_holds_nobody_up_and_what_it_misses_is_counted() -> None:
    go = Event()
    follower = Follower(notebook := Notebook(slow=go), FACTS, waiting_max=10)
    for number in range(100):
        follower.point(point(number))
    assert follower.dropped in (89, 90), "ten wait, and one may be under way"
    go.set()
    follower.end(SUMMARY, [])
    assert len(notebook.told) == 100 - follower.dropped + 1
    assert f"{follower.dropped} points" in follower.complaint


def test_a_tool_that_hangs_is_left_behind() -> None:
    follower = Follower(Notebook(slow=(go := Event())), FACTS)
    follower.point(point(1))
    follower.end(SUMMARY, [], patience_s=0.05)
    assert "still not done" in follower.complaint
    go.set()


def test_a_tool_that_fails_is_told_no_more() -> None:
    follower = Follower(notebook := Notebook(breaks_at="point 2"), FACTS)
    for number in range(5):
        follower.point(point(number))
    follower.end(SUMMARY, [])
    assert notebook.told == ["point 0", "point 1"]
    assert follower.complaint == "tracking at notebook: no such server"


def test_what_cannot_begin_is_refused() -> None:
    with pytest.raises(TrackingError, match="full"):
        Follower(Notebook(breaks_at="begin"), FACTS)
    with pytest.raises(SettingsError, match="has this run already"):
        Follower(Notebook(breaks_at="known"), FACTS)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    made = Notebook()
    monkeypatch.setitem(opening.TOOLS, "notebook", (lambda place: made, ()))
    return made


def test_a_run_is_followed_and_is_the_same_run(notebook: Notebook, tmp_path: Path) -> None:
    scenario = load_scenario("quickstart", SHORT)
    said: list[str] = []
    followed = simulate(scenario, folder=tmp_path / "a", control=False, track=["notebook"], told=said.append)
    alone = simulate(scenario, folder=tmp_path / "b", control=False)
    steps = [each.client_steps for each in read_evaluations(tmp_path / "a" / METRICS)]
    assert notebook.told == [*(f"point {each}" for each in steps), "end 60 ['scenario.toml', 'summary.json', 'metrics.jsonl']"]
    assert followed.digest == alone.digest
    assert said == [f"{tmp_path / 'a'}: written to notebook"]


def test_a_tool_that_fails_does_not_touch_the_run(notebook: Notebook, tmp_path: Path) -> None:
    notebook.breaks_at = "point 0"
    said: list[str] = []
    simulate(load_scenario("quickstart", SHORT), folder=tmp_path / "a", control=False, track=["notebook"], told=said.append)
    assert (tmp_path / "a" / SUMMARY_FILE).is_file()
    assert len(said) == 1 and "no such server" in said[0] and "hosfl export" in said[0]
    with pytest.warns(UserWarning, match="no such server.*hosfl export"):
        simulate(load_scenario("quickstart", SHORT), folder=tmp_path / "b", control=False, track=["notebook"])


def test_an_interrupted_run_is_abandoned(notebook: Notebook, tmp_path: Path) -> None:
    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(load_scenario("quickstart", SHORT), folder=tmp_path / "a", control=False, track=["notebook"], watch=interrupt)
    assert notebook.told[-1] == "abandon"
