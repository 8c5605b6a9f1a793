"""``hosfl simulate`` and what can be done with its run folder."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command import SCENARIOS, hosfl, start
from safetensors import safe_open

SHORT = ("--set", "aggregator.client_steps=200", "--set", "expect.accuracy_min=0.1", "--no-control")
SUMMARY_KEYS = {
    "scenario", "seed", "host", "method", "accuracy_final", "accuracy_best", "accuracy_frozen_control", "client_steps", "version",
    "modelled_time_s", "wall_time_s", "bytes", "messages", "staleness", "counts", "digest", "digests_agree", "peak_rss_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "short"
    done = hosfl("simulate", SCENARIOS / "quickstart.toml", *SHORT, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_folder_holds_both_halves_as_they_were_evaluated_last(run: Path) -> None:
    from hosfl_async.learning.build import LearnerFactory
    from hosfl_async.scenario import load_scenario

    scenario, summary = load_scenario(run / "scenario.toml"), json.loads((run / "summary.json").read_text())
    with safe_open(run / "model.safetensors", "numpy") as file:
        about, values = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about["digest"] == summary["digest"] and about["version"] == str(summary["version"])
    made = LearnerFactory(scenario.task, scenario.zeroth_order, scenario.first_order, seed=0, clients=["client-1"])
    for which, half in (("client", made.model.client), ("server", made.model.server)):
        half.bind(half.views(np.concatenate([values.pop(f"{which}.{name}").reshape(-1) for name in half.names])))
    assert not values
    with torch.inference_mode():
        cut = made.model.client.module(torch.from_numpy(made.data.test_images))
        right = made.model.server.module(cut).argmax(dim=1).numpy() == made.data.test_labels
    assert right.mean() == pytest.approx(summary["accuracy_final"])


def test_the_run_folder_is_complete(run: Path) -> None:
    assert {path.name for path in run.iterdir()} - {"log.sqlite.lock"} == {
        "scenario.toml",
        "summary.json",
        "metrics.jsonl",
        "trace.msgpack",
        "log.sqlite",
        "model.safetensors",
        "best.safetensors",
        "checkpoint.safetensors",
    }
    summary = json.loads((run / "summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["bytes"].keys() == {"activations", "labels", "duals", "scalars", "log", "control"}
    assert summary["staleness"].keys() == {"mean", "p50", "p99", "max"}
    assert summary["counts"].keys() >= {"accepted", "duplicate", "stale", "refused", "dropped", "retried"}
    counts = summary["counts"]
    assert counts["received"] == sum(counts[kind] for kind in ("accepted", "duplicate", "stale", "refused", "late"))
    assert summary["client_steps"] == counts["accepted"] == 200
    assert summary["digests_agree"] and summary["clients_confirmed"] == 20
    curve = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert curve[0]["client_steps"] == 0 and curve[-1]["client_steps"] == 200
    assert curve[-1]["accuracy"] == summary["accuracy_final"]
    for kind, number in summary["bytes"].items():
        grown = [point["bytes"].get(kind, 0) for point in curve]
        assert grown == sorted(grown) and grown[-1] <= number
    assert sum(curve[-1]["bytes"].values()) > 0.9 * sum(summary["bytes"].values())


def test_its_log_replays_to_the_same_digest(run: Path) -> None:
    done = hosfl("replay", run)
    digest = json.loads((run / "summary.json").read_text())["digest"]
    assert done.returncode == 0 and digest in done.stdout and "equal" in done.stdout


def test_its_resolved_scenario_gives_the_same_run_again(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert hosfl("simulate", run / "scenario.toml", "--no-control", "--out", again).returncode == 0
    assert (again / "trace.msgpack").read_bytes() == (run / "trace.msgpack").read_bytes()
    assert (again / "scenario.toml").read_bytes() == (run / "scenario.toml").read_bytes()


def test_the_story_of_a_step_is_told_in_order(run: Path) -> None:
    lines = hosfl("story", run, "--step", "client-3/2").stdout.splitlines()
    words = [" ".join(line.split()[3:5]) for line in lines]
    expected = ["job_started Forward", "sent SmashedData", "job_started Backward", "sent DualVariable", "job_done Project"]
    expected += ["sent ProjectedGradients", "persisted EntryCommitted", "delivered Accepted"]
    positions = [words.index(word) for word in expected]
    assert positions == sorted(positions)
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)


def test_a_step_that_never_was_is_an_error(run: Path) -> None:
    done = hosfl("story", run, "--step", "client-3/9999")
    assert done.returncode == 2 and "client-3/9999" in done.stderr


@pytest.mark.parametrize("scenario", ["quickstart", "lossy", "dropouts"])
def test_the_same_seed_gives_the_same_bytes_in_any_process(scenario: str, tmp_path: Path) -> None:
    traces, digests = [], []
    for hash_seed, seed in (("1", "5"), ("2", "5"), ("1", "6")):
        out = tmp_path / f"{hash_seed}-{seed}"
        words = ("simulate", SCENARIOS / f"{scenario}.toml", *SHORT, "--seed", seed, "--out", out)
        hosfl(*words, PYTHONHASHSEED=hash_seed)
        traces.append((out / "trace.msgpack").read_bytes())
        digests.append(json.loads((out / "summary.json").read_text())["digest"])
    assert traces[0] == traces[1] and digests[0] == digests[1]
    assert traces[0] != traces[2] and digests[0] != digests[2]


@pytest.mark.parametrize("entries", [0, 3, 60])
def test_a_run_killed_at_any_moment_can_be_replayed(entries: int, tmp_path: Path) -> None:
    """SIGKILL, as early as the folder exists, and later in the run."""
    out = tmp_path / "killed"
    words = ("--set", "aggregator.client_steps=100000", "--set", "server.checkpoint_every_steps=20")
    running = start("simulate", SCENARIOS / "quickstart.toml", "--no-control", "--out", out, *words)
    log = out / "log.sqlite-wal"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > entries * 1000) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not (out / "summary.json").exists()
    done = hosfl("replay", out)
    assert done.returncode == 0, done.stderr
    assert "did not end" in done.stdout
    found = int(done.stdout.split()[1].replace(",", ""))
    assert entries < 60 or found > 10
    if entries == 60:
        goes_on(out, 5 * found + 100)


def goes_on(out: Path, steps: int) -> None:
    """The run in this folder is resumed and ends with so many steps."""
    done = hosfl("simulate", "--resume", out, "--no-control", "--set", f"aggregator.client_steps={steps}", *SHORT[2:4])
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["client_steps"] == steps and summary["resumed_at_steps"] < steps
    assert summary["digest"] in hosfl("replay", out).stdout


def test_an_interrupted_run_says_so_and_can_be_replayed(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    running = start("simulate", SCENARIOS / "quickstart.toml", "--no-control", "--out", out, "--set", "aggregator.client_steps=100000")
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    replayed = hosfl("replay", out)
    assert replayed.returncode == 0
    goes_on(out, 5 * int(replayed.stdout.split()[1].replace(",", "")) + 100)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "neither"),
        (("quickstart", "--resume", "x"), "both"),
        (("--resume", "x", "--seed", "1"), "--seed"),
        (("--resume", "x"), "not a run"),
    ],
)
def test_what_to_run_must_be_clear(words: tuple[str, ...], said: str) -> None:
    done = hosfl("simulate", *words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) <= 2
