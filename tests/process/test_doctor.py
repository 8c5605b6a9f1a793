"""What `hosfl doctor` says of a sound deployment, and of each way in which one is not: a real mosquitto, TLS, and a real aggregator."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Zygote, until
from test_provisioning import SMALL, SecureMosquitto, kit, provisioned

from hosfl_async.cli.app import guarded
from hosfl_async.learning import golden
from hosfl_async.process import doctor
from hosfl_async.process.doctor import Finding, examine
from hosfl_async.process.state import hold_state
from hosfl_async.provisioning.operator import Operator, Plan

pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module")
def deployed(forks: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, SecureMosquitto]]:
    """A broker and an aggregator."""
    folder = tmp_path_factory.mktemp("deployed")
    operator, broker = provisioned(folder)
    home = kit(operator, "aggregator")
    pid = forks.start("agent", "aggregator", "--config", home / "settings.toml", log=folder / "aggregator.log")
    try:
        until(lambda: (home / "health.json").exists() and json.loads((home / "health.json").read_text())["connected"], "the aggregator")
        yield operator, broker
    finally:
        os.kill(pid, signal.SIGKILL)
        broker.kill()
        operator.close()


def looks(folder: Path, role: str = "client") -> dict[str, Finding]:
    return {finding.look: finding for finding in examine(folder / "settings.toml", role)}  # type: ignore[arg-type]


def test_a_sound_device_is_well_and_has_changed_nothing(deployed: tuple[Operator, SecureMosquitto]) -> None:
    operator, _ = deployed
    for name, role in (("client-1", "client"), ("split_server", "server")):
        found = looks(kit(operator, name), role)
        assert {look: finding.state for look, finding in found.items()} == dict.fromkeys(
            ("versions", "settings", "clock", "certificate", "disk", "replay", "broker", "mqtt", "access"), "ok"
        ), found
        assert not (kit(operator, name) / "state").exists()
    health = kit(operator, "aggregator") / "health.json"
    until(lambda: json.loads(health.read_text())["agent_counts"].get("join_refused"), "the refused join")
    assert not json.loads(health.read_text())["agent_counts"]["joined"]


def test_the_fleet_is_told_from_the_aggregators_machine(
    deployed: tuple[Operator, SecureMosquitto], capsys: pytest.CaptureFixture[str]
) -> None:
    operator, _ = deployed
    assert looks(kit(operator, "client-4"))["access"].state == "ok"
    home = kit(operator, "aggregator")

    def listed() -> bool:
        return "client-4" in json.loads((home / "state" / "fleet.json").read_text())["devices"]

    until(listed, "client-4 on the roll")
    row = json.loads((home / "state" / "fleet.json").read_text())["devices"]["client-4"]
    assert row["refused"] == {"initial_differs": 1} and row["incarnation"] is None and row["heard_s"] > 1.7e9
    assert guarded_code("fleet", "--config", str(home / "settings.toml")) == 0
    said = capsys.readouterr().out
    assert "client-4" in said and "initial_differs 1" in said and "version 0, 0 client steps" in said


def test_the_fleet_is_not_told_where_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Operator.create(tmp_path / "operator", Plan("spring", SMALL, "mqtts://127.0.0.1:1")) as operator:
        assert guarded_code("fleet", "--config", str(kit(operator, "aggregator") / "settings.toml")) == 2
    assert "no roll of the fleet" in capsys.readouterr().err


def test_other_digests_than_the_aggregators_are_told(deployed: tuple[Operator, SecureMosquitto], monkeypatch: pytest.MonkeyPatch) -> None:
    operator, _ = deployed
    monkeypatch.setattr(doctor, "replay_proof", lambda *_: bytes(range(32)))
    found = looks(kit(operator, "client-2"))["access"]
    assert found.state == "wrong" and "other digests" in found.found


def test_a_running_agent_is_left_alone(deployed: tuple[Operator, SecureMosquitto]) -> None:
    operator, _ = deployed
    assert looks(kit(operator, "aggregator"), "aggregator")["access"].state == "warning"
    with hold_state(kit(operator, "client-3") / "state"):
        found = looks(kit(operator, "client-3"))
    assert "mqtt" not in found and "an agent works" in found["access"].found


def test_silence_is_told_when_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWER_S", 1.0)
    operator, broker = provisioned(tmp_path)
    try:
        found = looks(kit(operator, "client-1"))
        assert found["mqtt"].state == "ok"
        assert found["access"].state == "wrong" and "no answer" in found["access"].found
        assert guarded_code("doctor", "--config", str(kit(operator, "client-1") / "settings.toml")) == 1
    finally:
        broker.kill()
        operator.close()
    found = looks(kit(operator, "client-1"))
    assert found["broker"].state == "wrong" and "cannot be reached" in found["broker"].found and "mqtt" not in found


def guarded_code(*words: str) -> int:
    from typer.main import get_command

    from hosfl_async.cli import app

    return guarded(lambda **options: get_command(app).main(list(words), **options))


def test_a_false_broker_is_told(deployed: tuple[Operator, SecureMosquitto], tmp_path: Path) -> None:
    _, broker = deployed
    url = f"mqtts://127.0.0.1:{broker.port}"
    with Operator.create(tmp_path / "stranger", Plan("spring", SMALL, url)) as stranger:
        stranger.add(["client-1"])
        found = looks(kit(stranger, "client-1"))["broker"]
    assert found.state == "wrong" and "has not proved itself" in found.found


def test_a_machine_that_replays_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = golden.golden_vectors()
    monkeypatch.setattr(golden, "golden_vectors", lambda: {**vectors, "digest": "00" * 32})
    with Operator.create(tmp_path / "operator", Plan("spring", SMALL, "mqtts://127.0.0.1:1")) as operator:
        operator.add(["client-1"])
        found = looks(kit(operator, "client-1"))
    assert found["replay"].state == "wrong" and "bit for bit" in found["replay"].found


def test_what_is_wrong_with_the_files_is_told_before_anything_else(tmp_path: Path) -> None:
    with Operator.create(tmp_path / "operator", Plan("spring", SMALL, "mqtts://127.0.0.1:1")) as operator:
        operator.add(["client-1", "client-2"], days=10)
        mine = kit(operator, "client-1")
        (mine / "device.key").chmod(0o644)
        (mine / "state").write_text("not a folder")
        found = looks(mine)
        assert found["certificate"].state == "warning" and "renew" in found["certificate"].mend
        assert found["private key"].state == "warning" and "chmod 600" in found["private key"].mend
        assert found["disk"].state == "wrong"
        (kit(operator, "client-2") / "settings.toml").write_text('run = "autumn"\n')
        assert list(looks(kit(operator, "client-2"))) == ["versions", "settings"]
