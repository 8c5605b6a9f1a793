"""The documentation site is built with every warning an error, opens without a network, and its drawings fit light and dark."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chromium import Browser

pytest.importorskip("mkdocs", reason="needs the extra docs")
ROOT = Path(__file__).parent.parent
FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//(?!\S*["']\s*rel=["']canonical)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    assert not {f"{page.relative_to(site)}: {found[0]}" for page in pages if (found := FETCHED.search(page.read_text()))}


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("index.html", "forward passes"),
        ("reference/scenario.html", "buffer_contributions"),
        ("reference/commands.html", "hosfl provision init"),
        ("reference/agents.html", "SplitServer"),
        ("reference/python.html", "load_scenario"),
        ("notebooks/first_steps.html", "frozen-client control"),
        ("contributing.html", "make check"),
    ],
)
def test_generated_pages_have_what_they_are_made_from(site: Path, page: str, text: str) -> None:
    words = re.sub(r"<[^>]+>", "", (site / page).read_text())  # a coloured command is in many elements
    assert text in words


DRAWINGS = """
const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255 };
const page = document.documentElement, of = (e, what) => getComputedStyle(e)[what];
return {
  ground: light(of(document.body, 'backgroundColor')),
  wide: page.scrollWidth - page.clientWidth,
  drawn: [...document.querySelectorAll('svg.states')].map(e => [of(e, 'backgroundColor'), e.querySelectorAll('rect').length]),
  boxes: [...document.querySelectorAll('.states rect')].map(e => light(of(e, 'fill'))),
  words: [...document.querySelectorAll('.states text')].map(e => light(of(e, 'fill'))),
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1400, 1000)])
def test_in_a_browser_drawings_are_as_light_or_dark_as_their_page(
    site: Path, browser: Browser, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    with browser.seen(width, height, scheme):
        browser.asked_for()
        browser.open((site / "protocol.html").as_uri())
        browser.do("localStorage.clear()")  # the site remembers what was chosen
        browser.open((site / "protocol.html").as_uri())
        assert {url.split(":")[0] for url in browser.asked_for()} <= {"file", "data"}
        look = browser.do(DRAWINGS)
        assert (look["ground"] < 0.2, look["ground"] > 0.9) == (scheme == "dark", scheme == "light")
        assert look["wide"] == 0, "nothing sticks out"
        assert look["drawn"] == [["rgba(0, 0, 0, 0)", 7], ["rgba(0, 0, 0, 0)", 7], ["rgba(0, 0, 0, 0)", 5]], "no white sheets"
        assert all(abs(box - look["ground"]) < 0.2 for box in look["boxes"])
        assert all(abs(word - look["ground"]) > 0.7 for word in look["words"])
        browser.do("document.querySelector('.states').scrollIntoView()")
        assert len(browser.screenshot(f"site-{width}-{scheme}.png", tmp_path)) > 10_000
        if scheme == "dark":
            browser.open((site / "index.html").as_uri())
            plot = browser.do("return getComputedStyle(document.querySelector('img[src*=quickstart]')).filter")
            assert "invert" in plot, "nor plots on white"
