"""A scenario in wall-clock time, over a real broker: all agents in this process, each with a connection and a learner of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from hosfl_async.assembly.building import INBOXES, Parts, modelled_pace
from hosfl_async.assembly.folder import SUMMARY, OpenFolder, open_folder, require_free
from hosfl_async.assembly.leaving import keep_best, leave_checkpoint, leave_model
from hosfl_async.assembly.personalising import personal_figures
from hosfl_async.assembly.progress import Watch, Watcher
from hosfl_async.assembly.resuming import Stopped, reopen_folder
from hosfl_async.assembly.simulated import frozen_accuracy
from hosfl_async.assembly.summing import summarise
from hosfl_async.assembly.tracked import Told, followed, require_tools
from hosfl_async.broker.address import parse_broker_url
from hosfl_async.broker.embedded import embedded_broker
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.transport import ANYONE, Station
from hosfl_async.errors import SettingsError, TransportError
from hosfl_async.live.fleet import run_fleet
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.pace import WallClock
from hosfl_async.live.tally import total
from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER
from hosfl_async.outbox_store import MemoryOutbox
from hosfl_async.report import Recorder, Summary, write_summary
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.devices import ModelledPace
from hosfl_async.telemetry import RunTold

PRIVATE = ("auto", "mosquitto", "iotcore")
"""Brokers that a run starts for itself."""

LOOK_EVERY_S = 0.5
"""Wall seconds between two looks at the progress."""

_DROPPED = ("dropped", "oversize", "refused", "impostor")
_DROPPED_BY_TRANSPORT = ("outbox_dropped", "unsent", "refused")
"""What counts as dropped in ``summary.json``: see ``live/tally.py`` and ``broker/transport.py`` for the words."""


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal, in good order: what is in its folder can be replayed."""


def run_live(
    scenario: Scenario,
    *,
    folder: Path,
    broker: str = "auto",
    control: bool = True,
    watch: Watch | None = None,
    validate: bool = False,
    on_open: Callable[[str, str], None] | None = None,
    track: Sequence[str] = (),
    told: Told | None = None,
    stopped: Stopped | None = None,
) -> Summary:
    """Run ``scenario`` over MQTT. ``broker``: ``auto``, ``mosquitto`` or ``iotcore`` start a private one; else the URL of one that runs.

    Durations of jobs and delays of links are the scenario's, times ``live.time_scale``. Losses, dropouts and outages are not imitated:
    the network is the real one. The frozen-client control is computed in virtual time. ``on_open`` hears the broker's URL and the run's
    name there, by which it can be followed. ``track`` and ``told``: as for ``simulate``. ``stopped``: go on from there, in its
    folder; ``scenario`` is then its own.

    Raises ``SettingsError``, ``TransportError``, ``AgentError``; ``KeyboardInterrupt`` after an orderly stop by a signal.
    """
    require_tools(track)
    _require_broker(broker, scenario)
    if not stopped:
        require_free(folder)
    parts = Parts(scenario, shared=False)
    parts.prepare()
    frozen = frozen_accuracy(scenario, watch) if control else None
    with ExitStack() as stack:
        opened = reopen_folder(stopped, durable=True) if stopped else open_folder(folder, scenario, durable=True)
        files = stack.enter_context(opened)
        recorder = Recorder(files.metrics)
        if stopped:
            recorder.go_on(stopped.evaluations, stopped.entries, stopped.time_s)
        followers = stack.enter_context(followed(track, scenario, "live", folder, recorder, told))
        watcher = Watcher(f"{scenario.name}, live", recorder, scenario.aggregator.client_steps, folder, watch)
        hosts, pace = asyncio.run(_run(scenario, parts, files, recorder, watcher, broker, validate, on_open, stopped))
        watcher.look()
        summary = _summary(scenario, hosts, recorder, watcher, frozen, pace.joules(), stopped)
    personal = personal_figures(scenario, parts, hosts[AGGREGATOR].learner, hosts[SPLIT_SERVER].learner)
    summary = msgspec.structs.replace(summary, personal=personal)
    leave_model(folder, scenario, parts, hosts[AGGREGATOR].learner, hosts[SPLIT_SERVER].learner)
    write_summary(summary, folder / SUMMARY)
    followers.end(summary)
    return summary


async def _run(
    scenario: Scenario,
    parts: Parts,
    files: OpenFolder,
    recorder: Recorder,
    watcher: Watcher,
    broker: str,
    validate: bool,
    on_open: Callable[[str, str], None] | None,
    stopped: Stopped | None,
) -> tuple[dict[str, LiveHost], ModelledPace]:
    async with AsyncExitStack() as stack:
        url = await _broker_url(stack, broker, scenario)
        worker = stack.enter_context(JobWorker(scenario.live.workers))
        looking = asyncio.create_task(_look(watcher, files), name="progress")
        stack.callback(looking.cancel)
        boot = time_ns()
        run = f"{scenario.name[:40]}-{boot:x}"  # a topic level of its own for every run, within the length of a name
        hosts, pace = _hosts(scenario, parts, files, recorder, worker, url, run, boot, validate, stopped.time_s if stopped else 0.0)
        if on_open is not None:
            telling = asyncio.create_task(_tell_once_open(hosts[AGGREGATOR], partial(on_open, str(parse_broker_url(url)), run)))
            stack.callback(telling.cancel)
        recorder.on_best = keep_best(files.path, scenario, parts, lambda: hosts[SPLIT_SERVER].learner, stack.enter_context(_aside()))
        recorder.meter = lambda: _with_before(stopped, total(host.tally for host in hosts.values()).bytes)
        services, clients = [hosts[AGGREGATOR], hosts[SPLIT_SERVER]], [hosts[name] for name, _ in scenario.devices()]
        over = await run_fleet(services, clients)
        if not hosts[SPLIT_SERVER].computing:
            leave_checkpoint(files, hosts[SPLIT_SERVER].agent, hosts[SPLIT_SERVER].learner)
        if not over:
            raise Interrupted
        return hosts, pace


