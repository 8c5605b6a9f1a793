"""The documentation site is built with every warning an error, and opens without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert text in (site / page).read_text()
