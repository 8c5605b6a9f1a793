"""What is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hosfl_async import SettingsError, load_scenario, simulate
from hosfl_async.cli import app
from hosfl_async.tracking import TOOLS, open_tracker, opening


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_extra_is_named(tool: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda package: None)
    with pytest.raises(SettingsError, match=rf"tracking: {tool}: not installed: .*pip install 'hosfl-async\[{tool}\]'"):
        open_tracker(tool)
    with pytest.raises(SettingsError, match="not installed"):
        simulate(load_scenario("quickstart"), folder=tmp_path / "run", track=tool)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_tools_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wandbx").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(opening.TOOLS, "wandbx", (lambda place: pytest.fail("opened"), ("wandbx",)))
    with pytest.raises(SettingsError, match="not installed: wandbx"):
        open_tracker("wandbx")


def test_what_is_no_tool_or_no_run_is_one_line(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["export", str(tmp_path), "--to", "excel"])
    assert "no such tool; expected tensorboard, mlflow, wandb, parquet" in str(ended.exception)
    with pytest.raises(SettingsError, match="did you mean tensorboard"):
        open_tracker("tensorbord=here")
    ended = CliRunner().invoke(app, ["export", str(tmp_path), "--to", "tensorboard"])
    assert "not a run folder" in str(ended.exception)
