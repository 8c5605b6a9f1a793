"""Runs that were stopped go on: one log over the seam, the halves as they were, and nothing that depends on anything but the folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from hosfl_async import assembly
from hosfl_async.assembly import simulated
from hosfl_async.assembly.resuming import stopped_run
from hosfl_async.checks import log_problems
from hosfl_async.errors import HosflError, LogError, SettingsError
from hosfl_async.log_store import LogStore
from hosfl_async.messages import ClientJoined, EntryCommitted
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.recorder import Evaluation
from hosfl_async.scenario import load_scenario
from hosfl_async.simulation.host import Simulation

SMALL = {
    "task.data": "toy",
    "task.toy_samples": 200,
    "task.model": {"name": "mlp", "client_widths": [3], "server_widths": [4]},
    "fleet": [{"count": 4}],
    "aggregator.client_steps": 40,
    "aggregator.buffer_contributions": 2,
    "server.evaluate_every_steps": 10,
    "expect": {},
}


class After:
    """Stops a simulation as an interrupt does, after so many looks between events."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def run(self, simulation: Simulation) -> Any:
        return simulation.run(stop_when=self.seen)

    def seen(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def run(folder: Path, events: int | None = None, **changes: Any) -> bool:
    """A small run; whether it got to its end before that many events."""
    scenario = load_scenario("quickstart", SMALL | changes)
    return going(lambda: assembly.simulate(scenario, folder=folder, control=False, check=True), events)


def go_on(folder: Path, *overrides: str, events: int | None = None) -> bool:
    stopped = stopped_run(folder, overrides)
    return going(lambda: assembly.simulate(stopped.scenario, folder=folder, control=False, check=True, stopped=stopped), events)


def going(what: Any, events: int | None) -> bool:
    if events is None:
        assert not what().unmet
        return True
    with interrupted_after(events):
        try:
            assert not what().unmet
        except KeyboardInterrupt:
            return False
    return True


@contextmanager
def interrupted_after(events: int) -> Iterator[None]:
    @contextmanager
    def caught() -> Iterator[After]:
        yield After(events)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(simulated, "interrupts_caught", caught)
        yield


def entries(folder: Path) -> list[Any]:
    return [record.entry for record in LogStore.read(folder / "log.sqlite").records if isinstance(record, EntryCommitted)]


def curve(folder: Path) -> list[Evaluation]:
    return read_evaluations(folder / "metrics.jsonl")


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stops=st.lists(st.integers(20, 500), min_size=1, max_size=3),
    rule=st.sampled_from(["sgd", "momentum", "adamw"]),
    schedule=st.sampled_from([{}, {"first_order.warmup_steps": 20, "first_order.decay_steps": 60}]),
    method=st.sampled_from(["hosfl_async", "hosfl_sync", "sfl_first_order", "sfl_zeroth_order"]),
)
def test_a_run_stopped_anywhere_goes_on_with_one_log(
    stops: list[int], rule: str, schedule: dict[str, int], method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs") / "run"
    changes = {"method": method, "update.rule": rule, **schedule}
    if method == "hosfl_sync":
        changes["aggregator.buffer_contributions"] = 4
    over = run(folder, stops[0], **changes)
    for events in [*stops[1:], None]:
        before, model = entries(folder), load_file(folder / "checkpoint.safetensors")
        if not over:
            over = go_on(folder, events=events)
            assert entries(folder)[: len(before)] == before
            assert [name for name in model if name.startswith("state.")], "the server half is in the checkpoint"
    assert over and not log_problems(entries(folder))
    assert sum(len(entry.terms) for entry in entries(folder)) == 40
    assert assembly.replay(folder).agrees
    times = [point.time_s for point in curve(folder)]
    assert times == sorted(times)


def test_at_a_clean_point_nothing_is_lost_and_both_halves_go_on_as_they_were(tmp_path: Path) -> None:
    run(tmp_path / "run")
    ended, [*model] = curve(tmp_path / "run"), load_file(tmp_path / "run/model.safetensors").items()
    go_on(tmp_path / "run", "aggregator.client_steps=80", events=400)
    seam = curve(tmp_path / "run")[len(ended)]
    assert curve(tmp_path / "run")[: len(ended)] == ended
    assert (seam.accuracy, seam.loss, seam.version) == (ended[-1].accuracy, ended[-1].loss, ended[-1].version), "bit for bit"
    assert (seam.client_steps, seam.server_steps) == (ended[-1].client_steps, ended[-1].server_steps)
    for name, value in model:
        assert np.array_equal(load_file(tmp_path / "run/model.safetensors")[name], value), "an unfinished run leaves the old model"
    go_on(tmp_path / "run")
    assert sum(len(entry.terms) for entry in entries(tmp_path / "run")) == 80
    names = [term.step for entry in entries(tmp_path / "run") for term in entry.terms]
    assert len(set(names)) == 80 and {step.incarnation for step in names} >= {1, 2}


def test_what_a_resumed_run_does_depends_on_its_folder_alone(tmp_path: Path) -> None:
    run(tmp_path / "one", 300)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    go_on(tmp_path / "one")
    go_on(tmp_path / "two")
    for name in ("trace.msgpack", "metrics.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    for name in ("model.safetensors", "best.safetensors"):
        one, two = (load_file(tmp_path / run / name) for run in ("one", "two"))
        assert one.keys() == two.keys() and all(np.array_equal(value, two[which]) for which, value in one.items())
    assert entries(tmp_path / "one") == entries(tmp_path / "two")


def test_a_killed_run_goes_on_from_its_servers_last_checkpoint_and_forgets_what_its_log_has_lost(tmp_path: Path) -> None:
    """What a SIGKILL leaves: a shorter log, a torn line, a torn chunk; tests/e2e has a real one."""
    folder = tmp_path / "run"
    run(folder, 400, **{"server.checkpoint_every_steps": 5})
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time_s":1e9,"client_st')
    with (folder / "trace.msgpack").open("ab") as file:
        file.write(b"\xc6\x00\x00\x01\x00torn")
    head = shorten_log(folder, 2 + sum(isinstance(each, ClientJoined) for each in LogStore.read(folder / "log.sqlite").records))
    assert head < max(point.version for point in curve_lines(folder)), "this shows nothing: no evaluation was lost"
    assert go_on(folder)
    assert assembly.replay(folder).agrees and sum(len(entry.terms) for entry in entries(folder)) == 40
    times = [point.time_s for point in curve(folder)]
    assert times == sorted(times) and times[-1] < 1e9
    versions = [point.version for point in curve(folder)]
    assert versions == sorted(versions), "what was evaluated of lost versions is forgotten"


def shorten_log(folder: Path, records: int) -> int:
    """Keep so many records; returns the head that is left."""
    kept = LogStore.read(folder / "log.sqlite").records[:records]
    (folder / "log.sqlite").unlink()
    with LogStore(folder / "log.sqlite", durable=False, meta={"scenario": "quickstart", "seed": "0"}) as store:
        for record in kept:
            store.append(record)
        return store.head


def test_devices_whose_joining_was_lost_are_not_taken_for_repetitions(tmp_path: Path) -> None:
    """They get their former incarnation again, and the server's checkpoint knows steps of it."""
    folder = tmp_path / "run"
    run(folder, 400, **{"server.checkpoint_every_steps": 5})
    assert shorten_log(folder, 2) == 0
    stopped = stopped_run(folder)
    assert stopped.checkpoint.steps, "this shows nothing: the checkpoint has no journal"
    summary = assembly.simulate(stopped.scenario, folder=folder, control=False, stopped=stopped)
    counts = summary.counts
    assert (counts["smashed_refused"], counts["smashed_duplicate"], counts["abandoned"]) == (0, 0, 0)


def curve_lines(folder: Path) -> list[Evaluation]:
    return read_evaluations(folder / "metrics.jsonl")


def test_a_target_ends_a_run_and_a_higher_one_lets_it_go_on(tmp_path: Path) -> None:
    run(tmp_path / "run")
    best = max(point.accuracy for point in curve(tmp_path / "run")[:-1])
    run(tmp_path / "early", **{"shared.stop_at_accuracy": best})
    with pytest.raises(SettingsError, match="reached its target"):
        stopped_run(tmp_path / "early")
    assert sum(len(entry.terms) for entry in entries(tmp_path / "early")) < 40
    assert go_on(tmp_path / "early", "shared.stop_at_accuracy=0.0")
    assert sum(len(entry.terms) for entry in entries(tmp_path / "early")) == 40


def test_outages_of_the_past_do_not_come_again_and_those_to_come_do(tmp_path: Path) -> None:
    plan = [{"agent": "client-1", "at_s": 1.0, "absence_s": 2.0}, {"agent": "client-2", "at_s": 40.0, "absence_s": 2.0}]
    run(tmp_path / "run", outages=plan)
    stopped = stopped_run(tmp_path / "run", ["aggregator.client_steps=400"])
    assert 1.0 < stopped.time_s < 40.0
    assembly.simulate(stopped.scenario, folder=tmp_path / "run", control=False, stopped=stopped)
    story = list(assembly.story_lines(tmp_path / "run", "client-1/1"))
    assert story
    from hosfl_async.trace import read_trace

    crashes = [(record.agent, record.time_s) for record in read_trace(tmp_path / "run/trace.msgpack") if record.what == "crashed"]
    assert crashes == [("client-1", 1.0), ("client-2", 40.0)]
    serials = [record.serial for record in read_trace(tmp_path / "run/trace.msgpack")]
    assert serials == list(range(1, len(serials) + 1))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "overrides", "error", "words"),
    [
        (lambda run: None, [], SettingsError, "has all its 40 client steps"),
        (lambda run: None, ["aggregator.client_steps=30"], SettingsError, "has all its 30"),
        (lambda run: None, ["task.batch_size=3"], SettingsError, "task.batch_size: cannot change within a run.*expected 32; found 3"),
        (lambda run: None, ["seed=3"], SettingsError, "seed: cannot change"),
        (
            lambda run: (run / "checkpoint.safetensors").unlink(),
            ["aggregator.client_steps=80"],
            SettingsError,
            "no checkpoint of the split",
        ),
        (lambda run: (run / "scenario.toml").unlink(), ["aggregator.client_steps=80"], SettingsError, "not a run folder"),
        (lambda run: flip(run / "checkpoint.safetensors"), ["aggregator.client_steps=80"], LogError, "checkpoint.safetensors"),
        (lambda run: (run / "log.sqlite").write_bytes(b"no"), ["aggregator.client_steps=80"], LogError, "log.sqlite"),
    ],
)
def test_what_cannot_go_on_is_refused_and_left_alone(
    spoil: Any, overrides: list[str], error: type[HosflError], words: str, ended: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(ended, folder)
    spoil(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(error, match=words):
        go_on(folder, *overrides)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_two_cannot_go_on_with_one_run(ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path / "run")
    with LogStore(tmp_path / "run/log.sqlite"), pytest.raises(LogError, match="another writer"):
        go_on(tmp_path / "run", "aggregator.client_steps=80")
