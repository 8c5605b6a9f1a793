"""Every told ``hosfl export`` is run: into tools that are installed, in full; of the others each says which extra is missing.

The test extra brings tensorboard and parquet; `make tracking` installs the others and runs this again.
"""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from told_commands import of_kind, words_of

from hosfl_async import Run
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded
from hosfl_async.tracking import TOOLS

LEFT = {"tensorboard": "**/events.out.tfevents.*", "parquet": "curves/**/*.parquet", "mlflow": "mlflow.db", "wandb": "wandb/offline-run-*"}
"""Tool -> what it leaves in the folder."""
PACKAGE = {"parquet": "pyarrow"}


@pytest.mark.parametrize("command", of_kind("export"))
def test_a_told_export_is_written(
    command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.folder, tmp_path / "runs/quickstart-seed0")
    shutil.copytree(run.folder, tmp_path / "runs/sweep-NAME/point-1")
    monkeypatch.setattr("sys.argv", words_of(command))
    code, told = guarded(app), capsys.readouterr()
    tools = re.findall(r"--to (\w+)", command)
    assert tools and set(tools) <= set(TOOLS)
    missing = [tool for tool in tools if find_spec(PACKAGE.get(tool, tool)) is None]
    if missing:
        assert code == 2 and f"tracking: {missing[0]}: not installed" in told.err and f"pip install 'hosfl-async[{missing[0]}]'" in told.err
        return
    assert code == 0, told
    assert all(list(tmp_path.glob(LEFT[tool])) for tool in tools), told
