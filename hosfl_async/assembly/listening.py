"""Follows a live run by what its agents say over the broker: read only, from any machine that may listen.

The connection lives in a thread with an event loop of its own; looks come from other threads. A broker that is gone is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

from hosfl_async.assembly.watching import Ended, Watched
from hosfl_async.broker.address import TlsFiles
from hosfl_async.broker.listening import TelemetryListener
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.errors import SettingsError, TransportError
from hosfl_async.report.following import ClientLook
from hosfl_async.report.hearing import Hearing
from hosfl_async.scenario import Scenario
from hosfl_async.telemetry import Telemetry
from hosfl_async.trace import parse_step

OPEN_S = 15.0
"""Bound on the first connection."""
RUNS_HEARD_MAX = 1000


class TelemetryWatch:
    """A context manager; ``look`` and ``story`` as ``RunWatch`` has them.

    ``name``: None takes one of its own, since a second connection under a name may end the first. ``scenario``: names the clients
    beforehand, and says what the run is. Raises ``TransportError`` if there is no broker at the beginning; afterwards it is waited for.
    """

    def __init__(
        self, url: str, run: str, *, name: str | None = None, tls: TlsFiles | None = None, scenario: Scenario | None = None
    ) -> None:
        self.run = run
        self._scenario = scenario
        self._lock = Lock()
        self._hearing = Hearing([client for client, _ in scenario.devices()] if scenario else ())
        self._listening = _Listening(
            lambda heard: TelemetryListener(url, run, name or f"watch-{secrets.token_hex(4)}", heard, BrokerSettings(), tls), self._hear
        )

    def __enter__(self) -> Self:
        self._listening.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._listening.close()

    @property
    def names(self) -> list[str]:
        with self._lock:
            return self._hearing.names

    def look(self) -> Watched:
        with self._lock:
            listener, hearing, scenario = self._listening.listener, self._hearing, self._scenario
            look = hearing.look(time.monotonic(), listener.connected_since_s)
            log = hearing.log
            told = log.run if log else None
            ended = None
            if log is not None and hearing.ended:
                ended = Ended(log.digest, log.digest is not None and not look.digests_differ, log.clients_confirmed, len(look.clients))
            return Watched(
                scenario=scenario.name if scenario else told.scenario if told else self.run,
                about=scenario.about if scenario else "",
                seed=scenario.seed if scenario else told.seed if told else None,
                look=look,
                evaluations=hearing.evaluations,
                client_steps_wanted=scenario.aggregator.client_steps if scenario else told.client_steps_wanted if told else None,
                journal=True,
                caught_up=True,
                ended=ended,
                connection=_connection(listener, self.run, bool(hearing.counts["heard"]), over=ended is not None),
            )

    def story(self, name: str) -> list[str] | None:
        """What was heard of it."""
        with self._lock:
            return self._hearing.story(name)

    def fleet(self) -> dict[str, Any]:
        """The roll of the fleet as plain data, in the shape of ``live.roll``; what telemetry does not tell is None."""
        with self._lock:
            now_s, hearing = time.monotonic(), self._hearing
            look = hearing.look(now_s, self._listening.listener.connected_since_s)
            return {
                "time_s": round(time.time(), 3),
                "head": look.version,
                "client_steps": look.client_steps,
                "window_s": None,
                "client_steps_per_minute": round(60 * look.steps_per_s, 2),
                "versions_per_minute": None,
                "frames_of_unlisted_devices": hearing.counts["unlisted"],
                "devices": {
                    client.name: _row(client, hearing.record(client.name), hearing.heard_s(client.name), now_s) for client in look.clients
                },
            }

    @property
    def hearing(self) -> Hearing:
        """What was heard, for whoever asks more of it; its records are as of the latest look."""
        return self._hearing

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by name; the broker's connection and the records together."""
        with self._lock:
            return {**self._listening.listener.counts, **self._hearing.counts}

    def _hear(self, run: str, agent: str, payload: bytes) -> None:
        with self._lock:
            self._hearing.hear(agent, payload, time.monotonic())


def _row(client: ClientLook, record: Telemetry | None, heard_s: float | None, now_s: float) -> dict[str, Any]:
    try:
        incarnation = None if record is None else parse_step(record.step).incarnation
    except SettingsError:  # it has begun none, or says something else
        incarnation = None
    return {
        "present": client.state != "offline",
        "heard_s": None if heard_s is None else round(time.time() - (now_s - heard_s), 3),
        "version": None if record is None else record.version,
        "lag": None if record is None else client.lag_versions,
        "incarnation": incarnation,
        "accepted_answers": client.steps,
        "refused": {"answers": client.refused} if client.refused else {},
    }


def runs_heard(url: str, tls: TlsFiles | None, within_s: float) -> list[str]:
    """The runs whose agents speak on this broker, heard for ``within_s`` wall seconds. Raises ``TransportError`` without a broker."""
    runs: dict[str, None] = {}

    def hear(run: str, agent: str, payload: bytes) -> None:
        if len(runs) < RUNS_HEARD_MAX:
            runs[run] = None

    listening = _Listening(lambda heard: TelemetryListener(url, None, f"watch-{secrets.token_hex(4)}", heard, BrokerSettings(), tls), hear)
    listening.open()
    try:
        time.sleep(within_s)
    finally:
        listening.close()
    return sorted(runs)


def the_run(url: str, tls: TlsFiles | None, within_s: float) -> str:
    """The one run that is heard on this broker. Raises ``SettingsError`` if there is none, or more than one."""
    runs = runs_heard(url, tls, within_s)
    if len(runs) == 1:
        return runs[0]
    mend = "agents speak every live.telemetry_every_s seconds (0: never): is one running, on this broker?" if not runs else "give --run-id"
    found = ", ".join(runs[:20]) or f"none within {within_s:g} s"
    raise SettingsError("--run-id", "which run?", expected="one run on this broker", found=found, mend=mend)


def _connection(listener: TelemetryListener, run: str, anybody: bool, *, over: bool) -> str:
    if listener.connected_since_s is None and not over:
        return f"no broker at {listener}: trying again"
    return f"heard over {listener}" if anybody else f"listening at {listener} to run {run}, nothing heard yet"


class _Listening:
    """A listener in a thread. ``open`` returns once it is connected."""

    def __init__(
        self, make: Callable[[Callable[[str, str, bytes], None]], TelemetryListener], heard: Callable[[str, str, bytes], None]
    ) -> None:
        self.listener = make(heard)
        self._settled = Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = Thread(target=lambda: asyncio.run(self._run()), name="telemetry", daemon=True)

    def open(self) -> None:
        self._thread.start()
        settled = self._settled.wait(OPEN_S)
        if self._failure is not None:
            raise self._failure
        if not settled:
            self.close()
            raise TransportError(f"no connection to {self.listener} within {OPEN_S:g} s")

    def close(self) -> None:
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(OPEN_S)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self.listener.run())
        connecting = asyncio.create_task(self.listener.opened.wait())
        try:
            await asyncio.wait([self._task, connecting], return_when=asyncio.FIRST_COMPLETED)
            if not self._task.done():
                self._settled.set()
            await self._task
        except asyncio.CancelledError:
            pass
        except Exception as problem:
            self._failure = problem
        finally:
            connecting.cancel()
            self._settled.set()
