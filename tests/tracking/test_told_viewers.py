"""The told command that shows what was written is run, and asked for the run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from told_shell import of_kind

from hosfl_async import Run

pytest.importorskip("tensorboard", reason="the extra tensorboard")


@pytest.mark.parametrize("command", of_kind("viewer"))
def test_a_told_viewer_shows_the_run(command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a free port, and reading at once."""
    monkeypatch.chdir(tmp_path)
    run.export("tensorboard")
    _, *words = shlex.split(command)
    program = [sys.executable, "-m", "tensorboard.main", *words, "--port", "0", "--load_fast", "false", "--reload_interval", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as viewer:
        assert viewer.stderr is not None
        try:
            said, address = "", None
            while address is None and (line := viewer.stderr.readline()):
                said += line
                address = re.search(r"http://localhost:\d+/", line)
            assert address, said
            port = re.findall(r"\d+", address[0])[0]
            with urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=60) as answer:
                assert any(name.startswith("quickstart-seed0-") for name in json.loads(answer.read()))
        finally:
            viewer.terminate()
