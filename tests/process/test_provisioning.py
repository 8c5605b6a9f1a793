"""Provisioned devices and a real mosquitto: who may speak and listen where, whom the broker refuses, and a whole run over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from deployment import Mosquitto, Zygote, until
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5

from hosfl_async.broker.address import TlsFiles
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Station
from hosfl_async.errors import SettingsError, TransportError
from hosfl_async.process import exits, load_process_settings
from hosfl_async.process.rehearsal import rehearse
from hosfl_async.process.watching import watch_of
from hosfl_async.provisioning.access import OPERATOR, SERVICES, allows
from hosfl_async.provisioning.authority import facts_of, issue
from hosfl_async.provisioning.broker_files import rehearsed_settings
from hosfl_async.provisioning.operator import Operator, Plan

SMALL = Path(__file__).with_name("small.toml")
AGENTS = (*SERVICES, "client-1", "client-2")
EVERYONE = (*AGENTS, OPERATOR)
RUN = "spring"


class SecureMosquitto(Mosquitto):
    """Mosquitto with the files that an operator's folder holds for it, and a port of ours."""

    def __init__(self, operator: Operator, folder: Path, port: int) -> None:
        super().__init__(folder, "", port)
        self._config.write_text(rehearsed_settings(operator.folder / "broker", port))


def provisioned(folder: Path) -> tuple[Operator, SecureMosquitto]:
    from hosfl_async.broker.embedded import free_port

    port = free_port()
    operator = Operator.create(folder / "operator", Plan(RUN, SMALL, f"mqtts://127.0.0.1:{port}"))
    operator.add([*operator.without_kit(), OPERATOR])
    broker = SecureMosquitto(operator, folder, port)
    broker.start()
    return operator, broker


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, SecureMosquitto]]:
    operator, broker = provisioned(tmp_path_factory.mktemp("secured"))
    yield operator, broker
    broker.kill()
    operator.close()


def kit(operator: Operator, name: str) -> Path:
    return operator.folder / "kits" / name


def tls(folder: Path) -> TlsFiles:
    return TlsFiles(str(folder / "ca.pem"), str(folder / "device.pem"), str(folder / "device.key"))


class Device:
    """A bare MQTT client with a device's certificate; it asks for everything in ``filters`` and notes what it is given."""

    def __init__(self, operator: Operator, port: int, name: str, filters: tuple[str, ...] = ()) -> None:
        self.heard: set[tuple[str, bytes]] = set()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="anything", protocol=MQTTv5, reconnect_on_failure=False)
        self.client.tls_set_context(tls(kit(operator, name)).context())
        self.client.on_message = lambda client, data, message: self.heard.add((message.topic, message.payload))
        connected, subscribed, self._ended = threading.Event(), threading.Event(), threading.Event()
        self.client.on_connect = lambda *_: connected.set()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_disconnect = lambda *_: self._ended.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert connected.wait(20)
        if filters:
            self.client.subscribe([(each, 1) for each in filters])  # type: ignore[arg-type]
            assert subscribed.wait(20)

    def say(self, topic: str, payload: bytes, qos: int) -> None:
        """At quality 1, until the broker has it."""
        said = self.client.publish(topic, payload, qos)
        if qos:
            said.wait_for_publish(20)

    def close(self) -> None:
        """After all that was said has been read."""
        self.client.disconnect()
        assert self._ended.wait(20)
        self.client.loop_stop()


BASE = f"hosfl/{RUN}"
TOPICS = [
    *(f"{BASE}/to/{to}/from/{sender}" for to, sender in product((*AGENTS, "clients"), AGENTS)),
    *(f"{BASE}/to/{service}/from/{OPERATOR}" for service in SERVICES),
    f"{BASE}/to/{OPERATOR}/from/aggregator",
    *(f"{BASE}/{what}/{name}" for what, name in product(("presence", "telemetry"), EVERYONE)),
    *(
        "hosfl/winter/to/aggregator/from/client-1",
        "hosfl/winter/telemetry/client-1",
        "other",
        f"{BASE}/to/aggregator",
        f"{BASE}/to/aggregator/from/client-1/more",
    ),
]


