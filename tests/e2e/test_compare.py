"""``hosfl compare`` and ``hosfl picture``: what is compared is comparable, what is finished is not run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import SCENARIOS, hosfl

from hosfl_async.assembly import draw
from hosfl_async.errors import SettingsError

SHORT = ("--set", "aggregator.client_steps=160", "--set", "server.evaluate_every_steps=50")
WORDS = ("compare", SCENARIOS / "stragglers.toml", "--seeds", "2", "--target", "0.2", *SHORT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "out"
    done = hosfl(*WORDS, "--out", folder, "-j", "2")
    assert done.returncode == 0, done.stderr
    assert "flight" in done.stdout and all(f"\n{name}  " in done.stdout for name in ("hosfl_async", "hosfl_sync", "frozen_client"))
    assert "…" not in done.stdout
    return folder


def test_figures_are_those_of_the_runs(folder: Path) -> None:
    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["methods"].keys() == {"hosfl_async", "hosfl_sync", "frozen_client"}
    for name, method in comparison["methods"].items():
        assert method["concurrency"] == comparison["clients"] == 20
        summaries = [json.loads((folder / f"{name}-seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
        finals = [summary["accuracy_final"] for summary in summaries]
        assert method["accuracy_final"] == pytest.approx(sum(finals) / 2) and method["spread"] == max(finals) - min(finals)
        assert method["accuracy_best"] == pytest.approx(sum(summary["accuracy_best"] for summary in summaries) / 2)
        for run, summary in zip(method["runs"], summaries, strict=True):
            check_costs(run, comparison)
            assert run["bytes"] == summary["bytes"]
    ours, paper = comparison["methods"]["hosfl_async"], comparison["methods"]["hosfl_sync"]
    assert paper["runs"][0]["curve"]["time_s"][-1] > 5 * ours["runs"][0]["curve"]["time_s"][-1]


def check_costs(run: dict, comparison: dict) -> None:
    curve = run["curve"]
    assert curve["samples"][0] == 0 and curve["samples"][-1] == 160 * comparison["batch_size"]
    assert curve["bytes"] == sorted(curve["bytes"]) and curve["time_s"] == sorted(curve["time_s"])
    reached = [place for place, accuracy in enumerate(curve["accuracy"]) if accuracy >= comparison["target"]]
    for cost, what in (("samples_to_target", "samples"), ("time_to_target_s", "time_s"), ("bytes_to_target", "bytes")):
        assert run[cost] == (curve[what][reached[0]] if reached else None)


def test_table_and_pictures_are_there(folder: Path) -> None:
    table = (folder / "comparison.md").read_text()
    assert all(f"| {name} | 20 |" in table for name in ("hosfl_async", "hosfl_sync", "frozen_client"))
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert b"hosfl_sync" in (folder / "comparison.svg").read_bytes()


def test_finished_runs_are_not_run_again_and_other_settings_are_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/*")}
    assert hosfl(*WORDS, "--out", folder).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/*")} == before
    changed = hosfl(*WORDS, "--set", "shared.probes=3", "--out", folder)
    assert changed.returncode == 2 and "holds another run" in changed.stderr


def test_an_interrupted_run_is_begun_anew_and_nothing_of_others_is_removed(folder: Path) -> None:
    kept = folder / "hosfl_async-seed1"
    expected = (kept / "metrics.jsonl").read_bytes()
    part = folder / "hosfl_async-seed1.part"
    kept.rename(part)
    (part / "summary.json").unlink()
    (part / "mine.txt").write_text("precious")
    refused = hosfl(*WORDS, "--out", folder)
    assert refused.returncode == 2 and "not an interrupted run" in refused.stderr
    (part / "mine.txt").unlink()
    assert hosfl(*WORDS, "--out", folder).returncode == 0
    assert (kept / "metrics.jsonl").read_bytes() == expected and not part.exists()


def test_unequal_concurrency_is_refused_unless_allowed(tmp_path: Path) -> None:
    words = (*WORDS, "--set", "client.steps_unanswered_max=2", "--out", tmp_path / "out")
    refused = hosfl(*words, "--methods", "hosfl_async,hosfl_sync")
    assert refused.returncode == 2
    assert "steps_unanswered_max" in refused.stderr or "in flight" in refused.stderr


def test_what_a_method_means_wins_over_overrides(tmp_path: Path) -> None:
    words = ("--methods", "hosfl_async", "--seeds", "1", "--set", "shared.probes=3", "--set", "aggregator.client_steps=60")
    assert hosfl("compare", SCENARIOS / "quickstart.toml", *words, "--out", tmp_path / "out").returncode == 0
    for method, probes in (("hosfl_async", 3), ("frozen_client", 0)):
        assert f"\nprobes = {probes}\n" in (tmp_path / "out" / f"{method}-seed0" / "scenario.toml").read_text()


def test_an_override_may_be_for_one_method_only_and_local_steps_count_as_samples(tmp_path: Path) -> None:
    words = ("--methods", "hosfl_async,fedbuff_first_order", "--seeds", "1", "--set", "aggregator.client_steps=60", "--target", "0.2")
    own = ("--set", "hosfl_async:shared.probes=3", "--set", "fedbuff_first_order:client.local_steps=2")
    out = tmp_path / "out"
    done = hosfl("compare", SCENARIOS / "quickstart.toml", *words, *own, "--out", out)
    assert done.returncode == 0, done.stderr
    for method, probes in (("hosfl_async", 3), ("fedbuff_first_order", 20)):
        assert f"\nprobes = {probes}\n" in (out / f"{method}-seed0" / "scenario.toml").read_text()
    methods = json.loads((out / "comparison.json").read_text())["methods"]
    samples = {name: method["runs"][0]["curve"]["samples"][-1] for name, method in methods.items()}
    assert samples == {"hosfl_async": 60 * 32, "fedbuff_first_order": 2 * 60 * 32, "frozen_client": 60 * 32}


def test_a_method_that_does_not_exist_and_a_missing_target_are_explained(tmp_path: Path) -> None:
    unknown = hosfl(*WORDS, "--methods", "hosfl_asink", "--out", tmp_path / "out")
    assert unknown.returncode == 2 and "--methods: no such method" in unknown.stderr and "hosfl_async" in unknown.stderr
    (tmp_path / "a.toml").write_text('name = "a"\n[[fleet]]\ncount = 6\n')
    assert "--target" in hosfl("compare", tmp_path / "a.toml", "--out", tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


def test_a_run_and_a_comparison_are_drawn_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    for what, name in ((folder, "comparison"), (folder / "hosfl_async-seed0", "run")):
        for ending, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
            pictures = []
            for number in (1, 2):
                out = tmp_path / f"{name}{number}{ending}"
                draw(what, out)
                pictures.append(out.read_bytes())
            assert pictures[0] == pictures[1] and pictures[0].startswith(magic) and len(pictures[0]) < 200_000
    refused = hosfl("picture", tmp_path, "--out", tmp_path / "x.png")
    assert refused.returncode == 2 and "not a run folder" in refused.stderr
    with pytest.raises(SettingsError, match="cannot be written"):
        draw(folder, tmp_path / "none" / "x.png")
