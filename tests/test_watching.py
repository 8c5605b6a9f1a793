"""Following a run: from a growing folder to what is shown, held against what the run itself ended with."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hosfl_async import Run, SettingsError, load_scenario, simulate
from hosfl_async.assembly.folder import METRICS, SUMMARY, TRACE
from hosfl_async.assembly.watching import Ended, FolderWatch, Watched
from hosfl_async.cli import app
from hosfl_async.report.following import Following
from hosfl_async.trace import TraceRecord, TraceTail, TraceWriter, read_trace

SMALL = {"aggregator.client_steps": 120, "shared.probes": 2, "server.evaluate_every_steps": 20, "expect.accuracy_min": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(load_scenario("quickstart", SMALL), folder=tmp_path_factory.mktemp("watched") / "run", control=False)


def to_the_end(watch: FolderWatch) -> Watched:
    seen = watch.look()
    while not seen.caught_up:
        seen = watch.look()
    return seen


def test_the_last_look_agrees_with_the_summary(run: Run) -> None:
    seen, summary = to_the_end(FolderWatch(run.folder)), run.summary
    look = seen.look
    assert (look.version, look.client_steps, look.server_steps) == (summary.version, summary.client_steps, summary.server_steps)
    assert look.staleness_mean_versions == pytest.approx(summary.staleness.mean)
    assert look.staleness_max_versions == summary.staleness.max
    assert seen.evaluations == run.evaluations
    assert seen.ended == Ended(summary.digest, summary.digests_agree, summary.clients_confirmed, summary.clients)
    assert sum(client.steps for client in look.clients) == summary.client_steps
    assert {client.lag_versions for client in look.clients} == {0}, "everybody confirmed the last digest, so had the last page"
    assert sum(look.states.values()) == len(look.clients) == summary.clients


def test_a_look_at_every_moment_of_a_growing_folder(run: Run, tmp_path: Path) -> None:
    """Cut anywhere, also inside a chunk or a line: never an error, and what was seen only grows."""
    whole = (run.folder / TRACE).read_bytes()
    lines = (run.folder / METRICS).read_bytes()
    shutil.copy(run.folder / "scenario.toml", tmp_path)
    watch = FolderWatch(tmp_path)
    assert watch.look().journal is False
    steps, lags = [], Counter[int]()
    for part in range(102):
        (tmp_path / TRACE).write_bytes(whole[: len(whole) * part // 100])
        (tmp_path / METRICS).write_bytes(lines[: len(lines) * part // 100])
        seen = watch.look()
        assert seen.ended is None
        steps.append(seen.look.client_steps)
        lags.update(client.lag_versions for client in seen.look.clients)
        assert all(client.lag_versions >= 0 for client in seen.look.clients)
    assert steps == sorted(steps)
    assert len(set(steps)) > 2, "seen while it grew"
    assert max(lags) > 0
    shutil.copy(run.folder / SUMMARY, tmp_path)
    assert watch.look() == to_the_end(FolderWatch(run.folder))


def test_the_tail_reads_what_the_reader_reads(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with TraceWriter(path) as writer:
        tail = TraceTail(path)
        assert tail.more() == []
        writer.note(1.0, "client-1", "started")
        assert tail.more() == [], "not written yet"
        writer.flush()
        first = tail.more()
        writer.note(2.0, "client-1", "stopped")
        writer.flush()
        assert first + tail.more() == list(read_trace(path))
        assert tail.more() == []


def test_duals_refusals_and_losses_are_counted() -> None:
    following = Following(["client-1", "client-2"])

    def met(*lines: str) -> None:
        for line in lines:
            agent, what, kind = line.split()
            following.meet([TraceRecord(1.0, 1, agent, what, kind, f"{agent}/1")])

    met("client-1 started -", "client-2 started -", "client-1 sent SmashedData", "client-2 sent SmashedData")
    assert following.look().duals_in_flight == 2
    met("client-1 delivered DualVariable", "client-2 delivered DualRefused", "client-1 delivered Refused", "client-1 lost Accepted")
    met("aggregator lost CatchUp")
    look = following.look()
    assert (look.duals_in_flight, look.refusals, look.lost) == (0, 2, 2)
    assert [client.refused for client in look.clients] == [1, 1]


def test_the_command_shows_one_look_and_ends_with_an_ended_run(run: Run) -> None:
    for options in (["--once"], ["--every", "0.1"]):
        result = CliRunner().invoke(app, ["watch", str(run.folder), *options])
        assert result.exit_code == 0, result.output
        assert f"{run.accuracy_final:.4f}" in result.output
        assert "client-1/" in result.output


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a run folder"):
        FolderWatch(tmp_path)
