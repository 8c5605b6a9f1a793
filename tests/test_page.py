"""`python -m benchmarks.page`: nothing that the results page tells is left out, and one failure keeps no other command from being run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from told_commands import only_named, told_in

from benchmarks import page


def test_whatever_the_page_tells_whole_is_run() -> None:
    text = page.RESULTS.read_text(encoding="utf-8")
    told = {
        " ".join(one.split()) for one in told_in(text) if re.match(r"hosfl (simulate|compare|sweep)|python", one) and not only_named(one)
    }
    chosen = re.compile(r"\b[A-Z]\b|\bNAME\b|\bKEY=VALUE\b|\bRULES\b|^hosfl \w+ --")
    left = {
        one
        for one in told
        if not chosen.search(one) and not re.match(r"python -m benchmarks\.(study|page)\b|python -m benchmarks\.study_", one)
    }
    assert left == set(page.commands(text)) and len(left) > 15


def test_one_command_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    text = (
        "`hosfl compare nothing_of_the_kind`, and\n\n```sh\nhosfl sweep \\\n    --help   # all of it\n```\n and `hosfl simulate x --seed S`"
    )
    (tmp_path / "results.md").write_text(text)
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.md")
    monkeypatch.setattr(sys, "argv", ["page"])
    ran: list[str] = []

    def run(command: str, **options: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, returncode=len(ran) % 2)

    monkeypatch.setattr(subprocess, "run", run)
    assert page.main() == 1
    assert ran == ["hosfl sweep --help", "hosfl compare nothing_of_the_kind"]
    assert capfd.readouterr().err.endswith("These failed:\nhosfl sweep --help\n")
