"""Calibration: a run of the simulator gives back the world it ran in, within its own standard errors, and predicts itself."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hosfl_async import load_scenario, run_live
from hosfl_async.assembly import simulate
from hosfl_async.assembly.folder import TRACE
from hosfl_async.calibration import calibrate, compared, course_of
from hosfl_async.calibration.clocks import offsets_s, together
from hosfl_async.calibration.observing import WAYS_KEPT_MAX, Observations, Ways, observe
from hosfl_async.cli import app
from hosfl_async.errors import SettingsError
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.scenario import Scenario, scenario_of_tables
from hosfl_async.trace import TraceRecord, TraceWriter, read_trace

SURE = 5.0
"""Standard errors within which a figure must be; once in a million, were they normal."""


def toy(**tables: Any) -> Scenario:
    return scenario_of_tables(
        {
            "name": "world",
            "task": {"data": "toy", "toy_samples": 60, "batch_size": 4,
                     "model": {"name": "mlp", "client_widths": [16], "server_widths": []}},
            "shared": {"probes": 5},
            "server": {"evaluate_every_steps": 0},
            "aggregator": {"client_steps": 400, "buffer_contributions": 4, "learning_rate": 0.05},
            "fleet": [{"count": 6}],
            **tables,
        },
        "world",
    )  # fmt: skip


def run_of(scenario: Scenario, folder: Path) -> Path:
    simulate(scenario, folder=folder, control=False)
    return folder / TRACE


FORWARD_S = 0.2
WORLD = {
    "compute": {"forward_s": FORWARD_S, "project_s": 0.03, "replay_term_s": 0.004, "backward_s": 0.05},
    "network": {"latency_s": 0.08, "latency_sigma": 0.3, "uplink_bytes_per_s": 6_000.0, "downlink_bytes_per_s": 20_000.0, "loss": 0.04,
                "duplication": 0.02, "service_latency_s": 0.007},
    "fleet": [
        {"count": 3, "jitter_sigma": 0.2},
        {"count": 2, "speed_factor": 3.0, "jitter_sigma": 0.4},
        {"count": 3, "jitter_sigma": 0.2, "speed_factor": 0.5, "dropout": {"mean_time_between_s": 20.0, "mean_absence_s": 5.0}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, Path]:
    scenario = toy(**WORLD)
    return scenario, run_of(scenario, tmp_path_factory.mktemp("world") / "run")


def test_a_simulated_run_gives_back_the_world_it_ran_in(world: tuple[Scenario, Path]) -> None:
    scenario, journal = world
    made, calibration = calibrate(scenario, observe(read_trace(journal)))
    for (name, truth), (_, found) in zip(scenario.devices(), made.devices(), strict=True):
        [group] = [each for each in calibration.groups if int(each.first[7:]) <= int(name[7:]) <= int(each.last[7:])]
        forward_s = made.compute.forward_s * found.speed_factor
        assert abs(forward_s - FORWARD_S * truth.speed_factor) <= SURE * group.error < 0.25 * forward_s, name
        assert abs(found.jitter_sigma - truth.jitter_sigma) <= 0.05, name
    figures = {figure.key: figure for figure in calibration.figures}
    for key, truth in {
        "compute.project_s": 0.03, "compute.replay_term_s": 0.004, "compute.backward_s": 0.05, "network.latency_s": 0.08,
        "network.latency_sigma": 0.3, "network.uplink_bytes_per_s": 6_000.0, "network.downlink_bytes_per_s": 20_000.0,
        "network.loss": 0.04, "network.duplication": 0.02, "network.service_latency_s": 0.007,
    }.items():  # fmt: skip
        figure = figures[key]
        assert abs(figure.value - truth) <= max(SURE * figure.error, 0.02 * truth), (figure, truth)
        assert figure.error <= 0.25 * truth, (figure, truth)
    *stable, coming = made.fleet
    assert not any(group.dropout.mean_time_between_s for group in stable)
    assert coming.count == 3 and coming.dropout.kind == "pause"
    for key, truth in (("mean_time_between_s", 20.0), ("mean_absence_s", 5.0)):
        figure = figures[f"client-6 to client-8: dropout.{key}"]
        assert figure.samples >= 15 and abs(figure.value - truth) <= SURE * figure.error, figure


def test_the_calibrated_scenario_predicts_the_run(world: tuple[Scenario, Path], tmp_path: Path) -> None:
    scenario, journal = world
    made, _ = calibrate(scenario, observe(read_trace(journal)))
    rows = {row.figure: row for row in compared(course_of(read_trace(journal)), course_of(read_trace(run_of(made, tmp_path / "run"))))}
    for figure, within in {
        "modelled time, s": 0.15,
        "staleness, mean versions": 0.15,
        "bytes, all": 0.1,
        "bytes, SmashedData": 0.1,
    }.items():
        ratio = rows[figure].ratio
        assert ratio is not None and abs(ratio - 1) <= within, rows[figure]


@settings(max_examples=12, deadline=None)
@given(
    factors=st.lists(st.sampled_from([0.25, 1.0, 1.0, 4.0]), min_size=2, max_size=5),
    forward_s=st.sampled_from([0.01, 0.5]),
    latency_s=st.sampled_from([0.0, 0.02, 0.5]),
    uplink=st.sampled_from([0.0, 3_000.0, 50_000.0]),
    jitter=st.sampled_from([0.0, 0.2]),
)
def test_whatever_the_speeds_and_links_they_are_given_back(
    tmp_path_factory: pytest.TempPathFactory, factors: list[float], forward_s: float, latency_s: float, uplink: float, jitter: float
) -> None:
    scenario = toy(
        aggregator={"client_steps": 60, "buffer_contributions": 2, "learning_rate": 0.05},
        fleet=[{"count": 1, "speed_factor": factor, "jitter_sigma": jitter} for factor in factors],
        compute={"forward_s": forward_s},
        network={"latency_s": latency_s, "uplink_bytes_per_s": uplink},
    )
    made, calibration = calibrate(scenario, observe(read_trace(run_of(scenario, tmp_path_factory.mktemp("any") / "run"))))
    slow = {unknown.why for unknown in calibration.unknown if unknown.key == "fleet"}  # a client that finished nothing has the middle speed
    for factor, (_, found) in zip(factors, made.devices(), strict=True):
        if not slow:
            assert abs(log(made.compute.forward_s * found.speed_factor / (forward_s * factor))) <= (0.5 if jitter else 1e-4)
    assert made.network.latency_s == pytest.approx(latency_s, abs=1e-6, rel=1e-3)
    assert made.network.uplink_bytes_per_s == pytest.approx(uplink, rel=0.01)
    assert made.network.loss == made.network.duplication == 0


def apart(journal: Path, folder: Path, ahead_s: dict[str, float]) -> list[Path]:
    """The journal as its agents would have written it, each on its own clock."""
    folder.mkdir(exist_ok=True)
    writers: dict[str, TraceWriter] = {}
    for one in read_trace(journal):
        if one.agent not in writers:
            writers[one.agent] = TraceWriter(folder / f"{one.agent}.msgpack")
        at_s = one.time_s + ahead_s[one.agent]
        writers[one.agent].note(at_s, one.agent, one.what, one.kind, one.step, one.peer, one.bytes, one.values)
    for writer in writers.values():
        writer.close()
    return sorted(folder.glob("*.msgpack"))


def agents_of(scenario: Scenario) -> list[str]:
    return [AGGREGATOR, SPLIT_SERVER, *[name for name, _ in scenario.devices()]]


def test_journals_of_processes_are_put_on_one_clock(world: tuple[Scenario, Path], tmp_path: Path) -> None:
    """Each agent's clock began at another time; what is found is what one clock would have told, within a message's own asymmetry."""
    scenario, journal = world
    ahead_s = {name: 1000.0 * number for number, name in enumerate(agents_of(scenario))}
    journals = apart(journal, tmp_path, ahead_s)
    assert len(journals) == len(ahead_s)
    for file, offset in offsets_s(journals).items():
        assert offset + ahead_s[file.stem] - ahead_s[AGGREGATOR] == pytest.approx(0, abs=0.02), file
    one = calibrate(scenario, observe(read_trace(journal)))[1]
    many = calibrate(scenario, observe(together(journals)))[1]
    assert [(group.first, group.last) for group in many.groups] == [(group.first, group.last) for group in one.groups]
    found = {figure.key: figure.value for figure in many.figures}
    for figure in one.figures:
        assert found[figure.key] == pytest.approx(figure.value, rel=0.25, abs=0.02), figure
    assert course_of(together(journals)).bytes == course_of(read_trace(journal)).bytes


def test_journals_that_cannot_be_put_on_one_clock_are_named(world: tuple[Scenario, Path], tmp_path: Path) -> None:
    scenario, journal = world
    journals = apart(journal, tmp_path, dict.fromkeys(agents_of(scenario), 0.0))
    with pytest.raises(SettingsError, match="none is the aggregator's"):
        offsets_s([file for file in journals if file.stem != AGGREGATOR])
    with TraceWriter(tmp_path / "stranger.msgpack") as writer:
        writer.note(1.0, "client-99", "started")
    with pytest.raises(SettingsError, match=r"stranger\.msgpack"):
        offsets_s([*journals, tmp_path / "stranger.msgpack"])


def record(time_s: float, agent: str, what: str, kind: str = "", step: str = "", peer: str = "", size: int = 0) -> TraceRecord:
    return TraceRecord(time_s, 1, agent, what, kind, step, peer, size)


def seen(*records: TraceRecord) -> Observations:
    start = [record(0.0, name, "started") for name in (AGGREGATOR, SPLIT_SERVER, "client-1")]
    return observe([*start, *records])


def test_a_message_whose_name_is_under_way_twice_is_no_sample_and_one_that_never_came_is_lost() -> None:
    up = {"kind": "SmashedData", "step": "client-1/1"}
    found = seen(
        record(0.25, "client-1", "sent", "Join", "", AGGREGATOR, 10),
        record(0.35, AGGREGATOR, "delivered", "Join", "", "client-1", 10),
        record(1.0, "client-1", "sent", **up, peer=SPLIT_SERVER, size=10),
        record(1.5, "client-1", "sent", **up, peer=SPLIT_SERVER, size=10),
        record(1.6, SPLIT_SERVER, "delivered", **up, peer="client-1", size=10),
        record(9.0, "client-1", "sent", "SmashedData", "client-1/2", SPLIT_SERVER, 10),
        record(9.25, SPLIT_SERVER, "delivered", "SmashedData", "client-1/2", "client-1", 10),
        record(90.0, "client-1", "stopped"),
    )
    assert [lasted for _, lasted, _ in found.ways["up", "SmashedData"].samples] == [0.25]
    assert (found.sent["up"], found.lost["up"], found.doubled["up"]) == (4, 1, 0)


def test_what_was_sent_into_a_busy_link_is_no_sample() -> None:
    found = seen(
        record(1.0, "client-1", "sent", "SmashedData", "client-1/1", SPLIT_SERVER, 10),
        record(1.1, "client-1", "sent", "ProjectedGradients", "client-1/0", AGGREGATOR, 10),
        record(2.0, SPLIT_SERVER, "delivered", "SmashedData", "client-1/1", "client-1", 10),
        record(2.1, AGGREGATOR, "delivered", "ProjectedGradients", "client-1/0", "client-1", 10),
        record(3.0, "client-1", "sent", "ProjectedGradients", "client-1/1", AGGREGATOR, 10),
        record(3.5, AGGREGATOR, "delivered", "ProjectedGradients", "client-1/1", "client-1", 10),
    )
    assert {kind: [lasted for _, lasted, _ in ways.samples] for (_, kind), ways in found.ways.items()} == {
        "SmashedData": [1.0], "ProjectedGradients": [0.5],
    }  # fmt: skip


def test_what_is_said_to_all_is_neither_lost_nor_doubled() -> None:
    found = seen(
        record(1.0, AGGREGATOR, "sent", "HeadAnnounced", "", "clients", 10),
        record(1.1, "client-1", "delivered", "HeadAnnounced", "", AGGREGATOR, 10),
        record(99.0, "client-1", "stopped"),
    )
    assert not found.lost and not +found.doubled


def test_a_job_during_an_absence_says_nothing_and_the_absence_is_told() -> None:
    found = seen(
        record(1.0, "client-1", "job_started", "Forward", "client-1/1"),
        record(1.5, "client-1", "paused"),
        record(8.0, "client-1", "resumed"),
        record(8.5, "client-1", "job_done", "Forward", "client-1/1"),
        record(9.0, "client-1", "job_started", "Forward", "client-1/2"),
        record(9.25, "client-1", "job_done", "Forward", "client-1/2"),
    )
    assert found.jobs["client-1"]["Forward"].number == 1 and found.jobs["client-1"]["Forward"].total_s == 0.25
    presence = found.presence["client-1"]
    assert presence.absences == [(1.5, 6.5, "pause")] and presence.there_s == pytest.approx(9.25 - 6.5)


def test_samples_are_bounded_and_spread_over_the_run() -> None:
    ways = Ways()
    for number in range(10 * WAYS_KEPT_MAX):
        ways.add(number, 1.0, "client-1")
    numbers = [number for number, _, _ in ways.samples]
    assert len(numbers) <= WAYS_KEPT_MAX and numbers == sorted(numbers) and numbers[-1] > 9 * WAYS_KEPT_MAX
    assert numbers[0] < WAYS_KEPT_MAX


def test_links_that_differ_are_told_and_not_hidden() -> None:
    records = []
    for number in range(40):
        for client, way_s in (("client-1", 0.01), ("client-2", 0.2)):
            at_s, step = float(number), f"{client}/{number}"
            records.append(record(at_s, client, "sent", "SmashedData", step, SPLIT_SERVER, 10))
            records.append(record(at_s + way_s, SPLIT_SERVER, "delivered", "SmashedData", step, client, 10))
            records.append(record(at_s + 0.3, client, "job_started", "Forward", step))
            records.append(record(at_s + 0.5, client, "job_done", "Forward", step))
    found = seen(*sorted(records, key=lambda each: each.time_s))
    _, calibration = calibrate(toy(fleet=[{"count": 2}], aggregator={"buffer_contributions": 2}), found)
    assert any("client-2" in unknown.why for unknown in calibration.unknown)
    keys = {unknown.key for unknown in calibration.unknown}
    assert {"compute.project_s", "compute.backward_s", "network.downlink_bytes_per_s", "network.service_latency_s"} <= keys


def test_a_short_live_run_goes_round(tmp_path: Path) -> None:
    """Over a real broker: its journal becomes a scenario that loads and predicts it. How fast this machine is now is in the figures."""
    changes = {
        "aggregator.client_steps": 150,
        "shared.probes": 5,
        "live.time_scale": 0.1,
        "network.latency_s": 0.1,
        "expect.accuracy_min": 0.0,
    }
    scenario = load_scenario("quickstart", changes)
    run_live(scenario, folder=tmp_path / "run", broker="iotcore", control=False)
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    figures = {figure["key"]: figure["value"] for figure in told["figures"]}
    assert figures["compute.forward_s"] >= 0.09 and figures["network.latency_s"] >= 0.1, "at least what is modelled"
    assert told["groups"][0]["first"] == "client-1" and told["groups"][-1]["last"] == "client-20"
    assert told["groups"][-1]["forward_s"] > 4 * told["groups"][0]["forward_s"]
    ratios = {row["figure"]: row["ratio"] for row in told["prediction"]}
    assert ratios["client steps"] == 1
    assert abs(log(ratios["modelled time, s"])) <= log(1.5) and abs(log(ratios["bytes, all"])) <= log(1.25)
    again = load_scenario(told["scenario"])
    assert again.compute.forward_s == pytest.approx(figures["compute.forward_s"], rel=1e-5)
    assert again.aggregator == scenario.aggregator and again.task == scenario.task and again.clients == 20


def test_the_command_says_what_it_cannot(tmp_path: Path, world: tuple[Scenario, Path]) -> None:
    scenario, journal = world
    shown = CliRunner().invoke(app, ["calibrate", str(journal.parent), "--no-predict", "--out", str(tmp_path / "made.toml")])
    assert shown.exit_code == 0 and "network.latency_s" in shown.output and "not told by the journal" in shown.output
    assert load_scenario(tmp_path / "made.toml").name == "world-calibrated"
    for words, match in (
        (["calibrate", str(tmp_path)], "not a run folder"),
        (["calibrate", str(journal.parent), "--no-predict", "--out", str(tmp_path / "no" / "where.toml")], "cannot be written"),
    ):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, SettingsError) and match in str(result.exception)
    with pytest.raises(SettingsError, match="no client has finished"):
        calibrate(scenario, seen())
