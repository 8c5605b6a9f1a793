"""A whole deployment on one machine: a real mosquitto with mutual TLS, and every agent as a process of its own, started from its own kit.

What an operator does by hand on many machines (docs/operations.md) happens here in one folder, which stays afterwards: the operator's
folder, every agent's state and log. It shows that a scenario, this installation and mosquitto get on; speeds are this machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosfl_async.broker.embedded import RunningBroker, find_mosquitto, free_port, launch
from hosfl_async.errors import SettingsError
from hosfl_async.process.exits import FINISHED
from hosfl_async.provisioning.access import SERVICES
from hosfl_async.provisioning.broker_files import rehearsed_settings
from hosfl_async.provisioning.operator import BROKER, KITS, SETTINGS, Operator, Plan

RUN = "rehearsal"
PROCESSES_MAX = 64
"""Each takes some 250 MB and a second of processor time before it does anything."""

LOOK_EVERY_S = 1.0
FAREWELL_S = 30.0
_ROLES = {"aggregator": "aggregator", "split_server": "server"}
_COMMAND = (sys.executable, "-c", "from hosfl_async.cli import main; main()", "agent")


@dataclass(frozen=True, slots=True)
class AgentOutcome:
    """How one process ended, and what its last health file said."""

    name: str
    code: int
    health: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came out: accuracy at the last evaluation, and every agent's end."""

    accuracy: float | None
    client_steps: int
    agents: tuple[AgentOutcome, ...]

    @property
    def well(self) -> bool:
        """Everybody ended because the run was over, with equal parameters."""
        differ = sum(agent.health.get("agent_counts", {}).get("digests_differ", 0) for agent in self.agents)
        return all(agent.code == FINISHED for agent in self.agents) and not differ


async def rehearse(folder: Path, scenario: Path, overrides: tuple[str, ...], told: Callable[[str], None]) -> Rehearsed:
    """Provision ``scenario`` in ``folder``, run it to its end, and say how everybody ended. ``told`` is given a line now and then.

    Raises ``SettingsError`` without a mosquitto, for a fleet that is too large, and for whatever `hosfl provision` refuses.
    """
    if find_mosquitto() is None:
        raise SettingsError("devices", "there is no mosquitto", expected="one on PATH", mend="apt-get install mosquitto")
    port = free_port()
    with Operator.create(folder / "operator", Plan(RUN, scenario, f"mqtts://127.0.0.1:{port}", (), overrides)) as operator:
        names = operator.without_kit()
        if len(names) > PROCESSES_MAX:
            raise SettingsError("fleet", "too many processes for one machine", expected=f"at most {PROCESSES_MAX}", found=str(len(names)))
        operator.add(names)
    told(f"kits for {len(names) + len(SERVICES)} agents, signed by an authority of their own: {folder / 'operator'}")
    broker = await _start_broker(folder, port)
    told(f"mosquitto listens on 127.0.0.1:{port}: TLS, certificates required, access list enforced")
    processes: dict[str, Process] = {}
    try:
        for name in (*SERVICES, *names):
            processes[name] = await _start(folder, name)
        told(f"{len(processes)} processes started")
        await _until_clients_end(folder, processes, told)
        return await _end(folder, processes)
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await broker.stop()


async def _start_broker(folder: Path, port: int) -> RunningBroker:
    place = folder / "mosquitto"
    place.mkdir()
    (place / "mosquitto.conf").write_text(rehearsed_settings(folder / "operator" / BROKER, port), encoding="utf-8")
    return await launch("mosquitto", [str(find_mosquitto()), "-c", str(place / "mosquitto.conf")], port, place)


async def _start(folder: Path, name: str) -> Process:
    settings = folder / "operator" / KITS / name / SETTINGS
    own = {"HOSFL_LOG__FORMAT": "json", "HOSFL_LINGER_S": "600", "HOSFL_HEALTH__EVERY_S": "0.5", "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *_COMMAND, _ROLES.get(name, "client"), "--config", str(settings), stdout=log, stderr=log, env=os.environ | own
        )


async def _until_clients_end(folder: Path, processes: dict[str, Process], told: Callable[[str], None]) -> None:
    clients = [asyncio.create_task(process.wait()) for name, process in processes.items() if name not in SERVICES]
    services = [asyncio.create_task(processes[name].wait()) for name in SERVICES]
    last = ""
    while not all(task.done() for task in clients):
        await asyncio.wait([*clients, *services], timeout=LOOK_EVERY_S)
        steps = _health(folder, "aggregator").get("client_steps", 0)
        line = f"{steps:,} client steps in the log, accuracy {_evaluation(folder).get('accuracy', float('nan')):.3f}"
        if line != last:
            told(line)
            last = line
        if failed := [name for name in SERVICES if processes[name].returncode is not None]:
            raise SettingsError(failed[0], "ended too early", expected="its log to say why", found=str(folder / f"{failed[0]}.log"))
    for task in services:
        task.cancel()


async def _end(folder: Path, processes: dict[str, Process]) -> Rehearsed:
    """The services have answered everybody; they are asked to end in good order."""
    for name in SERVICES:
        with contextlib.suppress(ProcessLookupError):
            processes[name].send_signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await asyncio.gather(*(processes[name].wait() for name in SERVICES))
    agents = tuple(
        AgentOutcome(name, -1 if process.returncode is None else process.returncode, _health(folder, name))
        for name, process in processes.items()
    )
    steps = int(_health(folder, "aggregator").get("client_steps", 0))
    return Rehearsed(_evaluation(folder).get("accuracy"), steps, agents)


def _health(folder: Path, name: str) -> dict[str, Any]:
    try:
        health: dict[str, Any] = json.loads((folder / "operator" / KITS / name / "health.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return health


def _evaluation(folder: Path) -> dict[str, Any]:
    """The latest one in the split server's log."""
    with contextlib.suppress(OSError):
        for line in reversed((folder / "split_server.log").read_text(errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                told: dict[str, Any] = json.loads(line)
                if told.get("event") == "evaluation":
                    return told
    return {}
