"""The report: what each client did, from hand-written journals; which runs belong together; the page itself."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import Run, SettingsError, load_scenario, simulate
from hosfl_async.assembly.reporting import report
from hosfl_async.report import client_states
from hosfl_async.report.client_states import STATES, closer_look, courses, followed
from hosfl_async.report.page_panels import MISHAPS, _staleness_course
from hosfl_async.report.recorder import Evaluation
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
    assert page.count("<svg") == page.count("</svg>") == 10
    assert "client-20" in page and "#0b6e99" not in page.split("</style>")[1], "the page decides the colours"
    assert sorted(each.suffix for each in (tmp_path / "pictures").iterdir()) == [".png"] * 10 + [".svg"] * 10


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
    for name in ("metrics.jsonl", "scenario.toml"):
        (run / name).write_bytes((folders[0] / name).read_bytes())
    summary = json.loads((folders[0] / "summary.json").read_text())
    quiet = {**summary["counts"], **dict.fromkeys(MISHAPS, 0)}
    (run / "summary.json").write_text(json.dumps({**summary, "counts": quiet}))
    report([run], tmp_path / "page.html")
    page = sound(tmp_path / "page.html")
    assert page.count("<svg") == 6 and "A closer look" not in page
    assert re.search(r'id="mishaps"><h2>[^<]*</h2><p>Nothing', page), "and nothing was refused"


def test_the_last_evaluation_counts_with_the_interval_before_if_little_lies_between() -> None:
    def course(*points: tuple[int, float]) -> tuple[list[float], list[float]]:
        evaluations = [Evaluation(steps / 10, steps, 0, 0, 0.5, 1.0, versions) for steps, versions in points]
        return _staleness_course(evaluations)

    assert course((0, 0.0), (100, 2.0), (200, 3.0), (210, 14.0)) == ([10, 21], [2.0, 4.0])
    assert course((0, 0.0), (100, 2.0), (200, 3.0), (260, 14.0)) == ([10, 20, 26], [2.0, 3.0, 14.0])
    assert course((0, 0.0), (100, 2.0)) == ([10], [2.0])
    assert course((0, 0.0)) == ([], [])


LOOK = """
const page = document.documentElement, width = page.clientWidth;
const seen = e => { const box = e.getBoundingClientRect();
  return box.width > 100 && box.height > 30 && box.left >= 0 && box.right <= width };
const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number)
  .map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const card = getComputedStyle(document.querySelector('figure')).backgroundColor;
const texts = [...document.querySelectorAll('figure svg text')];
const ins = (e, box, of) => box.left >= of.left - 2 && box.right <= of.right + 2 && box.top >= of.top - 2 && box.bottom <= of.bottom + 2;
return {
  wide: page.scrollWidth - width,
  dark: light(getComputedStyle(document.body).backgroundColor) < 0.1,
  unseen: [...document.querySelectorAll('figure, svg, article, .tiles div')].filter(e => !seen(e))
    .map(e => e.id || e.outerHTML.slice(0, 80)),
  faint: texts.filter(e => contrast(getComputedStyle(e).fill, card) < 4).map(e => e.textContent),
  cut: texts.filter(e => !ins(e, e.getBoundingClientRect(), e.closest('svg').getBoundingClientRect())).map(e => e.textContent),
  figures: [...document.querySelectorAll('figure')].map(e => e.id),
  tiles: [...document.querySelectorAll('.tiles')].map(l => Object.fromEntries([...l.children].map(
    e => [e.querySelector('dt').innerText, e.querySelector('dd').innerText]))),
  table: Object.fromEntries([...document.querySelectorAll('tbody tr')].map(
    r => [r.cells[0].innerText, [...r.cells].slice(1).map(c => c.innerText)])),
}"""
"""What a reader sees: what sticks out or is missing, letters too faint or cut at an edge, and the figures as they stand there."""
ACCURACIES, COURSES = ["accuracy-samples", "accuracy-time", "accuracy-bytes"], ["staleness", "staleness-course", "log"]


@pytest.fixture(scope="module")
def pages(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Any]]]:
    """About one run, and about two side by side; with their summaries as they are on the disk."""
    place = tmp_path_factory.mktemp("pages")
    found = {}
    for name, runs in {"one": folders[:1], "two": [folders[0], folders[2]]}.items():
        report(runs, place / f"{name}.html")
        found[name] = place / f"{name}.html", [json.loads((run / "summary.json").read_text()) for run in runs]
    return found


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1400, 1000)])
def test_in_a_browser_without_a_network_a_page_says_what_the_summary_says(
    pages: dict[str, tuple[Path, list[Any]]], browser: Browser, tmp_path: Path, width: int, height: int, name: str
) -> None:
    page, summaries = pages[name]
    for scheme in ("light", "dark"):
        with browser.seen(width, height, scheme):
            browser.asked_for()
            browser.open(page.as_uri())
            look = browser.do(LOOK)
            assert browser.asked_for() == [page.as_uri()], "nothing but the page itself"
            assert (look["wide"], look["unseen"], look["faint"], look["cut"]) == (0, [], [], [])
            assert look["dark"] == (scheme == "dark")
            clients = [f"{kind}-{place}" for place in range(len(summaries)) for kind in ("clients", "timeline")]
            assert look["figures"] == [*ACCURACIES, *COURSES, "bytes", "mishaps", *clients]
            for tiles, summary in zip(look["tiles"], summaries, strict=True):
                assert tiles == {
                    "final accuracy": f"{summary['accuracy_final']:.3f}",
                    "frozen control": "none" if summary["accuracy_frozen_control"] is None else f"{summary['accuracy_frozen_control']:.3f}",
                    "modelled time": f"{summary['modelled_time_s']:.0f} s",
                    "client steps": f"{summary['client_steps']:,}",
                    "sent": f"{sum(summary['bytes'].values()) / 1e6:,.1f} MB",
                    "staleness": f"{summary['staleness']['mean']:.1f}",
                    "digests": "agree",
                }
            for row, form, values in (
                ("accuracy, best", "{:.3f}", [each["accuracy_best"] for each in summaries]),
                ("server steps", "{:,}", [each["server_steps"] for each in summaries]),
                ("log entries", "{:,}", [each["version"] for each in summaries]),
                ("MB sent", "{:.2f}", [sum(each["bytes"].values()) / 1e6 for each in summaries]),
                ("accepted", "{:,}", [each["counts"]["accepted"] for each in summaries]),
            ):
                assert look["table"][row] == [form.format(value) for value in values]
            picture = browser.screenshot(f"report-{name}-{width}-{scheme}.png", tmp_path, whole=True)
            assert picture.startswith(b"\x89PNG") and len(picture) > 30_000


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a run folder"):
        report([tmp_path], tmp_path / "page.html")
