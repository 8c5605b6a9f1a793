"""Every study can be run as it stands, its committed figures are those of its rows, and docs/results.md shows what the figures say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import study
from benchmarks.study import FROZEN, read_lines, read_study, rendered, run_study, table, write_lines
from hosfl_async.assembly.folder import METRICS, SCENARIO, SUMMARY
from hosfl_async.errors import SettingsError

NAMES = study.names()
RUN_ALREADY = [name for name in NAMES if (study.TABLES / f"{name}.csv").exists()]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_a_study_is_a_scenario_with_at_least_three_seeds_or_says_one(name: str) -> None:
    asked = read_study(name)
    assert study.points_of(asked)
    assert asked.control or any("frozen" in row.label for row in asked.row) or "frozen" in asked.question
    assert len(asked.seeds) >= 3 or "one seed" in asked.question


@pytest.mark.parametrize("name", RUN_ALREADY)
def test_the_committed_figures_are_those_of_the_rows(name: str) -> None:
    asked = read_study(name)
    lines = read_lines(asked)
    told = [({key: line[key] for key in asked.axes}, line["label"], int(line["seed"])) for line in lines]
    wanted = [
        ({key: str(value) for key, value in condition.items()}, label, point.scenario.seed)
        for condition, label, point in study.points_of(asked)
    ]
    assert told == wanted


@pytest.mark.parametrize("name", RUN_ALREADY)
def test_the_page_shows_the_table_of_the_figures(name: str) -> None:
    text = study.RESULTS.read_text(encoding="utf-8")
    assert f"<!-- study: {name} -->" in text
    assert rendered(text, name, table(read_study(name), read_lines(read_study(name)))) == text


def test_figures_have_a_study() -> None:
    assert {path.stem for path in study.TABLES.glob("*.csv")} <= set(NAMES)


SMALL = """
question = "Small enough for a test?"
scenario = "quickstart"
seeds = [0, 1]
size = "small"
target = 0.05
at = { samples = 1000 }
[set]
"aggregator.client_steps" = 40
"server.evaluate_every_steps" = 20
[axes]
"shared.probes" = [1, 2]
[[row]]
label = "as it is"
[[row]]
label = "other"
set = { "aggregator.learning_rate" = 0.1 }
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, place in {"STUDIES": "studies", "TABLES": "tables", "RUNS": "runs"}.items():
        (tmp_path / place).mkdir()
        monkeypatch.setattr(study, name, tmp_path / place)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    (tmp_path / "studies/tiny.toml").write_text(SMALL)
    return "tiny"


def test_a_study_runs_once_and_tells_the_same_from_its_figures(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = read_study(small)
    lines = run_study(asked, 1)
    assert len(lines) == 2 * (2 + 1) * 2
    assert [line["label"] for line in lines[:6]] == ["as it is"] * 2 + ["other"] * 2 + [FROZEN] * 2
    assert all(line["samples"] == 40 * 32 and line["bytes"] > line["cut_bytes"] > 0 for line in lines)
    assert len(list(study.RUNS.iterdir())) == 10, "a frozen client has no probes: its runs are shared by both values"
    assert {path.name for path in study.RUNS.glob("*/*")} == {SCENARIO, SUMMARY, METRICS}, "no log, which may be gigabytes"
    write_lines(asked, lines)
    told = table(asked, read_lines(asked))
    assert told.count("\n") == 2 + 2 * 3 and "at 1,000 samples" in told
    capsys.readouterr()
    assert run_study(asked, 1) == lines
    assert capsys.readouterr().err == "", "nothing was run again"


def test_a_difference_is_taken_seed_by_seed(small: str) -> None:
    asked = read_study(small)
    lines: list[dict[str, Any]] = [
        {"shared.probes": probes, "label": label, "seed": seed, **dict.fromkeys(study.FIGURES, ""), "bytes": 1e6, "time_s": 60.0}
        | {"accuracy_final": accuracy + seed / 10, "accuracy_best": 0.9}
        for probes in (1, 2)
        for label, accuracy in (("as it is", 0.5), ("other", 0.625), (FROZEN, 0.25))
        for seed in (0, 1)
    ]
    write_lines(asked, lines)
    row = table(asked, read_lines(asked)).splitlines()[3]
    assert row == "| 1 | other | 0.675 | 0.625 to 0.725 | 0.900 | +0.125 (+0.125, +0.125) | 1.00 | 60.0 | never | never | never | - |"


def test_a_study_of_losses_has_them_beside_accuracy(small: str) -> None:
    (study.STUDIES / "tiny.toml").write_text(SMALL.replace("target = 0.05", "loss = true"))
    asked = read_study(small)
    lines = run_study(asked, 1)
    write_lines(asked, lines)
    read = read_lines(asked)
    assert [float(line["loss_final"]) for line in read] == [line["loss_final"] for line in lines]
    heads, _, first, other, *_ = [row.removesuffix(" |").split(" | ") for row in table(asked, read).splitlines()]
    assert heads[-2:] == ["loss", "its difference"]
    losses = [line["loss_final"] for line in lines[:4]]
    assert first[-2:] == [f"{sum(losses[:2]) / 2:.3f}", ""]
    gained = [losses[2] - losses[0], losses[3] - losses[1]]
    assert other[-1] == f"{sum(gained) / 2:+.3f} ({gained[0]:+.3f}, {gained[1]:+.3f})"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL.replace('label = "other"', 'label = "as it is"'), "must differ"),
        (SMALL.replace('size = "small"', 'size = "tiny"'), "size"),
        (SMALL + "what = 1\n", "what"),
        ("question = ", "is not a study"),
    ],
)
def test_a_wrong_study_is_told_by_its_file(text: str, told: str, small: str) -> None:
    (study.STUDIES / "wrong.toml").write_text(text)
    with pytest.raises(SettingsError, match=told) as problem:
        read_study("wrong")
    assert "studies/wrong.toml" in str(problem.value)


def test_a_study_that_does_not_exist_names_those_that_do(small: str) -> None:
    with pytest.raises(SettingsError, match="tiny"):
        read_study("nothing")


def test_only_the_table_below_the_mark_is_replaced() -> None:
    text = "a\n<!-- study: x -->\n| old |\n| old |\n\nb\n| kept |\n<!-- study: y -->\n| kept |\n"
    assert rendered(text, "x", "| new |\n") == "a\n<!-- study: x -->\n| new |\n\nb\n| kept |\n<!-- study: y -->\n| kept |\n"
