"""`hosfl doctor`: what would keep an agent from working here, looked at before it is started.

Each look ends in a ``Finding``: what was found, and how to mend it. The looks go from the inside out: software, settings, disk, replay,
then the broker's port, TLS, MQTT, and at last a question to the aggregator. A look whose ground is missing is left out, not guessed.

The question changes nothing. A client asks to join with a first digest that cannot be right, so that the aggregator compares the golden
replays and refuses; the split server asks for entries of the log. Both answers prove that this name may write to the aggregator and
read what is said to it. The aggregator counts one refused join for each question of a client.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from platform import python_version
from typing import Any, Literal

from hosfl_async.broker.address import BrokerAddress, TlsFiles, parse_broker_url
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.transport import Delivery, Station
from hosfl_async.codec import Decoder, encode
from hosfl_async.errors import CodecError, HosflError, SettingsError, TransportError
from hosfl_async.messages import AGGREGATOR, CatchUp, EdgeClientInbox, Join, JoinRefused, Message
from hosfl_async.process.settings import ProcessSettings, Role, load_process_settings, scenario_for
from hosfl_async.process.state import LOCK
from hosfl_async.scenario import Scenario

State = Literal["ok", "warning", "wrong"]

CONNECT_S = 5.0
ANSWER_S = 12.0
"""Bound on the wait for the aggregator's answer; the question is repeated every ``ASK_AGAIN_S`` meanwhile, since frames may be lost."""
ASK_AGAIN_S = 3.0
FREE_BYTES_WANTED = 2**30
DAYS_LEFT_WANTED = 30
NOT_A_DIGEST = bytes(32)
"""No client half has it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One look. ``mend`` says how to put right what is not ``ok``."""

    look: str
    state: State
    found: str
    mend: str = ""


def examine(file: Path, role: Role) -> Iterator[Finding]:
    """All looks at the agent of this settings file, one by one."""
    yield _versions()
    try:
        settings = load_process_settings(file, role)
        scenario = scenario_for(settings)
    except HosflError as problem:
        yield Finding("settings", "wrong", str(problem), "nothing else can be looked at before")
        return
    yield Finding("settings", "ok", f"{settings.name} of run {settings.run}, scenario {scenario.name}")
    yield _clock(settings)
    yield from _certificate(settings)
    yield _disk(settings.state)
    proof = b""
    try:
        proof = replay_proof(role, settings, scenario)
        yield Finding("replay", "ok", "golden records replayed here give the expected digests; model and data can be built")
    except HosflError as problem:
        yield Finding("replay", "wrong", str(problem), "this machine cannot take part before it is mended")
    yield from _look_at_broker(role, settings, scenario, proof)


def replay_proof(role: Role, settings: ProcessSettings, scenario: Scenario) -> bytes:
    """Replay the golden records, build what the agent computes with, and return its proof. Raises ``SettingsError``."""
    from hosfl_async.assembly.building import Parts
    from hosfl_async.jobs import Introduce
    from hosfl_async.learning.golden import golden_vectors, replayed_digest
    from hosfl_async.learning.perturbation import Perturber

    vectors = golden_vectors()
    found = replayed_digest(vectors, Perturber()).hex()
    if found != vectors["digest"]:
        raise SettingsError("golden records", "this machine does not replay bit for bit", expected=vectors["digest"], found=found)
    parts, name = Parts(scenario, shared=False), settings.name or ""
    if role == "server":
        parts.server_learner()
        return b""
    if role == "client" and name not in dict(scenario.devices()):
        raise SettingsError("name", "no such client in the scenario's fleet", expected=f"client-1 to client-{scenario.clients}", found=name)
    learner: Any = parts.client_learner(name) if role == "client" else parts.aggregator_learner()
    return bytes(learner.run(Introduce()).golden)


def _versions() -> Finding:
    packages = ("hosfl-async", "torch", "numpy", "aiomqtt", "paho-mqtt")
    told = ", ".join(f"{name} {version_of(name)}" for name in packages)
    return Finding("versions", "ok", f"python {python_version()}, {told}")


def _clock(settings: ProcessSettings) -> Finding:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    if settings.floor_time is None:
        return Finding("clock", "warning", f"{now}, and nothing to compare it with", "kits of `hosfl provision` have a floor time")
    return Finding("clock", "ok", f"{now}, later than the kit ({settings.floor_time:%Y-%m-%d %H:%M})")


def _certificate(settings: ProcessSettings) -> Iterator[Finding]:
    table = settings.broker
    if table.certificate is None or table.key is None:
        yield Finding(
            "certificate", "warning", "none: the broker cannot know who this is", "`hosfl provision` makes kits with certificates"
        )
        return
    try:
        from hosfl_async.provisioning.authority import facts_of

        left = (facts_of(table.certificate.read_bytes()).ends - datetime.now(UTC)).days
        mode = table.key.stat().st_mode & 0o777
    except (OSError, HosflError) as problem:
        yield Finding("certificate", "wrong", str(problem), "copy the kit again")
        return
    short = left < DAYS_LEFT_WANTED
    yield Finding(
        "certificate", "warning" if short else "ok", f"{left} days left", f"`hosfl provision renew` {settings.name}" if short else ""
    )
    if mode & 0o077:
        yield Finding("private key", "warning", f"others can read it (mode {mode:o})", f"chmod 600 {table.key}")