async def _tell_once_open(host: LiveHost, tell: Callable[[], None]) -> None:
    """Nobody is sent to a broker that cannot be reached."""
    await host.settled.wait()
    if host.connected:
        tell()


def _require_broker(broker: str, scenario: Scenario) -> None:
    """Raises for one that cannot be started or reached, before the frozen-client control is computed. One that may be late is not asked."""
    if "://" not in broker:
        if broker not in PRIVATE:
            mend = f"did you mean mqtt://{broker}?" if ":" in broker or "." in broker else ""
            raise SettingsError("--broker", "no such broker", expected=f"{', '.join(PRIVATE)} or mqtt://host:port", found=broker, mend=mend)
        return
    address = parse_broker_url(broker)
    if scenario.broker.first_connect_s:
        return
    try:
        socket.create_connection((address.host, address.port), scenario.broker.connect_timeout_s).close()
    except OSError as problem:
        raise TransportError(
            f"no broker answers at {address}: {problem}; `hosfl broker` runs one, and without --broker a run has its own"
        ) from problem


async def _broker_url(stack: AsyncExitStack, broker: str, scenario: Scenario) -> str:
    if "://" in broker:
        return broker
    return await stack.enter_async_context(embedded_broker(broker, scenario.broker))  # type: ignore[arg-type]


@contextmanager
def _aside() -> Iterator[Callable[[Callable[[], None]], Any]]:
    """Has files written in order in a thread of their own, so that the event loop does not wait; leaving waits, and raises what failed."""
    with ThreadPoolExecutor(1, thread_name_prefix="best-model") as thread:
        written: list[Future[None]] = []
        yield lambda act: written.append(thread.submit(act))
    for each in written:
        each.result()


async def _look(watcher: Watcher, files: OpenFolder) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        watcher.look()
        files.trace.flush()


def _hosts(
    scenario: Scenario,
    parts: Parts,
    files: OpenFolder,
    recorder: Recorder,
    worker: JobWorker,
    url: str,
    run: str,
    boot: int,
    validate: bool,
    begins_s: float,
) -> tuple[dict[str, LiveHost], ModelledPace]:
    devices = dict(scenario.devices())
    pace = modelled_pace(parts)
    common: dict[str, Any] = {
        "boot": boot,
        "clock": WallClock(scenario.live.time_scale, begins_s),
        "pace": pace,
        "settings": scenario.live,
        "limits": scenario.codec,
        "trace": files.trace,
        "on_record": recorder.note,
        "validate": validate,
        "run_told": run_told(scenario),
    }

    def host(name: str, agent: Any, learner: Any, inbox: Any, station: Station, store: Any = None) -> LiveHost:
        transport = MqttTransport(url, station, scenario.broker)
        return LiveHost(agent, learner, transport, inbox, worker, store=store, lingers=name not in devices, **common)

    def station(name: str, **more: Any) -> Station:
        return Station(run=run, name=name, **more)

    hosts = {
        AGGREGATOR: host(
            AGGREGATOR,
            parts.aggregator(AGGREGATOR),
            parts.aggregator_learner(),
            INBOXES["aggregator"],
            station(AGGREGATOR, watches=(ANYONE,)),
            files.store,
        ),
        SPLIT_SERVER: host(
            SPLIT_SERVER,
            parts.server(SPLIT_SERVER),
            parts.server_learner(),
            INBOXES["server"],
            station(SPLIT_SERVER, watches=(ANYONE,)),
            files.checkpoints,
        ),
    }
    for name in devices:
        learner = parts.client_learner(name)
        hosts[name] = host(name, parts.client(name), learner, INBOXES["client"], station(name, groups=(CLIENTS,)), MemoryOutbox())
    return hosts, pace


def run_told(scenario: Scenario) -> RunTold:
    """What telemetry says of the run."""
    return RunTold(scenario.name[:200], scenario.seed, scenario.clients, scenario.aggregator.client_steps)


def _summary(
    scenario: Scenario,
    hosts: dict[str, LiveHost],
    recorder: Recorder,
    watcher: Watcher,
    frozen: float | None,
    joules: float,
    stopped: Stopped | None,
) -> Summary:
    summed = total(host.tally for host in hosts.values())
    agents: dict[str, Any] = {name: host.agent for name, host in hosts.items()}
    return summarise(
        scenario,
        recorder,
        host="live",
        aggregator=agents[AGGREGATOR],
        server=agents[SPLIT_SERVER],
        clients=[agents[name] for name, _ in scenario.devices()],
        agent_counts={name: agent.counts for name, agent in agents.items()},
        dropped=sum(summed.counts[what] for what in _DROPPED)
        + sum(host.transport.counts.get(what, 0) for host in hosts.values() for what in _DROPPED_BY_TRANSPORT),
        messages=summed.messages,
        bytes_by_kind=_with_before(stopped, summed.bytes),
        wall_time_s=watcher.wall_s,
        control=frozen,
        energy_joules=joules,
        resumed_at_steps=stopped.client_steps if stopped else None,
    )


def _with_before(stopped: Stopped | None, sent: Mapping[str, int]) -> Mapping[str, int]:
    return stopped.bytes_with(sent) if stopped else sent