@pytest.mark.mosquitto
@pytest.mark.parametrize("sender", EVERYONE)
@pytest.mark.parametrize("filters", [("#",), tuple(TOPICS)], ids=["wildcard", "exact"])
def test_the_broker_enforces_every_rule(secured: tuple[Operator, SecureMosquitto], sender: str, filters: tuple[str, ...]) -> None:
    """One agent says something on every topic; the others ask to hear everything, by a wildcard or by all the exact topics.

    Each topic on a connection of its own: over TLS, mosquitto 2.0.11 ends the connection of whoever speaks where it may not.
    """
    operator, broker = secured
    listeners = {name: Device(operator, broker.port, name, filters) for name in EVERYONE if name != sender}
    try:
        for topic in TOPICS:
            speaker = Device(operator, broker.port, sender)
            speaker.say(topic, b"said", int(allows(RUN, sender, "write", topic)))
            speaker.close()
        service = next(name for name in SERVICES if name != sender)
        for name, listener in listeners.items():  # after all that the broker has passed on
            end = f"{BASE}/telemetry/{service}" if name == OPERATOR else f"{BASE}/to/{name}/from/{service}"
            listeners[service].say(end, b"end", 1)
            until(lambda listener=listener, end=end: (end, b"end") in listener.heard, f"the end at {name}")
    finally:
        for listener in listeners.values():
            listener.close()
    said = {topic for topic in TOPICS if allows(RUN, sender, "write", topic)}
    for name, listener in listeners.items():
        heard = {topic for topic, payload in listener.heard if payload == b"said"}
        assert heard == {topic for topic in said if allows(RUN, name, "read", topic)}, name


def test_devices_speak_to_services_only_and_hear_their_own() -> None:
    assert not any(allows(RUN, "client-1", "read", f"{BASE}/to/client-2/from/{sender}") for sender in AGENTS)
    assert not any(allows(RUN, "client-1", "read", f"{BASE}/presence/{name}") for name in AGENTS if name != "client-1")
    assert not any(allows(RUN, "client-1", "write", f"{BASE}/to/{to}/from/client-1") for to in ("client-2", "client-1", "clients"))
    assert not any(allows(RUN, "client-1", "write", f"{BASE}/to/{to}/from/client-2") for to in AGENTS)
    assert not any(allows(RUN, name, access, f"hosfl/winter/presence/{name}") for name in AGENTS for access in ("read", "write"))
    assert all(allows(RUN, "client-1", "write", f"{BASE}/to/{to}/from/client-1") for to in SERVICES)
    assert allows(RUN, "client-1", "read", f"{BASE}/to/clients/from/aggregator")


def test_the_operator_hears_telemetry_and_says_nothing() -> None:
    assert {topic for topic in TOPICS if allows(RUN, OPERATOR, "read", topic)} == {f"{BASE}/telemetry/{name}" for name in AGENTS}
    assert not any(allows(RUN, OPERATOR, "write", topic) for topic in TOPICS)
    for name, other in product(AGENTS, EVERYONE):
        assert not allows(RUN, name, "read", f"{BASE}/telemetry/{other}")
        assert allows(RUN, name, "write", f"{BASE}/telemetry/{other}") == (name == other)


def connect(port: int, name: str, files: TlsFiles | None) -> str:
    """Empty if the broker takes the connection, else its transport's words."""

    async def story() -> str:
        scheme = "mqtt" if files is None else "mqtts"
        settings = BrokerSettings(connect_timeout_s=2)
        try:
            async with MqttTransport(f"{scheme}://127.0.0.1:{port}", Station(run=RUN, name=name), settings, files):
                return ""
        except TransportError as problem:
            return str(problem) or "refused"

    return asyncio.run(story())


def put(folder: Path, certificate: bytes, key: bytes, ca: bytes) -> TlsFiles:
    folder.mkdir()
    for name, content in {"device.pem": certificate, "device.key": key, "ca.pem": ca}.items():
        (folder / name).write_bytes(content)
    return tls(folder)


def copied(operator: Operator, name: str, folder: Path) -> TlsFiles:
    return put(folder, *((kit(operator, name) / file).read_bytes() for file in ("device.pem", "device.key", "ca.pem")))


