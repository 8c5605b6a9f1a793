"""The Python interface: a run, its frame, its pictures and its story; a comparison; the gallery; mistakes in one line."""

from __future__ import annotations

import gc
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from hosfl_async import Compared, Run, SettingsError, compare, gallery, load_scenario, simulate

SMALL = {"aggregator.client_steps": 60, "shared.probes": 2, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.0}


@pytest.fixture(scope="module")
def run() -> Run:
    return simulate("quickstart", settings=SMALL, seed=3)


def test_a_run_says_what_its_summary_says(run: Run) -> None:
    summary = run.summary
    assert (run.scenario.name, summary.seed, summary.client_steps) == ("quickstart", 3, 60)
    shown = (run.accuracy_final, run.accuracy_best, run.accuracy_frozen_control)
    assert shown == (summary.accuracy_final, summary.accuracy_best, summary.accuracy_frozen_control)
    assert None not in shown
    assert "frozen-client control" in repr(run)


def test_the_frame_is_the_curve(run: Run) -> None:
    frame = run.frame()
    assert list(frame["accuracy"]) == [each.accuracy for each in run.evaluations]
    assert len(frame) >= 3 and frame["client_steps"].is_monotonic_increasing
    assert frame["bytes_activations"].iloc[-1] == run.evaluations[-1].bytes["activations"] > 0


def test_a_notebook_shows_table_and_picture(run: Run, tmp_path: Path) -> None:
    page = run._repr_html_()
    assert f"{run.accuracy_final:.3f}" in page and "data:image/png;base64," in page
    assert run.picture(tmp_path / "run.svg").startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "run.svg").read_bytes()


def test_a_run_tells_stories_and_replays(run: Run) -> None:
    assert "committed" in run.story("client-3/1") or "admitted" in run.story("client-3/1")
    assert run.replay().agrees


def test_a_folder_of_its_own_goes_with_the_run_and_one_that_was_named_stays(tmp_path: Path) -> None:
    passing = simulate("quickstart", settings=SMALL | {"aggregator.client_steps": 5}, control=False)
    folder = passing.folder
    assert folder.is_dir()
    del passing
    gc.collect()
    assert not folder.exists()
    kept = simulate("quickstart", settings=SMALL | {"aggregator.client_steps": 5}, control=False, folder=tmp_path / "kept")
    assert Run(tmp_path / "kept").summary == kept.summary
    assert kept.accuracy_frozen_control is None


def test_progress_is_told_to_whoever_asks(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    small = load_scenario("quickstart", SMALL | {"aggregator.client_steps": 5})
    simulate(small, control=False, progress=lines.append)
    assert any("step 5/5" in line for line in lines)
    pytest.importorskip("ipykernel", reason="needs the extra docs")  # imported by a script that runs notebooks, it makes no notebook of it
    simulate(small, control=False)
    assert capsys.readouterr() == ("", ""), "a script is not talked into"
    simulate(small, control=False, progress=True)
    assert "step 5/5" in capsys.readouterr().err


def test_a_comparison_has_a_row_for_each_method_and_seed(tmp_path: Path) -> None:
    settings = SMALL | {"aggregator.client_steps": 40, "hosfl_sync:aggregator.learning_rate": 0.1}
    found = compare("quickstart", ["hosfl_async", "hosfl_sync"], seeds=2, settings=settings, target=0.05, folder=tmp_path)
    frame = found.frame()
    assert sorted(zip(frame["method"], frame["seed"], strict=True)) == [
        (method, seed) for method in ("frozen_client", "hosfl_async", "hosfl_sync") for seed in (0, 1)
    ]
    curves = found.curves()
    last = curves[(curves.method == "hosfl_async") & (curves.seed == 0)].iloc[-1]
    assert last.accuracy == found.comparison.methods["hosfl_async"].runs[0].accuracy_final
    assert "data:image/png" in found._repr_html_() and "hosfl_sync" in repr(found)
    assert Compared(tmp_path).frame().equals(frame)


def test_the_gallery_is_known_by_name() -> None:
    assert {"quickstart", "stragglers", "synchronous"} <= set(gallery())
    for name, file in gallery().items():
        assert load_scenario(name) == load_scenario(file)
    assert load_scenario("stragglers", {"fleet[0].count": 3}, seed=9).seed == 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simulate("quikstart"), "no such scenario.* did you mean quickstart"),
        (lambda: load_scenario("quickstart", {"method": "hosfl_asink"}), "did you mean hosfl_async"),
        (lambda: compare("quickstart", "hosfl_sink"), "no such method.* did you mean hosfl_sync"),
        (lambda: simulate("quickstart", settings={"aggregator.client_step": 5}), "client_steps"),
        (lambda: simulate(load_scenario("quickstart"), seed=4), "loaded already"),
        (lambda: Run("nowhere"), "not a run folder"),
        (lambda: Compared("nowhere"), "not a comparison"),
    ],
)
def test_mistakes_are_one_line(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=words):
        call()


def test_a_folder_that_is_not_there_a_picture_of_no_kind_and_a_run_of_another_version_are_told(run: Run, tmp_path: Path) -> None:
    kept = shutil.copytree(run.folder, tmp_path / "mine-seed0")
    with pytest.raises(SettingsError, match=r"did you mean .*mine-seed0"):
        Run(tmp_path / "mine-sed0")
    with pytest.raises(SettingsError, match=r"ends in \.png, \.svg, \.pdf; found \.gif"):
        run.picture(tmp_path / "a.gif")
    with pytest.raises(SettingsError, match=r"a directory; the scenario of that run is .*/scenario\.toml"):
        simulate(kept)
    scenario = kept / "scenario.toml"
    scenario.write_text("future = 1\n" + scenario.read_text())
    with pytest.raises(SettingsError, match=rf"future: unknown key.* another version of hosfl_async .* this is {version('hosfl-async')}"):
        Run(kept)


def test_what_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    heard: list[str] = []
    with pytest.raises(SettingsError, match=r"nothing can be made in .*file"):
        simulate("quickstart", folder=tmp_path / "file" / "run", progress=heard.append)
    assert heard == []
