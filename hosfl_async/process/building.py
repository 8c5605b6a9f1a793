"""One agent with its learner, its durable store and its transport, put into a live host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hosfl_async.agent import Record
from hosfl_async.assembly.building import INBOXES, Parts, modelled_pace
from hosfl_async.assembly.lived import run_told
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.transport import ANYONE, Station
from hosfl_async.checkpoint_store import CheckpointStore
from hosfl_async.errors import SettingsError
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.pace import WallClock
from hosfl_async.live.roll import Roll
from hosfl_async.log_store import LogStore
from hosfl_async.messages import CLIENTS
from hosfl_async.outbox_store import OutboxStore
from hosfl_async.process.logs import record_teller
from hosfl_async.process.settings import ProcessSettings, Role
from hosfl_async.process.state import StateFolder
from hosfl_async.scenario import Scenario
from hosfl_async.trace import TraceWriter

OnRecord = Callable[[float, str, Record], None]

LOG, OUTBOX, CHECKPOINT = "log.sqlite", "outbox.sqlite", "checkpoint.safetensors"


def build_host(
    stack: ExitStack,
    role: Role,
    settings: ProcessSettings,
    scenario: Scenario,
    state: StateFolder,
    worker: JobWorker,
    trace: TraceWriter | None,
    log: logging.Logger,
    also: OnRecord,
) -> LiveHost:
    """The host of this process's agent; what must be closed again is entered into ``stack``. ``also`` hears of records beside the log."""
    name = settings.name or ""
    parts = Parts(_durable(scenario, settings), shared=False, client_only=role == "client")
    agent, learner, store = _role_parts(stack, role, name, parts, settings, state)
    if role == "client":
        station = Station(run=settings.run, name=name, groups=(CLIENTS,))
    else:
        station = Station(run=settings.run, name=name, watches=(ANYONE,))
    transport = MqttTransport(settings.broker.url, station, scenario.broker, settings.tls_files())
    return LiveHost(
        agent,
        learner,
        transport,
        INBOXES[role],
        worker,
        boot=state.boot,
        store=store,
        clock=WallClock(scenario.live.time_scale),
        pace=modelled_pace(parts) if settings.pace == "modelled" else None,
        settings=scenario.live,
        limits=scenario.codec,
        trace=trace,
        on_record=_both(record_teller(log), also),
        lingers=role != "client",
        roll=Roll() if role == "aggregator" else None,
        run_told=run_told(scenario),
    )


def _both(one: OnRecord, other: OnRecord) -> OnRecord:
    def note(now_s: float, agent: str, record: Record) -> None:
        one(now_s, agent, record)
        other(now_s, agent, record)

    return note


def _durable(scenario: Scenario, settings: ProcessSettings) -> Scenario:
    """Real devices keep what a crash would cost them."""
    client = replace(scenario.client, durable_outbox=True, catch_up="measured")
    server = replace(scenario.server, checkpoint_every_steps=settings.checkpoint_every_steps)
    return replace(scenario, client=client, server=server)


def _role_parts(
    stack: ExitStack, role: Role, name: str, parts: Parts, settings: ProcessSettings, state: StateFolder
) -> tuple[Any, Any, Any]:
    scenario = parts.scenario
    if role == "aggregator":
        meta = {"scenario": scenario.name, "seed": str(scenario.seed), "run": settings.run}
        store = stack.enter_context(LogStore(state / LOG, durable=True, meta=meta))
        return parts.aggregator(name), parts.aggregator_learner(), store
    if role == "server":
        return parts.server(name), parts.server_learner(), CheckpointStore(state / CHECKPOINT, settings.run)
    if name not in dict(scenario.devices()):
        last = scenario.clients
        raise SettingsError("name", "no such client in the scenario's fleet", expected=f"client-1 to client-{last}", found=name)
    outbox = stack.enter_context(OutboxStore(state / OUTBOX, settings.run))
    return parts.client(name), parts.client_learner(name), outbox