def _disk(folder: Path) -> Finding:
    """Can the state be written where it is, or where it would be made, and is there room?"""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(b"x" * 4096)
            trial.flush()
            os.fsync(trial.fileno())
        free = shutil.disk_usage(place).free
    except OSError as problem:
        return Finding("disk", "wrong", f"{place}: {problem}", "choose a state folder that can be written (HOSFL_STATE)")
    if free < FREE_BYTES_WANTED:
        return Finding("disk", "warning", f"{free / 2**20:.0f} MiB free at {place}", "agents wait while a disk is full: make room")
    return Finding("disk", "ok", f"{free / 2**30:.1f} GiB free at {place}")


def _look_at_broker(role: Role, settings: ProcessSettings, scenario: Scenario, proof: bytes) -> Iterator[Finding]:
    address = parse_broker_url(settings.broker.url)
    reached = _reach(address, settings.tls_files())
    yield reached
    if reached.state == "wrong":
        return
    if is_held(settings.state):
        told = f"an agent works in {settings.state}: under its name a second connection would end its own"
        yield Finding("access", "warning", told, "look at its health, or stop it and ask again")
        return
    yield from asyncio.run(_ask(role, settings, scenario, proof))


def _reach(address: BrokerAddress, files: TlsFiles | None) -> Finding:
    try:
        with socket.create_connection((address.host, address.port), CONNECT_S) as plain:
            if not address.tls:
                return Finding("broker", "warning", f"{address} is there, without TLS", "give it TLS before anybody else can reach it")
            with (files or TlsFiles()).context().wrap_socket(plain, server_hostname=address.host) as secured:
                return Finding("broker", "ok", f"{address} is there and has proved itself ({secured.version()})")
    except ssl.SSLCertVerificationError as problem:
        mend = "the broker's certificate must be of the authority in broker.ca, valid now, and name the host of the URL"
        return Finding("broker", "wrong", f"{address} has not proved itself: {problem.verify_message}", mend)
    except ssl.SSLError as problem:
        return Finding("broker", "wrong", f"no TLS with {address}: {problem}", "is this the port for TLS?")
    except (OSError, SettingsError) as problem:
        return Finding(
            "broker", "wrong", f"{address} cannot be reached: {problem}", "is it running, and does a firewall let the port through?"
        )


def is_held(folder: Path) -> bool:
    """Whether a process works in this state folder."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


async def _ask(role: Role, settings: ProcessSettings, scenario: Scenario, proof: bytes) -> list[Finding]:
    """Connect under the agent's own name, and ask the aggregator something."""
    station = Station(run=settings.run, name=settings.name or "")
    once = replace(scenario.broker, first_connect_s=0.0, connect_timeout_s=CONNECT_S, outage_max_s=CONNECT_S)
    told: list[Finding] = []
    try:
        async with MqttTransport(settings.broker.url, station, once, settings.tls_files()) as transport:
            told.append(Finding("mqtt", "ok", f"the broker takes {station.name}, and frames of {transport.payload_bytes_max:,} bytes"))
            if role != "aggregator":
                told.append(await _question(transport, CatchUp(0) if role == "server" else Join(0, proof or NOT_A_DIGEST, NOT_A_DIGEST)))
    except TransportError as problem:
        if not told:
            mend = "certificate revoked, expired or of another authority, or revocation list too old: the broker's log says which"
            return [Finding("mqtt", "wrong", str(problem), mend)]
        told.append(_silence(str(problem)))
    return told


async def _question(transport: MqttTransport, question: Message) -> Finding:
    async def ask() -> None:
        while True:
            await transport.send(AGGREGATOR, encode(transport.station.name, question))
            await asyncio.sleep(ASK_AGAIN_S)

    asking = asyncio.create_task(ask())
    try:
        async with asyncio.timeout(ANSWER_S):
            async for arrival in transport.received():
                if isinstance(arrival, Delivery) and arrival.sender == AGGREGATOR and (finding := _answer(question, arrival.payload)):
                    return finding
    except TimeoutError:
        pass
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.exception()  # the transport's, which the caller hears of in its own way
    return _silence(f"no answer in {ANSWER_S:g} s")


def _answer(question: Message, payload: bytes) -> Finding | None:
    """What the aggregator's frame says, if it answers the question."""
    good = Finding("access", "ok", "the aggregator has heard this name and answered it")
    if not isinstance(question, Join):
        return good
    try:
        _, message = Decoder(EdgeClientInbox).decode(payload)
    except CodecError:
        return None
    if not isinstance(message, JoinRefused):
        return None
    if message.reason == "golden_differs" and question.golden != NOT_A_DIGEST:
        mend = "the same versions of hosfl-async and the same scenario everywhere?"
        return Finding("access", "wrong", "the aggregator answers, and replays to other digests than this machine", mend)
    return good


def _silence(problem: str) -> Finding:
    return Finding(
        "access", "wrong", f"the aggregator was asked: {problem}", "is it running, in this run, and does the access list have this name?"
    )
