"""The report: what each client did, from hand-written journals; which runs belong together; the page itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import Run, SettingsError, load_scenario, simulate
from hosfl_async.assembly.reporting import report
from hosfl_async.report import client_states
from hosfl_async.report.client_states import STATES, closer_look, courses, followed
from hosfl_async.trace import TraceRecord

SMALL = {"aggregator.client_steps": 60, "shared.probes": 2, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.0}
WORDS = "<script>alert('no')</script> & words"


def journal(*lines: str) -> list[TraceRecord]:
    """``"3 started"``, ``"4.5 sent CatchUp"``: client-1's, unless the line ends with ``@NAME``."""
    records = []
    for serial, line in enumerate(lines, 1):
        text, _, agent = line.partition("@")
        time_s, what, *kind = text.split()
        records.append(TraceRecord(float(time_s), serial, agent or "client-1", what, kind[0] if kind else ""))
    return records


def test_a_clients_course_is_what_its_journal_says() -> None:
    [course] = courses(
        journal(
            "2 started",
            "3 sent CatchUp",
            "4 delivered LogPage",
            "4 job_started Replay",
            "5 job_done Replay",
            "5 job_started Forward",
            "7 job_done Forward",
            "7 sent SmashedData",
            "7 job_started Probe",
            "8 job_done Probe",
            "9 delivered DualVariable",
            "10 paused",
            "11 resumed",
            "12 crashed",
            "15 started",
            "16 delivered HeadAnnounced@client-2",
        ),
        ["client-1"],
    )
    told = [(each.state, each.begin_s, each.end_s) for each in course.segments]
    assert told == [
        ("offline", 0, 2),
        ("waiting otherwise", 2, 3),
        ("catching up", 3, 5),
        ("computing", 5, 8),
        ("waiting for the dual", 8, 9),
        ("waiting otherwise", 9, 10),
        ("offline", 10, 11),
        ("waiting otherwise", 11, 12),
        ("offline", 12, 15),
        ("waiting otherwise", 15, 16),
    ]
    assert sum(course.seconds.values()) == 16


EVENTS = st.sampled_from(
    ["started", "crashed", "stopped", "departed", "paused", "resumed", "job_started Forward", "job_started Replay", "job_done Forward",
     "sent CatchUp", "delivered LogPage", "delivered Snapshot", "sent SmashedData", "delivered DualVariable", "recorded cut_off", "timer x"]
)  # fmt: skip


@given(events=st.lists(st.tuples(st.floats(0, 10), EVENTS, st.sampled_from(["client-1", "client-2"])), max_size=40))
def test_segments_cover_the_run_without_gaps_and_add_up(events: list[tuple[float, str, str]]) -> None:
    now, lines = 0.0, []
    for wait, event, name in events:
        now += wait
        lines.append(f"{now!r} {event}@{name}")
    for course in courses(journal(*lines), ["client-1", "client-2"]):
        edges = [0.0, *(each.end_s for each in course.segments)]
        assert [each.begin_s for each in course.segments] == edges[:-1]
        assert edges[-1] == now
        assert sum(course.seconds.values()) == pytest.approx(now)
        assert all(before.state != after.state for before, after in zip(course.segments, course.segments[1:], strict=False))
        assert set(course.seconds) <= set(STATES)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_states, "SEGMENTS_MAX", 10)
    lines = [f"{time} {'job_started' if time % 2 else 'job_done'} Forward" for time in range(1, 100)]
    [course] = courses(journal("0 started", *lines), ["client-1"])
    assert len(course.segments) <= 10
    assert sum(course.seconds.values()) == 99, "the shares are of the whole run all the same"
    begin, end = closer_look([course])
    assert 0 <= begin < end <= course.segments[-1].end_s


def test_a_large_fleet_is_followed_in_part() -> None:
    names = [f"client-{number}" for number in range(1, 1001)]
    some = followed(names)
    assert len(some) == client_states.FOLLOWED_MAX == len(set(some))
    assert (some[0], some[-1]) == ("client-1", "client-1000")
    assert followed(names[:5]) == names[:5]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("reported")
    base = {"about": WORDS} | SMALL
    wanted = {"a": (base, 0), "b": (base, 1), "c": (base | {"shared.probes": 3}, 0)}
    for name, (settings, seed) in wanted.items():
        simulate(load_scenario("quickstart", settings, seed=seed), folder=place / name, control=name == "a")
    return [place / name for name in wanted]


class Sound(HTMLParser):
    """Every element that is opened is closed, and none fetches anything."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not [name for name, value in attrs if name in ("src", "href") and value and not value.startswith(("#", "data:"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def sound(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    parser = Sound()
    parser.feed(text)
    assert parser.open == [] and "script" not in parser.seen and "link" not in parser.seen
    assert not re.search(r"url\((?!#)|@import", text)
    return text


def test_a_page_about_one_run(folders: list[Path], tmp_path: Path) -> None:
    report(folders[:1], tmp_path / "page.html", tmp_path / "pictures")
    page, run = sound(tmp_path / "page.html"), Run(folders[0])
    assert f"{run.accuracy_final:.3f}" in page and f"frozen control {run.accuracy_frozen_control:.3f}" in page
    assert "&lt;script&gt;alert" in page and "&amp; words" in page
    assert page.count("<svg") == page.count("</svg>") == 9
    assert "client-20" in page and "#0b6e99" not in page.split("</style>")[1], "the page decides the colours"
    assert sorted(each.suffix for each in (tmp_path / "pictures").iterdir()) == [".png"] * 9 + [".svg"] * 9


def test_runs_that_differ_in_their_seed_only_are_one_group(folders: list[Path], tmp_path: Path) -> None:
    report(folders, tmp_path / "page.html")
    page = sound(tmp_path / "page.html")
    assert "shared.probes=2" in page and "shared.probes=3" in page
    assert "seeds 0, 1" in page and "spread" in page


def test_a_folder_of_runs_stands_for_them(folders: list[Path], tmp_path: Path) -> None:
    report([folders[0].parent], tmp_path / "of the folder.html")
    report(folders, tmp_path / "one by one.html")
    assert (tmp_path / "of the folder.html").read_text() == (tmp_path / "one by one.html").read_text()


def test_a_run_without_a_journal_has_a_page_without_courses(folders: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    for name in ("summary.json", "metrics.jsonl", "scenario.toml"):
        (run / name).write_bytes((folders[0] / name).read_bytes())
    report([run], tmp_path / "page.html")
    page = sound(tmp_path / "page.html")
    assert page.count("<svg") == 6 and "A closer look" not in page


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a run folder"):
        report([tmp_path], tmp_path / "page.html")
