"""The live host: one agent on the wall clock, between a transport, a learner and a store.

Theory. An agent is a pure function of its events, and the event loop runs one callback at a time. So every source of events (an arrival,
a timer, a finished job) calls ``_feed`` directly: the agent decides, and its effects are obeyed in order before the callback returns. There
is no queue of events, hence none to bound. Nothing that an effect asks for waits: a record is durable when ``store.append`` returns, a
message goes to ``Outgoing``, a job to the worker thread. Therefore ``Persist`` before ``Send`` holds by construction.

Time. Agents live in modelled seconds, ``time_scale`` wall seconds each. A job is computed at once and its result held back until the
modelled duration is over; a message waits out its modelled link delay before it leaves. With ``RealPace`` nothing is modelled.

A full disk. ``Persist`` that finds no space is tried again every ``disk_full_retry_s``, and everything after it waits, so that nothing
is said that is not durable; the agent takes nothing meanwhile. Any other failure to write ends the host.

Nothing received is fatal: what the codec refuses, or what claims another sender than the transport proves, is counted and noted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from hosfl_async.agent import (
    Agent,
    Effect,
    Event,
    JobDone,
    JobFailed,
    Learner,
    PeerGone,
    Persist,
    Received,
    Record,
    RunJob,
    Send,
    SetTimer,
    Started,
    Stopping,
    TimerFired,
)
from hosfl_async.broker.transport import Delivery, Transport
from hosfl_async.codec import DEFAULT_LIMITS, CodecLimits, Decoder, Reassembler, encode, split
from hosfl_async.errors import AgentError, CodecError, DiskFullError, LearnerError
from hosfl_async.live.gate import Gate
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.outgoing import Outgoing
from hosfl_async.live.pace import Pace, RealPace, WallClock
from hosfl_async.live.roll import Roll
from hosfl_async.live.settings import LiveSettings
from hosfl_async.live.tally import Tally
from hosfl_async.live.telling import Teller
from hosfl_async.telemetry import RunTold
from hosfl_async.trace import TraceWriter, steps_of

LAST_WORD_ATTEMPTS = 10
LAST_WORD_PAUSE_S = 0.05
_UNREAD = ("dropped", "oversize", "refused", "impostor", "rate_limited")
_UNREAD_BY_TRANSPORT = ("outbox_dropped", "unsent", "refused", "oversize")
"""Frames that were dropped or could not be read: ``tally.COUNTS``, and the transport's."""


class Store(Protocol):
    """Where an agent's records outlive it. ``append`` returns when the record is as safe as the store makes it."""

    def append(self, record: Any) -> None: ...

    def records(self) -> tuple[Any, ...]: ...


class _DiskFull:
    """Effects that wait for space on the disk, and the agent's own events that came meanwhile: timers, a job's end, peers that left."""

    __slots__ = ("late", "problem", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Effect] = deque()
        self.late: deque[Event] = deque()
        self.problem = ""
        self.timer: asyncio.TimerHandle | None = None


