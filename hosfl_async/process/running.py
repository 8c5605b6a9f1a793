"""From a settings file to a running agent and its exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import ExitStack
from functools import partial
from typing import Any

from hosfl_async.errors import HosflError
from hosfl_async.live.alone import Watcher, run_alone
from hosfl_async.live.health import as_health, keep_file, serve_port
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.process import exits
from hosfl_async.process.building import build_host
from hosfl_async.process.logs import process_log, tell
from hosfl_async.process.metrics import Staleness, metrics_page
from hosfl_async.process.settings import ProcessSettings, Role, scenario_for
from hosfl_async.process.state import FLEET, StateFolder, hold_state
from hosfl_async.process.status import status_of
from hosfl_async.trace import TraceWriter

FLEET_EVERY_S = 5.0
"""Seconds between two writings of the fleet's roll."""


def run_agent(role: Role, settings: ProcessSettings) -> int:
    """Run one agent to its end; returns the exit code. Errors are told in the log."""
    log = process_log(settings.log.format, settings.log.level)
    try:
        return _run(role, settings, log)
    except HosflError as problem:
        tell(log, logging.ERROR, "failed", agent=settings.name, kind=type(problem).__name__, problem=str(problem))
        return exits.code_of(problem)
    except Exception:
        log.exception("failed", extra={"fields": {"agent": settings.name}})
        return exits.OWN_FAULT


def _run(role: Role, settings: ProcessSettings, log: logging.Logger) -> int:
    scenario = scenario_for(settings)
    with ExitStack() as stack:
        state = stack.enter_context(hold_state(settings.state))
        trace = stack.enter_context(TraceWriter(settings.trace)) if settings.trace else None
        worker = stack.enter_context(JobWorker())
        staleness = Staleness()
        host = build_host(stack, role, settings, scenario, state, worker, trace, log, also=staleness.note)
        tell(log, logging.INFO, "starting", agent=host.agent.name, run=settings.run, boot=state.boot, broker=settings.broker.url)
        try:
            ended_by = asyncio.run(run_alone(host, linger_s=settings.linger_s, watchers=_watchers(host, settings, state, log, staleness)))
        finally:
            tell(log, logging.INFO, "ended", **_brief(status_of(host, settings.run, state.boot)))
        return _exit_code(host.agent, ended_by, log)


def _watchers(
    host: LiveHost, settings: ProcessSettings, state: StateFolder, log: logging.Logger, staleness: Staleness
) -> tuple[Watcher, ...]:
    report = partial(status_of, host, settings.run, state.boot)
    health = settings.health
    watchers: list[Watcher] = []
    if health.file is not None:
        watchers.append(partial(keep_file, health.file, report, health.every_s))
    if health.port is not None:
        opened = partial(tell, log, logging.INFO, "health", agent=host.agent.name)
        watchers.append(partial(serve_port, health.port, partial(as_health, report), lambda port: opened(port=port)))
    if settings.metrics.port is not None:
        page = metrics_page(host, settings.run, state.boot, staleness)
        told = partial(tell, log, logging.INFO, "metrics", agent=host.agent.name)
        address = settings.metrics.address
        watchers.append(partial(serve_port, settings.metrics.port, lambda: ("200 OK", *page()), lambda port: told(port=port), address))
    if host.roll is not None:
        agent: Any = host.agent
        roll = host.roll
        watchers.append(partial(keep_file, state / FLEET, lambda: roll.told(agent.log.head, agent.steps_in_log), FLEET_EVERY_S))
    return tuple(watchers)


def _brief(status: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if not isinstance(value, dict)}


def _exit_code(agent: Any, ended_by: int | None, log: logging.Logger) -> int:
    if broken := getattr(agent, "broken", ""):
        tell(log, logging.ERROR, "stopped", agent=agent.name, problem=broken)
        return exits.STOPPED_FOR_GOOD
    if agent.finished:
        return exits.FINISHED
    return exits.INTERRUPTED if ended_by == signal.SIGINT else exits.TERMINATED
