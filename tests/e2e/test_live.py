"""``hosfl live``: the same agents over a real broker, each with its own connection, ending at the same parameters."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command import SCENARIOS, hosfl, start

QUICKSTART = SCENARIOS / "quickstart.toml"
SHORT = ("--no-control", "--time-scale", "0.1", "--set", "aggregator.client_steps=200", "--set", "expect.accuracy_min=0.1")
BROKERS = ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.mark.parametrize("broker", BROKERS)
def test_twenty_clients_train_over_a_real_broker(broker: str, tmp_path: Path) -> None:
    done = hosfl("live", QUICKSTART, *SHORT, "--broker", broker, "--json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["host"] == "live"
    assert summary["digests_agree"] and summary["clients_confirmed"] == 20
    assert summary["client_steps"] == summary["counts"]["accepted"] == 200
    counts = summary["counts"]
    assert counts["received"] == sum(counts[kind] for kind in ("accepted", "duplicate", "stale", "refused", "late"))
    assert counts["dropped"] == counts["refused"] == 0
    assert {"model.safetensors", "best.safetensors"} < {path.name for path in (tmp_path / "run").iterdir()}
    replayed = hosfl("replay", tmp_path / "run")
    assert replayed.returncode == 0 and summary["digest"] in replayed.stdout
    assert "sent" in hosfl("story", tmp_path / "run", "--step", "client-7/1").stdout


CALM = {
    "aggregator.client_steps": 500,
    "aggregator.buffer_contributions": 10,
    "aggregator.learning_rate": 0.02,
    "first_order.learning_rate": 3e-3,
    "task.model.client_widths": "[32]",
    "task.partition.rule": "iid",
    "server.evaluate_every_steps": 0,
    "shared.retry.first_s": 60,
    "expect.accuracy_min": 0.85,
}
"""Both hosts run quickstart with these. A wide cut and small, averaged updates: the order of arrivals, which no two hosts share, decides
little (simulated with links whose jitter is 0 to 20 ms, it ends at 0.911 to 0.919; quickstart as it is swings by a tenth within a run).
Nothing gets lost between loopback and broker, so nothing has to be repeated: with sixty modelled seconds of patience, six on the wall,
a machine that stalls repeats nothing either."""

RARE = 100
"""Kinds of which fewer messages are sent may differ by one for each client."""


def calm(host: str, folder: Path, *options: object) -> dict[str, Any]:
    words = [word for key, value in CALM.items() for word in ("--set", f"{key}={value}")]
    done = hosfl(host, QUICKSTART, "--no-control", *words, *options, "--json", "--out", folder)
    assert done.returncode == 0, done.stderr
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    return json.loads(done.stdout) | {"first": {key: first[key] for key in ("accuracy", "loss", "version", "server_steps")}}


def test_the_simulator_and_the_live_host_agree(tmp_path: Path) -> None:
    """The same scenario in both: the same beginning, the same messages and bytes within a tenth, the same end within 0.02."""
    simulated = calm("simulate", tmp_path / "simulated")
    live = calm("live", tmp_path / "live", "--broker", "iotcore", "--time-scale", "0.1")

    assert live["first"] == simulated["first"] and live["first"]["version"] == live["first"]["server_steps"] == 0
    assert live["digests_agree"] and live["client_steps"] == simulated["client_steps"] == 500
    assert live["bytes"].keys() == simulated["bytes"].keys()
    for kind, number in simulated["bytes"].items():
        assert abs(live["bytes"][kind] - number) <= 0.1 * number, (kind, live["bytes"][kind], number)
    for kind in live["messages"].keys() | simulated["messages"].keys():  # of a rare kind one side may have none: a step that came too late
        sent, number = (run["messages"].get(kind, 0) for run in (live, simulated))
        assert abs(sent - number) <= (20 if number < RARE else 0.1 * number), (kind, sent, number)
    # A machine that cannot keep the modelled pace runs another scenario: slower devices, another order. It is held to what that costs.
    kept_pace = live["modelled_time_s"] <= 1.25 * simulated["modelled_time_s"]
    assert abs(live["accuracy_final"] - simulated["accuracy_final"]) <= (0.02 if kept_pace else 0.06)


def test_an_interrupted_live_run_ends_in_good_order(tmp_path: Path) -> None:
    words = ("--no-control", "--set", "aggregator.client_steps=100000", "--broker", "iotcore", "--out", tmp_path / "run")
    running = start("live", QUICKSTART, *words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    replayed = hosfl("replay", tmp_path / "run")
    assert replayed.returncode == 0
    steps = 5 * int(replayed.stdout.split()[1].replace(",", "")) + 100
    words = ("--resume", tmp_path / "run", "--no-control", "--time-scale", "0.1", "--broker", "iotcore")
    done = hosfl("live", *words, "--set", f"aggregator.client_steps={steps}", "--set", "expect.accuracy_min=0.1", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["client_steps"] == steps and summary["resumed_at_steps"] < steps and summary["digests_agree"]
    assert summary["digest"] in hosfl("replay", tmp_path / "run").stdout
