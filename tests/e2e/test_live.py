"""``hosfl live``: the same agents over a real broker, each with its own connection, ending at the same parameters."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

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
    replayed = hosfl("replay", tmp_path / "run")
    assert replayed.returncode == 0 and summary["digest"] in replayed.stdout
    assert "sent" in hosfl("story", tmp_path / "run", "--step", "client-7/1").stdout


def test_the_simulator_starts_from_the_same_parameters_and_counts_the_same_things(tmp_path: Path) -> None:
    """The very same agents: every kind of message and of byte that one host counts, the other counts too."""
    live = json.loads(hosfl("live", QUICKSTART, *SHORT, "--broker", "iotcore", "--json", "--out", tmp_path / "live").stdout)
    words = [word for word in SHORT if word not in ("--time-scale", "0.1")]
    simulated = json.loads(hosfl("simulate", QUICKSTART, *words, "--json", "--out", tmp_path / "simulated").stdout)
    assert live["bytes"].keys() == simulated["bytes"].keys()
    for kind in ("SmashedData", "DualVariable", "ProjectedGradients", "Accepted"):
        assert abs(live["messages"][kind] - simulated["messages"][kind]) <= 0.15 * simulated["messages"][kind]
    curves = [(tmp_path / host / "metrics.jsonl").read_text().splitlines()[0] for host in ("live", "simulated")]
    first = [json.loads(line) for line in curves]
    assert first[0]["accuracy"] == first[1]["accuracy"] and first[0]["version"] == first[1]["version"] == 0


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
    assert hosfl("replay", tmp_path / "run").returncode == 0
