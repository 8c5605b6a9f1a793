"""The kits for operators: examples that load, files that are what `hosfl provision` writes, units and containers that call what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.cli import app
from hosfl_async.process import load_process_settings
from hosfl_async.process.settings import scenario_for
from hosfl_async.provisioning.access import mosquitto_list
from hosfl_async.provisioning.broker_files import mosquitto_settings

ROOT = Path(__file__).parent.parent
ROLES = {"edge_client": "client", "split_server": "server", "aggregator": "aggregator"}


@pytest.mark.parametrize("folder", ROLES)
def test_a_kit_starts_the_agent_that_it_is_for(folder: str) -> None:
    kit = ROOT / "agents" / folder
    settings = load_process_settings(kit / "settings.toml", ROLES[folder])  # type: ignore[arg-type]
    assert scenario_for(settings).name == "devices"
    [unit] = kit.glob("*.service")
    called = re.search(r"^ExecStart=\S+ agent (\w+) --config", unit.read_text(), re.MULTILINE)
    entry = re.search(r'^ENTRYPOINT \["hosfl", "agent", "(\w+)", "--config"', (kit / "Containerfile").read_text(), re.MULTILINE)
    assert called and entry and called[1] == entry[1] == ROLES[folder]
    copied = re.findall(r"^COPY (.+) \S+$", (kit / "Containerfile").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_variables_of_the_units_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for unit in ROOT.glob("agents/*/*.service"):
        for name, value in re.findall(r"(HOSFL_\w+)=(\S+)", unit.read_text()):
            monkeypatch.setenv(name, value)
    settings = load_process_settings(ROOT / "agents/edge_client/settings.toml", "client")
    assert (str(settings.state), settings.log.format, str(settings.health.file)) == ("/var/lib/hosfl", "json", "/run/hosfl/health.json")


def test_the_brokers_files_are_what_provision_writes() -> None:
    assert (ROOT / "broker/access.list").read_text() == mosquitto_list("spring-1")
    assert (ROOT / "broker/mosquitto.conf").read_text() == mosquitto_settings("spring-1", 8883, BrokerSettings())


def test_a_rehearsal_needs_a_mosquitto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hosfl_async.process.rehearsal.find_mosquitto", lambda: None)
    ended = CliRunner().invoke(app, ["devices", "--out", str(tmp_path / "out")])
    assert "there is no mosquitto" in str(ended.exception) and not (tmp_path / "out").exists()