@pytest.mark.mosquitto
def test_the_broker_takes_whom_the_operator_knows_and_nobody_else(secured: tuple[Operator, SecureMosquitto], tmp_path: Path) -> None:
    operator, broker = secured
    own = tls(kit(operator, "client-1"))
    assert connect(broker.port, "client-1", own) == ""
    stranger = Operator.create(tmp_path / "stranger", Plan(RUN, SMALL, f"mqtts://127.0.0.1:{broker.port}"))
    stranger.add(["client-1"])
    theirs = (kit(stranger, "client-1") / "device.pem").read_bytes(), (kit(stranger, "client-1") / "device.key").read_bytes()
    ca = operator.authority.certificate
    old = issue(operator.authority, "client-1", datetime.now(UTC) - timedelta(days=9), 8)
    refused = {
        "another authority's certificate": put(tmp_path / "other", *theirs, ca),
        "a broker that another authority vouches for": put(tmp_path / "broker", *theirs, stranger.authority.certificate),
        "an expired certificate": put(tmp_path / "old", old.certificate, old.key, ca),
        "no certificate": TlsFiles(str(kit(operator, "client-1") / "ca.pem")),
        "no TLS": None,
    }
    assert [what for what, files in refused.items() if not connect(broker.port, "client-1", files)] == []


@pytest.mark.mosquitto
def test_a_revoked_device_is_out_and_a_renewed_one_in(tmp_path: Path) -> None:
    operator, broker = provisioned(tmp_path)
    try:
        before = copied(operator, "client-1", tmp_path / "before")
        assert connect(broker.port, "client-1", before) == ""
        operator.renew("client-1", revoke=True)
        broker.kill()
        broker.start()
        assert connect(broker.port, "client-1", before) != ""
        assert connect(broker.port, "client-1", tls(kit(operator, "client-1"))) == ""
        lost = copied(operator, "client-2", tmp_path / "lost")
        assert operator.revoke("client-2") == 1
        broker.kill()
        broker.start()
        assert connect(broker.port, "client-2", lost) != ""
        assert not kit(operator, "client-2").exists() and operator.without_kit() == ["client-2"]
    finally:
        broker.kill()
        operator.close()


@pytest.mark.mosquitto
def test_a_provisioned_run_trains_over_mutual_tls(forks: Zygote, tmp_path: Path) -> None:
    operator, broker = provisioned(tmp_path)
    pids: dict[str, int] = {}
    stack = ExitStack()
    try:
        for name in (*SERVICES, *(f"client-{number}" for number in range(1, 5))):
            role = {"aggregator": "aggregator", "split_server": "server"}.get(name, "client")
            words = ("agent", role, "--config", kit(operator, name) / "settings.toml")
            pids[name] = forks.start(*words, log=tmp_path / f"{name}.log")
        with pytest.raises(SettingsError, match="is an agent's own"):
            watch_of(kit(operator, "client-1") / "settings.toml")
        watch = stack.enter_context(watch_of(kit(operator, OPERATOR) / "settings.toml"))
        assert watch.names == [f"client-{number}" for number in range(1, 5)], "from the kit's scenario, before anybody has spoken"
        codes = {name: forks.code(pids[name]) for name in pids if name not in SERVICES}
        assert set(codes.values()) == {exits.FINISHED}, (tmp_path / "client-1.log").read_text()
        for name in SERVICES:
            os.kill(pids[name], signal.SIGTERM)
            assert forks.code(pids[name]) == exits.FINISHED
        until(lambda: watch.look().ended is not None, "the end to be told")
        seen = watch.look()
        assert seen.ended is not None and seen.ended.digests_agree and seen.ended.clients_confirmed == 4
        assert seen.look.states["offline"] == 4 and seen.look.digests_differ == 0 and seen.evaluations
        roll = json.loads((kit(operator, "aggregator") / "state" / "fleet.json").read_text())
        devices = {name: row for name, row in roll["devices"].items() if name not in SERVICES}
        assert sorted(devices) == [f"client-{number}" for number in range(1, 5)]
        assert roll["client_steps"] == seen.look.client_steps >= 120 and seen.look.version == roll["head"]
        assert all(row["incarnation"] == 1 and row["accepted_answers"] for row in devices.values())
    finally:
        stack.close()
        for pid in pids.values():
            if not forks.ended(pid):
                os.kill(pid, signal.SIGKILL)
        broker.kill()
        operator.close()


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    made = Operator.create(tmp_path / "operator", Plan(RUN, SMALL, "mqtts://broker.example:8883", ("10.0.0.2",)))
    yield made
    made.close()


