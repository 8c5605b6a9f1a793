"""The simulation host: all agents in one thread and in virtual time.

Theory. What happens next is the entry with the smallest (time, serial number) on the timeline, so a run is a pure function of its
seed. Four rules keep the modelled world honest:

* A job is *computed at its modelled completion instant*, when its entry comes up, never when it starts: computed early, it would
  not see what happens meanwhile.
* Every message goes through the codec: encoded when sent (its size is what the link carries), decoded when delivered.
* Timers and jobs that were replaced, or lost in a crash, never count as events and never move time.
* Who waits costs nothing: no polling, no clock tick, no event for a client that is idle or away.

The host's duties are those of ``agent``; docs/hosts.md walks through them. ``Stopping`` is never fed: a world that has ended has no
later moment in which its effects could matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from hosfl_async.agent import Agent, Event, JobDone, JobFailed, Learner, Persist, Record, RunJob, Send, SetTimer, Started, TimerFired
from hosfl_async.codec import DEFAULT_LIMITS, CodecLimits, Decoder
from hosfl_async.errors import AgentError, LearnerError, SettingsError
from hosfl_async.messages import AGGREGATOR
from hosfl_async.simulation.absences import Absences
from hosfl_async.simulation.collecting import collecting_rarely
from hosfl_async.simulation.devices import Devices
from hosfl_async.simulation.faults import Fault, Strike, Weather, strikes
from hosfl_async.simulation.journal import Journal, kind_and_step
from hosfl_async.simulation.nemesis import Nemesis
from hosfl_async.simulation.network import Network
from hosfl_async.simulation.node import Node, RecordList, Store
from hosfl_async.simulation.outcome import Ending, SimulationOutcome, Tally
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, NetworkSettings, Outage, SimulationSettings
from hosfl_async.simulation.timeline import Timeline
from hosfl_async.simulation.traffic import Traffic
from hosfl_async.trace import TraceWriter, steps_of

UNFINISHED_TOLD = 8
"""Agents named in the error of a run without end."""


class Simulation:
    """A world of agents. ``add`` everyone, then ``run``; ``run`` may be called again to go on.

    Parameters
    ----------
    seed: the run is a pure function of it and of what is added.
    compute, network, outages, faults: the modelled world.
    forward_flops: counted operations of a client's forward pass, for groups whose speed is in operations per second.
    settings: bounds of the run.
    limits: bounds of the codec.
    trace: journal of everything that happens, or None.
    on_record: called with (modelled seconds, agent, record) for every ``Record`` effect.
    on_job_begun: called with (learner, job) when a job begins, for learners that compute several together.
    on_progress: called with (modelled seconds, events) every ``progress_every_events`` events.
    validate: have each agent check its own invariants after every event (slow; for tests).
    starts_s: modelled seconds at which this world begins: a run that was stopped goes on. What was planned for earlier does not happen.
    """

    def __init__(
        self,
        *,
        seed: int,
        compute: ComputeSettings | None = None,
        forward_flops: float = 0.0,
        network: NetworkSettings | None = None,
        outages: Sequence[Outage] = (),
        faults: Sequence[Fault] = (),
        settings: SimulationSettings | None = None,
        limits: CodecLimits = DEFAULT_LIMITS,
        trace: TraceWriter | None = None,
        on_record: Callable[[float, str, Record], None] | None = None,
        on_job_begun: Callable[[Learner, Any], None] | None = None,
        on_progress: Callable[[float, int], None] | None = None,
        progress_every_events: int = 10_000,
        validate: bool = False,
        starts_s: float = 0.0,
    ) -> None:
        self.seed = seed
        self.events = 0
        self.finished_at_s: float | None = None
        self._settings = settings or SimulationSettings()
        self._on_record, self._on_job_begun, self._validate = on_record, on_job_begun, validate
        self._on_progress, self._progress_every = on_progress, progress_every_events
        self._look_up_at = min(progress_every_events, self._settings.events_max)
        self._limits = limits
        self._decoders: dict[Any, Decoder] = {}
        self._nodes: dict[str, Node] = {}
        self._unfinished = 0
        self._timeline = timeline = Timeline()
        timeline.now_s = starts_s
        self._journal = Journal(self._settings.story_events_kept, trace)
        self._note = self._journal.note
        self._tally = Tally()
        self._counts = self._tally.counts
        compute = compute or ComputeSettings()
        self._devices = Devices(compute, seed, forward_flops)
        network = network or NetworkSettings()
        self._network = Network(network, seed)
        self._weather = Weather(seed, self._settings.clog_factor_max, self._counts)
        self._completes, self._fires = self._complete, self._fire
        self._traffic = Traffic(
            self._nodes,
            timeline,
            self._network,
            self._journal,
            self._tally,
            self._feed,
            self._weather,
            compute.aggregator_message_s,
            decode_all=validate,
        )
        self._outages, self._faults = tuple(each for each in outages if each.at_s >= starts_s), tuple(faults)
        self._starts_s = starts_s
        self._last_fault_s = 0.0
        self._disk_ready_s: dict[str, float] = {}
        self._absences = Absences(
            timeline,
            Nemesis(seed),
            self._journal,
            self._tally,
            start=self._start,
            unfinish=self._note_finished,
            feed=self._feed,
            peer_gone_after_s=network.peer_gone_after_s,
        )
        self._obey: dict[type, Callable[[Node, Any], None]] = {
            Send: self._traffic.send,
            SetTimer: self._set_timer,
            RunJob: self._run_job,
            Record: self._record,
            Persist: self._persist,
        }

    # -- what others may read -----------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    @property
    def finished(self) -> bool:
        return self._unfinished == 0

    def agent(self, name: str) -> Agent | None:
        """The agent of this name as it stands; None while it is crashed."""
        return self._nodes[name].agent

    def learner(self, name: str) -> Learner | None:
        """Its learner; None while it is crashed."""
        return self._nodes[name].learner

    def agent_counts(self) -> dict[str, dict[str, int]]:
        """What each agent has counted, summed over its lives."""
        return {name: node.counts() for name, node in self._nodes.items()}

    def persisted(self, name: str) -> tuple[Any, ...]:
        """What this agent has persisted so far, oldest first."""
        store = self._nodes[name].store
        return tuple(store.records()) if store is not None else ()

    def under_way(self) -> tuple[int, int]:
        """Copies of messages, and jobs, that have begun and are not over just now; counted one by one."""
        suspended = (detail for node in self._nodes.values() for _, _, detail in node.suspended or ())
        jobs = sum(node.job is not None for node in self._nodes.values()) + sum(not isinstance(detail, str) for detail in suspended)
        return self._traffic.under_way(), jobs

    def bytes_sent(self) -> dict[str, int]:
        """Bytes sent until now by kind of payload, see ``codec.bytes_by_kind``."""
        return self._tally.bytes_sent()

    def joules(self) -> float:
        """Energy that the clients have taken until now, for computing and for their radios; 0 where no profile says any."""
        return self._devices.joules() + self._network.joules()

    # -- set-up -------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        *,
        make_agent: Callable[[str], Agent],
        make_learner: Callable[[str], Learner],
        inbox: Any,
        group: FleetGroup | None = None,
        store: Store | None = None,
        boots_before: int = 0,
    ) -> None:
        """Add an agent, which starts now. With a ``group`` it is a client, without one a service. It has had ``boots_before`` lives.

        ``make_agent`` and ``make_learner`` are called with its name at the start and again after each crash. ``inbox`` is its
        union in ``messages``. What it persists goes to ``store``, or to a list that crashes spare.
        """
        if name in self._nodes:
            raise SettingsError(name, "there are two agents of this name")
        decoder = self._decoders.get(inbox)
        if decoder is None:
            decoder = self._decoders[inbox] = Decoder(inbox, self._limits)
        client = group is not None
        node = Node(
            name,
            make_agent=make_agent,
            make_learner=make_learner,
            decoder=decoder,
            device=self._devices.client(name, group) if group is not None else self._devices.service(name),
            uplink=self._network.uplink(name, group) if client else self._network.service_link(name),
            downlink=self._network.downlink(name, group) if client else None,
            group=group,
            store=store,
        )
        node.boot = boots_before
        self._nodes[name] = node
        if not client:
            self._absences.watch(node)
        self._unfinished += 1
        self._absences.join(node, self._join)

    def run(self, *, until_s: float = inf, stop_when: Callable[[], bool] | None = None) -> SimulationOutcome:
        """Run until every agent is finished, nothing is left to happen, or what the arguments say.

        Raises ``AgentError`` with the agent's story if an agent or its learner breaks, or if a bound of the settings is reached.
        """
        timeline, absences = self._timeline, self._absences
        last_s = min(until_s, self._settings.modelled_time_max_s)
        self._plan_outages()
        self._plan_faults()
        with collecting_rarely():
            while True:
                if self._unfinished == 0:
                    return self._outcome("finished")
                if stop_when is not None and stop_when():
                    return self._outcome("stopped")
                if timeline.to_come <= absences.dropouts_to_come:
                    return self._outcome("quiescent")
                entry = timeline.take(last_s)
                if entry is None:
                    if until_s > self._settings.modelled_time_max_s:
                        raise self._no_end("modelled_time_max_s")
                    return self._outcome("until")
                entry[2](entry[3], entry[4])
                if self.events >= self._look_up_at:
                    self._look_up()

    def _plan_outages(self) -> None:
        outages, self._outages = self._outages, ()
        for outage in outages:
            self._last_fault_s = max(self._last_fault_s, outage.at_s + outage.absence_s)
            self._absences.plan(self._called(outage.agent, "outages"), outage)

    def _called(self, name: str, key: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            names = ", ".join([*self._nodes][:8])
            raise SettingsError(key, f"no agent is called {name!r}", expected=f"one of {names} ...")
        return node

    def _plan_faults(self) -> None:
        faults, self._faults = self._faults, ()
        if any(fault.kind == "slow_disk" for fault in faults):
            self._obey[Send] = self._send_after_disk
        clients = tuple(name for name, node in self._nodes.items() if node.group is not None)
        for strike in strikes(faults, self.seed, clients):
            if strike.begins_s < self._starts_s and (strike.fault.kind in ("crash", "pause") or strike.ends_s <= self._starts_s):
                continue
            nodes = [self._called(name, "fault") for name in sorted(strike.members)]
            if strike.ends_s < inf:
                self._last_fault_s = max(self._last_fault_s, strike.ends_s)
            if strike.fault.kind in ("crash", "pause"):
                self._counts["strikes"] += 1
                for node in nodes:
                    outage = Outage(agent=node.name, at_s=strike.begins_s, absence_s=strike.fault.for_s, kind=strike.fault.kind)
                    self._absences.plan(node, outage)
            else:
                self._timeline.schedule(max(strike.begins_s, self.now_s), self._strike, next(iter(self._nodes.values())), strike)

    def _strike(self, node: Node, strike: Strike) -> None:
        self._counts["strikes"] += 1
        self._weather.begin(strike)
        if strike.fault.kind == "broker_crash":
            self._traffic.lose_all()
        if strike.ends_s < inf:
            self._timeline.schedule(strike.ends_s, self._clear_up, node, strike)

    def _clear_up(self, _: Node, strike: Strike) -> None:
        self._weather.end(strike)

    def _look_up(self) -> None:
        """Once in a while: bound and progress."""
        if self.events >= self._settings.events_max:
            raise self._no_end("events_max")
        if self._on_progress is not None:
            self._on_progress(self.now_s, self.events)
        self._look_up_at = min(self.events + self._progress_every, self._settings.events_max)

    def _no_end(self, bound: str) -> AgentError:
        waiting = [name for name, node in self._nodes.items() if not node.finished]
        who = ", ".join(waiting[:UNFINISHED_TOLD]) + (f" and {len(waiting) - UNFINISHED_TOLD} more" * (len(waiting) > UNFINISHED_TOLD))
        over = f"the last fault was over at {self._last_fault_s:g} s; not finished: {who}"
        return AgentError(f"seed {self.seed}: {self.events} events, {self.now_s:.6g} s and no end: simulation.{bound} is reached; {over}")

    def _outcome(self, ended: Ending) -> SimulationOutcome:
        return self._tally.outcome(
            self._network.counts,
            seed=self.seed,
            ended=ended,
            last_fault_s=self._last_fault_s,
            events=self.events,
            modelled_time_s=self.now_s,
            finished_at_s=self.finished_at_s,
        )

    # -- events -------------------------------------------------------------------------------------------

    def _join(self, node: Node, _: Any) -> None:
        """A device is there for the first time; nobody joins a run that is over."""
        if node.departed:
            return
        if self.finished_at_s is not None:
            self._note_finished(node)
            return
        node.away = False
        self._start(node, None)

    def _start(self, node: Node, _: Any) -> None:
        node.boot += 1
        node.agent, node.learner = node.make_agent(node.name), node.make_learner(node.name)
        records = node.store.records() if node.store is not None else ()
        self._journal.note((self.now_s, node.name, "started", "", None, "", 0, {"boot": node.boot, "records": len(records)}))
        self._absences.plan_dropout(node)
        self._feed(node, Started(node.boot, records))

    def _feed(self, node: Node, event: Event) -> None:
        """One event to one agent; its effects are obeyed in order."""
        agent = node.agent
        assert agent is not None
        self.events += 1
        now_s = self._timeline.now_s if self._weather.calm else self._weather.clocks.shows_s(node.name, self._timeline.now_s)
        try:
            effects = agent.handle(event, now_s)
        except Exception as error:
            raise self._story(node, f"in {event!r}", error) from error
        obey = self._obey
        try:
            for effect in effects:
                obey[type(effect)](node, effect)
            if self._validate:
                agent.validate()
        except AgentError as error:  # the agent broke its contract; what a store or a caller raises is not its fault
            raise self._story(node, f"after {event!r}", error) from error
        if agent.finished != node.finished:
            self._note_finished(node)

    def _note_finished(self, node: Node) -> None:
        """Its agent became finished, or is not any more."""
        node.finished = not node.finished
        self._unfinished += -1 if node.finished else 1
        if node.finished and node.name == AGGREGATOR and self.finished_at_s is None:
            self.finished_at_s = self.now_s

    def _story(self, node: Node, where: str, error: Exception) -> AgentError:
        """An error in an agent, with all that is needed to meet it again."""
        text = f"{node.name} at {self.now_s:.6f} s, event {self.events}, seed {self.seed}, {where[:300]}: {type(error).__name__}: {error}"
        return AgentError(f"{text}\n{self._journal.story(node.name)}")

    # -- effects, and what comes of them ------------------------------------------------------------------

    def _set_timer(self, node: Node, effect: SetTimer) -> None:
        timeline, name, delay_s = self._timeline, effect.name, effect.delay_s
        if delay_s is None:
            timeline.cancel_timer(node, name)
            return
        if not 0 <= delay_s < inf:
            raise AgentError(f"{node.name} sets timer {name!r} to {delay_s} s")
        if not self._weather.calm:
            delay_s = self._weather.clocks.really_s(node.name, delay_s)
        timeline.set_timer(timeline.now_s + delay_s, self._fires, node, name)

    def _fire(self, node: Node, name: str) -> None:
        self._counts["timers_fired"] += 1
        self._note((self._timeline.now_s, node.name, "timer", name))
        self._feed(node, TimerFired(name))

    def _run_job(self, node: Node, effect: RunJob) -> None:
        job = effect.job
        if node.job is not None:
            raise AgentError(f"{node.name} asks for {type(job).__name__} while {type(node.job[4]).__name__} is in flight")
        timeline = self._timeline
        now_s = timeline.now_s
        self._counts["jobs_started"] += 1
        self._note((now_s, node.name, "job_started", *kind_and_step(job)))
        lasts_s = node.device.duration_s(job)
        node.job = timeline.schedule(now_s + lasts_s, self._completes, node, job)
        if self._on_job_begun is not None and node.learner is not None:
            self._on_job_begun(node.learner, job)
        if node.struck_in_steps:
            self._absences.strike_step(node, job, node.device.jobs, lasts_s)

    def _complete(self, node: Node, job: Any) -> None:
        """The modelled completion instant of a job: only now is it computed."""
        assert node.learner is not None
        node.job = None
        kind, step = kind_and_step(job)
        event: JobDone | JobFailed
        try:
            event = JobDone(job, node.learner.run(job))
        except LearnerError as error:
            event = JobFailed(job, str(error))
            self._counts["jobs_failed"] += 1
            self._note((self._timeline.now_s, node.name, "job_failed", kind, step, "", 0, {"reason": event.reason}))
        except Exception as error:
            raise self._story(node, f"in its learner, {kind} {step or ''}", error) from error
        else:
            self._counts["jobs_done"] += 1
            self._note((self._timeline.now_s, node.name, "job_done", kind, step))
        self._feed(node, event)

    def _record(self, node: Node, record: Record) -> None:
        now_s = self._timeline.now_s
        note = (now_s, node.name, "recorded", record.name, record.step or None)
        self._note((*note, "", 0, record.values) if self._journal.tracing else note)  # a story does without the numbers
        if self._on_record is not None:
            self._on_record(now_s, node.name, record)

    def _send_after_disk(self, node: Node, effect: Send) -> None:
        """A slow disk holds back what is sent after a record, as if the agent waited for its commit."""
        ready_s = self._disk_ready_s.get(node.name, 0.0)
        if ready_s <= self._timeline.now_s:
            self._traffic.send(node, effect)
        else:
            self._timeline.schedule(ready_s, self._send_late, node, (node.boot, effect))

    def _send_late(self, node: Node, held: tuple[int, Send]) -> None:
        boot, effect = held
        if node.present and node.boot == boot:  # otherwise it went away before the message left
            self._traffic.send(node, effect)

    def _persist(self, node: Node, effect: Persist) -> None:
        if node.store is None:
            node.store = RecordList()
        node.store.append(effect.record)
        self._counts["persisted"] += 1
        if self._weather.disks and (persist_s := self._weather.disks.get(node.name)):
            self._disk_ready_s[node.name] = max(self._timeline.now_s, self._disk_ready_s.get(node.name, 0.0)) + persist_s
        steps = steps_of(effect.record) if self._journal.tracing else None
        self._journal.note((self._timeline.now_s, node.name, "persisted", type(effect.record).__name__, steps))
