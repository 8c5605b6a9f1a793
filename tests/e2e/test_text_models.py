"""The text scenario from end to end, with a small random encoder in the pretrained one's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import SCENARIOS, hosfl

MODEL = {"name": '"encoder"', "blocks": 3, "hidden": 16, "heads": 2, "cut_block": 2, "lora_rank": 2}
SMALL = [
    *(word for key, value in MODEL.items() for word in ("--set", f"task.model.{key}={value}")),
    *("--set", 'task.data="toy_tokens"', "--set", "server.evaluate_every_steps=40", "--set", "expect.accuracy_min=0"),
]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_simulated_run_agrees_and_replays(tmp_path: Path) -> None:
    done = hosfl("simulate", SCENARIOS / "minilm_snippets.toml", *SMALL, "--set", "aggregator.client_steps=80", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path / "run")
    assert summary["digests_agree"] and summary["accuracy_frozen_control"] is not None
    assert hosfl("replay", tmp_path / "run").returncode == 0
    sent = summary["bytes"]
    samples = 16 * summary["server_steps"]
    tokens = (sent["activations"] - 2 * samples) / (4 * 16)
    assert tokens == int(tokens) and 4 < tokens / samples < 12, "rows without padding, and two bytes for each sample"
    assert sent["duals"] == pytest.approx(sent["activations"], rel=0.1)


def test_a_live_run_carries_the_lengths(tmp_path: Path) -> None:
    fleet = ("--set", "fleet[0].count=2", "--set", "fleet[1].count=1", "--set", "live.time_scale=0.05")
    words = ("--set", "aggregator.client_steps=12", "--broker", "iotcore", "--no-control", "--out", tmp_path / "run")
    done = hosfl("live", SCENARIOS / "minilm_snippets.toml", *SMALL, *fleet, *words)
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path / "run")["client_steps"] >= 12
