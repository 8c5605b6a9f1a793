"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hosfl_async import Run, load_scenario, simulate
from hosfl_async.tracking.facts import final_figures

pytest.importorskip("tensorboard", reason="the extra tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import parse_session_end_info_plugin_data, parse_session_start_info_plugin_data
from tensorboard.util.tensor_util import make_ndarray


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def curve(events: Any, tag: str) -> list[tuple[int, float, float]]:
    return [(each.step, make_ndarray(each.tensor_proto).item(), each.wall_time) for each in events.Tensors(tag)]


def test_what_was_written_is_the_run(run: Run, tmp_path: Path) -> None:
    run.export(f"tensorboard={tmp_path}")
    [folder] = tmp_path.iterdir()
    assert folder.name.startswith("quickstart-seed0-")
    events = read(folder)
    points = run.evaluations
    assert len(points) >= 4
    began_s = (run.folder / "scenario.toml").stat().st_mtime
    by_steps = curve(events, "accuracy/by_client_steps")
    assert [(step, value) for step, value, _ in by_steps] == [(each.client_steps, pytest.approx(each.accuracy)) for each in points]
    assert [at_s - began_s for *_, at_s in by_steps] == pytest.approx([each.time_s for each in points], abs=1e-3), (
        "RELATIVE is modelled time"
    )
    assert [step for step, *_ in curve(events, "loss/by_modelled_ms")] == [round(1000 * each.time_s) for each in points]
    assert [step for step, *_ in curve(events, "accuracy/by_bytes")] == [sum(each.bytes.values()) for each in points]
    for name, value in final_figures(run.summary).items():
        [(_, found, _)] = curve(events, f"final/{name}")
        assert found == pytest.approx(value, rel=1e-6), name
    text = make_ndarray(events.Tensors("run/summary")[0].tensor_proto).item().decode()
    assert str(run.summary.digest) in text


def test_the_settings_are_its_parameters(run: Run, tmp_path: Path) -> None:
    run.export(f"tensorboard={tmp_path}")
    events = read(next(tmp_path.iterdir()))
    content = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent("hparams")}
    start = parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert start.hparams["aggregator.client_steps"].number_value == 100
    assert start.hparams["method"].string_value == "hosfl_async"
    assert parse_session_end_info_plugin_data(content["_hparams_/session_end_info"]).status == STATUS_SUCCESS


def test_what_is_there_is_left_alone(run: Run, tmp_path: Path) -> None:
    run.export(f"tensorboard={tmp_path}")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*tfevents*")}
    run.export(f"tensorboard={tmp_path}")
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*tfevents*")}


def test_a_followed_run_has_the_curve_of_an_exported_one(run: Run, tmp_path: Path) -> None:
    followed = simulate(run.scenario, folder=tmp_path / "run", control=False, track=f"tensorboard={tmp_path / 'followed'}")
    run.export(f"tensorboard={tmp_path / 'exported'}")
    one, other = (read(next((tmp_path / name).iterdir())) for name in ("followed", "exported"))
    assert followed.summary.digest == run.summary.digest
    assert one.Tags()["tensors"] == other.Tags()["tensors"]
    for tag in (tag for tag in one.Tags()["tensors"] if "/by_" in tag):
        assert [each[:2] for each in curve(one, tag)] == [each[:2] for each in curve(other, tag)], tag


def test_an_interrupted_run_keeps_its_points_and_is_no_success(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    scenario = load_scenario("quickstart", {"aggregator.client_steps": 100, "server.evaluate_every_steps": 5, "shared.probes": 2})
    with pytest.raises(KeyboardInterrupt):
        simulate(scenario, folder=tmp_path / "run", control=False, track=f"tensorboard={tmp_path / 'tb'}", progress=interrupt)
    events = read(next((tmp_path / "tb").iterdir()))
    written = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(curve(events, "accuracy/by_client_steps")) == len(written) > 0
    content = events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert parse_session_end_info_plugin_data(content).status == STATUS_FAILURE
    assert "run/summary" not in events.Tags()["tensors"]