class LiveHost:
    """Runs one agent until it is finished or told to stop. ``run`` opens and closes the transport.

    Parameters
    ----------
    agent, learner: the pair to run; both belong to the host from now on.
    transport: not yet open.
    inbox: union of the message types that the agent takes, for example ``messages.AggregatorInbox``.
    worker: computes the jobs of all hosts of this process.
    boot: higher at every start of this agent; wall-clock nanoseconds will do.
    store: keeps what the agent persists; an agent that persists without one is an ``AgentError``.
    clock, pace: modelled time and its durations; shared by the hosts of one process.
    trace: journal, or None. on_record: called with (modelled seconds, agent, record) for every ``Record``.
    lingers: a service goes on answering when its agent has finished, until ``request_stop``, since its last word may be lost.
    validate: let the agent check its own invariants after every event (for tests).
    run_told: what the run is, for whoever watches: the aggregator's telemetry says it.
    """

    def __init__(
        self,
        agent: Agent,
        learner: Learner,
        transport: Transport,
        inbox: Any,
        worker: JobWorker,
        *,
        boot: int,
        store: Store | None = None,
        clock: WallClock | None = None,
        pace: Pace | None = None,
        settings: LiveSettings | None = None,
        limits: CodecLimits = DEFAULT_LIMITS,
        trace: TraceWriter | None = None,
        on_record: Callable[[float, str, Record], None] | None = None,
        lingers: bool = False,
        validate: bool = False,
        roll: Roll | None = None,
        run_told: RunTold | None = None,
    ) -> None:
        self.agent, self.learner, self.transport = agent, learner, transport
        self.tally = Tally()
        self.roll = roll
        self.settings = settings or LiveSettings()
        self._clock = clock or WallClock(self.settings.time_scale)
        self._pace = pace or RealPace()
        self._worker, self._boot, self._store = worker, boot, store
        self._trace, self._on_record, self._validate, self._lingers = trace, on_record, validate, lingers
        self._decoder, self._limits = Decoder(inbox, limits), limits
        self._reassembler = Reassembler(limits)
        self._gate = Gate(self.settings)
        every_s = self.settings.telemetry_every_s
        self._teller = Teller(agent, boot, every_s, self._unread, run_told) if every_s else None
        self._outgoing = Outgoing(transport, self.settings.sends_waiting_max, self.tally.counts)
        self._messages_sent = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._job: Any = None
        self._computing: asyncio.Future[Any] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._story: deque[tuple[float, Event]] = deque(maxlen=self.settings.story_events_kept)
        self._over = asyncio.Event()
        self._failure: Exception | None = None
        self._disk_full = _DiskFull()
        self._stopped = False
        self.settled = asyncio.Event()
        """Set once the transport is open and the agent started, or once it is known that this will not be."""
        self.done = asyncio.Event()
        """Set once the agent has finished, or the host has ended for another reason."""
        self._obey: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            SetTimer: self._set_timer,
            RunJob: self._run_job,
            Record: self._record,
            Persist: self._persist,
        }

    @property
    def failed(self) -> bool:
        """An error has ended, or is ending, this host."""
        return self._failure is not None

    @property
    def disk_full(self) -> str:
        """The problem, while the disk has no space for what the agent must keep; it reads and sends nothing until then."""
        return self._disk_full.problem

    @property
    def computing(self) -> bool:
        """Its learner is at work, perhaps still after the end."""
        return self._computing is not None

    @property
    def connected(self) -> bool:
        """The transport was opened and has not been closed; it may be mending a lost connection."""
        return self.settled.is_set() and not self._stopped

    @property
    def frames_waiting(self) -> int:
        """Frames on their way to the transport; at most ``live.sends_waiting_max``."""
        return len(self._outgoing)

    def request_stop(self) -> None:
        """End soon: ``Stopping`` is fed, its effects are obeyed, then ``run`` returns. Harmless when repeated."""
        self._over.set()

    async def run(self) -> None:
        """Live until the agent is finished (unless it lingers), ``request_stop``, or an error, which is raised plainly."""
        try:
            async with self.transport, asyncio.TaskGroup() as group:
                self._group = group
                self._limits = replace(self._limits, frame_bytes_max=min(self._limits.frame_bytes_max, self.transport.payload_bytes_max))
                self._start("receives", self._receive())
                self._start("sends", self._outgoing.run())
                if self._teller is not None:
                    self._start("tells", self._tell(self._teller))
                records = self._store.records() if self._store is not None else ()
                self._note("started", values={"boot": self._boot, "records": len(records)})
                self._feed(Started(self._boot, records))
                self.settled.set()
                await self._over.wait()
                await self._stop()
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        finally:
            self._end()
            self.settled.set()
            self.done.set()

    def _start(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None
        self._tasks[what] = self._group.create_task(work, name=f"{self.agent.name} {what}")

    async def _stop(self) -> None:
        """Farewell in order: the last event, then the job under way, the last messages, the connection."""
        if self._failure is None:
            self._feed(Stopping())
            self._note("stopped")
        if self._failure is not None:
            raise self._failure
        self._end()
        if self._computing is not None:
            await asyncio.wait([self._computing], timeout=self.settings.stop_s)
        await self._outgoing.flush(self.settings.stop_s)
        if self._teller is not None:
            await self._tell_the_end(self._teller)
        for task in self._tasks.values():
            task.cancel()

    def _end(self) -> None:
        """No event after this."""
        self._stopped = True
        if self._disk_full.timer is not None:
            self._disk_full.timer.cancel()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def _tell(self, teller: Teller) -> None:
        """Telemetry, at times that differ from agent to agent, so that a fleet does not speak with one voice."""
        await asyncio.sleep(teller.begins_after_s)
        while True:
            self.transport.tell(teller.record(self._clock.now_s()))
            await asyncio.sleep(teller.every_s)

    async def _tell_the_end(self, teller: Teller) -> None:
        """The last record says that this was it; worth a moment's wait for frames that are before it."""
        for _ in range(LAST_WORD_ATTEMPTS):
            if self.transport.tell(teller.record(self._clock.now_s())):
                return
            await asyncio.sleep(LAST_WORD_PAUSE_S)

    def _unread(self) -> int:
        """Frames that this host or its transport dropped, or could not read."""
        ours, theirs = self.tally.counts, self.transport.counts
        return sum(ours[what] for what in _UNREAD) + sum(theirs.get(what, 0) for what in _UNREAD_BY_TRANSPORT)

    # -- events ------------------------------------------------------------------------------------------

    def _feed(self, event: Event) -> None:
        """Let the agent decide and obey it. Every event of this agent passes here, one at a time."""
        if self._stopped or self._failure is not None:
            return
        if self._disk_full.waiting:
            self._put_off(event)
            return
        now_s = self._clock.now_s()
        self._story.append((now_s, event))
        try:
            self._obey_all(deque(self._decide(event, now_s)))
        except Exception as error:
            self._failure = error
        self._settle()

    def _obey_all(self, effects: deque[Effect]) -> None:
        while effects:
            try:
                self._obey[type(effects[0])](effects[0])
            except DiskFullError as problem:
                self._hold(effects, problem)
                return
            effects.popleft()

    def _settle(self) -> None:
        """After effects were obeyed: is it over?"""
        if self.agent.finished:
            self.done.set()
        if self._failure is not None or (self.agent.finished and not self._lingers):
            self._over.set()

    # -- a full disk -------------------------------------------------------------------------------------

    def _hold(self, effects: deque[Effect], problem: DiskFullError) -> None:
        """Nothing that comes after a record may happen before it is durable: wait for space with all of it."""
        full = self._disk_full
        if not full.problem:
            self.tally.counts["disk_full"] += 1
            self._record(Record("disk_full", {"effects_held": float(len(effects))}))
        full.problem, full.waiting = str(problem), effects
        full.timer = asyncio.get_running_loop().call_later(self.settings.disk_full_retry_s, self._try_again)

    def _put_off(self, event: Event) -> None:
        """While the disk is full, what others say is dropped as a network might (they repeat it); our own events wait."""
        if isinstance(event, Received):
            self.tally.counts["dropped_disk_full"] += 1
        else:
            self._disk_full.late.append(event)

    def _try_again(self) -> None:
        full = self._disk_full
        if self._stopped or self._failure is not None:
            return
        effects, full.waiting = full.waiting, deque()
        try:
            self._obey_all(effects)
        except Exception as error:
            self._failure = error
        if not full.waiting:
            full.problem = ""
            self._record(Record("disk_has_space", {"events_late": float(len(full.late))}))
        self._settle()
        while full.late and not full.waiting:
            self._feed(full.late.popleft())

    def _decide(self, event: Event, now_s: float) -> list[Effect]:
        try:
            effects = self.agent.handle(event, now_s)
            if self.roll is not None:
                self.roll.decided(event, effects)
            if self._validate:
                self.agent.validate()
            return effects
        except Exception as error:
            story = "\n".join(f"  {at_s:12.6f} s  {_told(past)}" for at_s, past in self._story)
            raise AgentError(f"{self.agent.name} failed at {now_s:.6f} s on {_told(event)}: {error}\n{story}") from error

    async def _receive(self) -> None:
        async for arrival in self.transport.received():
            if isinstance(arrival, Delivery):
                self._on_frame(arrival.sender, arrival.payload)
            else:
                self.tally.counts["peers_gone"] += 1
                self._note("peer_gone", peer=arrival.name)
                self._reassembler.forget(arrival.name)
                self._feed(PeerGone(arrival.name))
        self.request_stop()  # arrivals end only when the transport was closed or aborted

    def _on_frame(self, sender: str, frame: bytes) -> None:
        if not self._gate.admits(sender, time.monotonic()):
            self._turn_away(sender, "rate_limited")
            return
        try:
            payload = self._reassembler.offer(sender, frame)
            if payload is None:
                return
            named, message = self._decoder.decode(payload)
        except CodecError as error:
            self._turn_away(sender, "refused")
            self._gate.blame(sender, time.monotonic())
            self._note("refused", peer=sender, size=len(frame), values={"reason": str(error)})
            return
        if named != sender:
            self._turn_away(sender, "impostor")
            self._gate.blame(sender, time.monotonic())
            self._note("refused", type(message).__name__, peer=sender, size=len(payload), values={"reason": f"claims to be {named}"})
            return
        self.tally.counts["delivered"] += 1
        self._note("delivered", type(message).__name__, message, sender, len(payload))
        self._feed(Received(sender, message))

    def _turn_away(self, sender: str, why: str) -> None:
        self.tally.counts[why] += 1
        if self.roll is not None:
            self.roll.turned_away(sender, "unreadable" if why == "refused" else why)

    def _on_timer(self, name: str) -> None:
        del self._timers[name]
        self.tally.counts["timers_fired"] += 1
        self._note("timer", name)
        self._feed(TimerFired(name))

    # -- effects -----------------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        payload = encode(self.agent.name, effect.message)
        self._messages_sent += 1
        self.tally.sent(effect.message, len(payload))
        self._note("sent", type(effect.message).__name__, effect.message, effect.recipient, len(payload))
        delay_s = self._pace.delay_s(self.agent.name, effect.recipient, len(payload))
        self._outgoing.put(effect.recipient, split(payload, self._messages_sent, self._limits), self._clock.wall_s(delay_s))

    def _set_timer(self, effect: SetTimer) -> None:
        former = self._timers.pop(effect.name, None)
        if former is not None:
            former.cancel()
        if effect.delay_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[effect.name] = loop.call_later(self._clock.wall_s(effect.delay_s), self._on_timer, effect.name)

    def _record(self, effect: Record) -> None:
        self._note("recorded", effect.name, step=str(effect.step), values=dict(effect.values))
        if self._on_record is not None:
            self._on_record(self._clock.now_s(), self.agent.name, effect)

    def _persist(self, effect: Persist) -> None:
        if self._store is None:
            raise AgentError(f"{self.agent.name} persists {type(effect.record).__name__}, but has no store")
        self._store.append(effect.record)
        self.tally.counts["persisted"] += 1
        self._note("persisted", type(effect.record).__name__, effect.record)

    def _run_job(self, effect: RunJob) -> None:
        if self._job is not None:
            raise AgentError(f"{self.agent.name} asks for {type(effect.job).__name__} while {type(self._job).__name__} is under way")
        self._job = effect.job
        self.tally.counts["jobs_started"] += 1
        self._note("job_started", type(effect.job).__name__, effect.job)
        self._start("computes", self._compute(effect.job))

    async def _compute(self, job: Any) -> None:
        """Compute in the worker, hold the outcome back until the modelled duration is over, feed it."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._clock.wall_s(self._pace.duration_s(self.agent.name, job))
        self._computing = self._worker.start(self.learner, job)
        event: JobDone | JobFailed
        try:
            event = JobDone(job, await self._computing)
        except LearnerError as error:
            event = JobFailed(job, str(error))
        finally:
            self._computing = None
        wait_s = due_s - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._job = None
        what, values = ("job_done", None) if isinstance(event, JobDone) else ("job_failed", {"reason": event.reason})
        self.tally.counts["jobs_done" if values is None else "jobs_failed"] += 1
        self._note(what, type(job).__name__, job, values=values)
        self._feed(event)

    def _note(
        self, what: str, kind: str = "", subject: Any = None, peer: str = "", size: int = 0, *, step: str = "", values: Any = None
    ) -> None:
        traced = self._trace is not None and self._trace.enabled
        if not traced and self._teller is None:
            return
        steps = step if subject is None else steps_of(subject)
        if self._teller is not None:
            self._teller.met(what, kind, steps, self._clock.now_s(), values)
        if traced and self._trace is not None:
            self._trace.note(self._clock.now_s(), self.agent.name, what, kind, steps, peer, size, values)


def _told(event: Event) -> str:
    """An event in a few words: its kind, and what it is about."""
    about = getattr(event, "message", None) or getattr(event, "job", None)
    subject = f" {type(about).__name__} {steps_of(about)}".rstrip() if about is not None else ""
    name = getattr(event, "name", "") or getattr(event, "sender", "")
    return f"{type(event).__name__}{subject}{f' ({name})' if name else ''}"


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The error that ended it all; the others followed from it."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