def test_a_kit_is_the_devices_own(operator: Operator) -> None:
    [folder] = operator.add(["client-3"])
    settings = load_process_settings(folder / "settings.toml", "client")
    assert (settings.run, settings.name, settings.broker.url) == (RUN, "client-3", "mqtts://broker.example:8883")
    assert facts_of((folder / "device.pem").read_bytes()).name == "client-3"
    private = list(operator.folder.rglob("*.key"))
    assert len(private) == 5 and {file.stat().st_mode & 0o777 for file in private} == {0o600}
    text = ssl.create_default_context(cafile=str(folder / "ca.pem")).get_ca_certs()[0]
    assert f"hosfl {RUN}" in str(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kit, other: (kit / "settings.toml").write_text((kit / "settings.toml").read_text().replace("spring", "summer")), "signed"),
        (lambda kit, other: (kit / "device.pem").write_bytes((other / "device.pem").read_bytes()), "somebody else's"),
        (lambda kit, other: (kit / "settings.sig").write_bytes(b"nonsense"), "signed"),
        (lambda kit, other: (kit / "ca.pem").unlink(), "cannot be checked"),
        (lambda kit, other: (kit / "device.pem").write_bytes(b"nonsense"), "not a certificate"),
    ],
)
def test_a_changed_kit_is_refused(operator: Operator, change: Any, words: str) -> None:
    mine, other = operator.add(["client-1", "client-2"])
    change(mine, other)
    with pytest.raises(SettingsError, match=words):
        load_process_settings(mine / "settings.toml", "client")


def test_wrong_clocks_and_old_certificates_are_told(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for place, moment, words in (("late", now + timedelta(days=3), "clock is wrong"), ("old", now - timedelta(days=400), "not valid now")):
        with Operator.create(tmp_path / place, Plan(RUN, SMALL, "mqtts://b"), moment) as operator:
            [folder] = operator.add(["client-1"])
            with pytest.raises(SettingsError, match=words):
                load_process_settings(folder / "settings.toml", "client")


def test_what_cannot_be_provisioned_is_refused_and_changes_nothing(operator: Operator) -> None:
    operator.add(["client-1"])
    before = (operator.folder / "operator.json").read_bytes()
    for names, words in ((["client-2", "client-9"], "no such device"), (["client-1"], "has a kit already"), (["../x"], "no such device")):
        with pytest.raises(SettingsError, match=words):
            operator.add(names)
    with pytest.raises(SettingsError, match="no valid certificate"):
        operator.revoke("client-4")
    with pytest.raises(SettingsError, match="has no kit"):
        operator.renew("client-4")
    with pytest.raises(SettingsError, match="somebody else works"):
        Operator(operator.folder)
    with pytest.raises(SettingsError, match="holds something already"):
        Operator.create(operator.folder, Plan(RUN, SMALL, "mqtts://b"))
    with pytest.raises(SettingsError, match="provisioned for TLS"):
        Operator.create(operator.folder / "new", Plan(RUN, SMALL, "mqtt://b"))
    assert (operator.folder / "operator.json").read_bytes() == before
    assert not (operator.folder / "kits" / "client-2").exists() and not (operator.folder / "new").exists()


def test_an_operators_folder_remembers_what_it_issued(tmp_path: Path) -> None:
    with Operator.create(tmp_path / "operator", Plan(RUN, SMALL, "mqtts://b")) as operator:
        operator.add(["client-1"])
        operator.renew("client-1")
        assert operator.revoke("client-1") == 2
    with Operator(tmp_path / "operator") as again:
        told = [(each.name, each.revoked is not None) for each in again.book.issued]
    assert told == [("broker", False), ("aggregator", False), ("split_server", False), ("client-1", True), ("client-1", True)]
    (tmp_path / "operator" / "operator.json").write_text("{}")
    with pytest.raises(SettingsError, match="not an operator's folder"):
        Operator(tmp_path / "operator")


@pytest.mark.mosquitto
@pytest.mark.soak
def test_a_rehearsal_trains_and_everybody_ends_well(tmp_path: Path) -> None:
    lines: list[str] = []
    rehearsed = asyncio.run(rehearse(tmp_path / "out", SMALL, (), lines.append))
    assert rehearsed.well and rehearsed.client_steps == 120
    assert [agent.code for agent in rehearsed.agents] == [exits.FINISHED] * 6
    assert any("client steps in the log" in line for line in lines)
