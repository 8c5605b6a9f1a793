"""Rule-based campaigns under loss, duplication, reordering, crash and restart: the whole system, and each agent against its own model.

How long they search follows the hypothesis profile (tests/conftest.py): ``make test`` takes seconds, ``make soak`` thirty times as long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule
from solo import Solo, contribution, smashed
from test_aggregator import GOLDEN, INITIAL
from test_edge_client import FINAL, Client, end_of
from toy import RETRY, SMALL_AGGREGATOR, SMALL_CLIENT, SMALL_SERVER, ToyLearner, World, numbers

from hosfl_async.agent import JobFailed, PeerGone, Persist, Send, TimerFired
from hosfl_async.agents import Aggregator, AggregatorSettings, SplitServer, StalenessSettings
from hosfl_async.agents.edge_client import TRANSITIONS, Phase
from hosfl_async.jobs import (
    Backward,
    BackwardDone,
    BackwardsDone,
    BackwardTogether,
    Evaluate,
    Evaluated,
    EvaluateDual,
    Forward,
    Probe,
    Project,
    Replay,
    Replayed,
)
from hosfl_async.messages import (
    AGGREGATOR,
    SPLIT_SERVER,
    Accepted,
    CatchUp,
    Checkpoint,
    DualRefused,
    DualRequest,
    DualVariable,
    EntryCommitted,
    HeadAnnounced,
    Join,
    LogPage,
    ProjectedGradients,
    Refused,
    SmashedData,
    Snapshot,
    StepId,
    Welcome,
)

EFFORT = settings(max_examples=2 * settings().max_examples, stateful_step_count=40)
numbers_of_choice = st.lists(st.integers(0, 2**16), min_size=1, max_size=25)


def _small_aggregator(*, steps: int, k: int, **changes: Any) -> AggregatorSettings:
    return replace(SMALL_AGGREGATOR, client_steps=steps, buffer_contributions=k, place_deadline_s=20.0, parked_max=2, **changes)


# -- the whole system ---------------------------------------------------------------------------------


class WholeSystem(RuleBasedStateMachine):
    """Clients, split server and aggregator in the toy world. The world watches at every instant; at the end all must finish."""

    world: World

    @initialize(
        clients=st.integers(2, 4),
        steps=st.integers(3, 12),
        k=st.integers(1, 3),
        policy=st.sampled_from(["eager", "fresh"]),
        unanswered=st.integers(1, 3),
        probes=st.sampled_from([2, 2, 0]),
        divide_by=st.sampled_from(["buffer_contributions", "weights"]),
        staleness=st.sampled_from([StalenessSettings(rule="polynomial"), StalenessSettings(rule="cutoff", versions_max=1)]),
        limits=st.sampled_from([{}, {}, {"concurrency": 1}, {"concurrency": 2}, {"cohort": 2}, {"cohort": 1, "cohort_extra": 1}]),
        selection=st.sampled_from(["random", "balanced", "fastest_first"]),
        directions=st.sampled_from(["per_step", "per_version"]),
        outbox=st.booleans(),
        checkpoints=st.sampled_from([0, 1, 2]),
        stop_at=st.sampled_from([0.0, 0.0, 0.25, 0.5]),
        device_share_max=st.sampled_from([1.0, 0.5, 0.1]),
    )
    def begin(
        self,
        clients: int,
        policy: Any,
        unanswered: int,
        staleness: Any,
        limits: Any,
        outbox: bool,
        checkpoints: int,
        stop_at: float,
        **changes: Any,
    ) -> None:
        aggregator = _small_aggregator(staleness=staleness, stop_at_accuracy=stop_at, **limits, **changes)
        probes = aggregator.probes
        client = replace(SMALL_CLIENT, dual_policy=policy, steps_unanswered_max=unanswered, probes=probes, asks_before_step=bool(limits))
        client = replace(client, durable_outbox=outbox)
        server = replace(SMALL_SERVER, staleness=staleness, checkpoint_every_steps=checkpoints, stop_at_accuracy=stop_at)
        self.world = World(clients, aggregator=aggregator, client=client, server=server)
        self.world.start_all()

    @rule(choices=numbers_of_choice)
    def things_happen_in_any_order(self, choices: list[int]) -> None:
        for choice in choices:
            self.world.happen(choice)

    @precondition(lambda self: self.world.in_flight)
    @rule(index=st.integers(0, 2**16), fate=st.sampled_from(["lost", "twice"]))
    def a_message_is(self, index: int, fate: str) -> None:
        index %= len(self.world.in_flight)
        if fate == "lost":
            self.world.drop(index)
        else:
            self.world.deliver(index, keep=True)

    @precondition(lambda self: self.world.in_flight)
    @rule()
    def all_messages_are_lost(self) -> None:
        self.world.in_flight.clear()

    @precondition(lambda self: self.world.timers)
    @rule(index=st.integers(0, 2**16))
    def a_timer_fires_before_others(self, index: int) -> None:
        timers = self.world.timers
        _, name, timer = timers[index % len(timers)]
        self.world.fire(name, timer)

    @rule(index=st.integers(0, 5), effects=st.integers(0, 6))
    def one_will_crash_amid_its_next_effects(self, index: int, effects: int) -> None:
        nodes = list(self.world.nodes.values())
        node = nodes[index % len(nodes)]
        if node.up:
            node.crash_before_effect = effects

    @rule(index=st.integers(0, 5), told=st.booleans())
    def one_crashes(self, index: int, told: bool) -> None:
        name = list(self.world.nodes)[index % len(self.world.nodes)]
        if self.world.nodes[name].up:
            self.world.crash(name)
            if told and self.world.nodes[AGGREGATOR].up:
                self.world.report_gone(name)

    @rule(told=st.booleans(), index=st.integers(0, 3))
    def a_client_is_reported_gone_that_is_not(self, told: bool, index: int) -> None:
        if told and self.world.nodes[AGGREGATOR].up:
            self.world.report_gone(self.world.clients[index % len(self.world.clients)])

    @precondition(lambda self: any(not node.up for node in self.world.nodes.values()))
    @rule()
    def all_that_are_down_start_again(self) -> None:
        self.world.start_all()

    @precondition(lambda self: "Project" in {type(node.job).__name__ for node in self.world.nodes.values()})
    @rule()
    def a_projection_fails(self) -> None:
        name = next(name for name, node in self.world.nodes.items() if isinstance(node.job, Project))
        self.world.fail_job(name)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.calm()
            self.world.check_end()
            self.world.check_deterministic()


TestWholeSystem = WholeSystem.TestCase
TestWholeSystem.settings = EFFORT


# -- the aggregator -----------------------------------------------------------------------------------


class AggregatorAlone(RuleBasedStateMachine):
    """Joins, contributions of any kind, deadlines, crashes between two effects. Model: what is durable, and what was answered."""

    sent = Bundle("sent")

    @initialize(k=st.integers(1, 3), rule=st.sampled_from(["polynomial", "cutoff"]))
    def begin(self, k: int, rule: Any) -> None:
        self.settings = replace(
            SMALL_AGGREGATOR, client_steps=30, buffer_contributions=k, staleness=StalenessSettings(rule=rule, versions_max=2)
        )
        self.durable: list[Any] = []
        self.answers: dict[StepId, int | str] = {}
        self.boot = 0
        self.restart()

    def restart(self) -> None:
        self.boot += 1
        self.solo, self.learner = Solo(Aggregator(self.settings)), ToyLearner()
        self.obey(self.solo.start(self.boot, tuple(self.durable)))

    def obey(self, effects: list[Any], stop_before: int | None = None) -> None:
        for effect in effects[:stop_before]:
            match effect:
                case Persist(record):
                    self.durable.append(record)
                case Send(_, Accepted(step, version)):
                    assert self.logged().get(step) == version, "accepted before it was durable"
                    assert self.answers.setdefault(step, version) == version
                case Send(_, Refused(step, ("stale" | "superseded") as reason)):
                    assert not (reason == "stale" and step in self.logged())

    def logged(self) -> dict[StepId, int]:
        return {
            term.step: record.entry.version for record in self.durable if isinstance(record, EntryCommitted) for term in record.entry.terms
        }

    @rule(client=st.sampled_from("abc"), boot=st.integers(1, 3))
    def join(self, client: str, boot: int) -> None:
        self.obey(self.solo.receive(client, Join(boot, GOLDEN, INITIAL)))

    @rule(
        target=sent,
        client=st.sampled_from("abc"),
        incarnation=st.integers(1, 3),
        number=st.integers(1, 8),
        behind=st.integers(-1, 4),
        probes=st.sampled_from([2, 2, 2, 1]),
        stop_before=st.one_of(st.none(), st.none(), st.integers(0, 5)),
    )
    def contribute(self, client: str, incarnation: int, number: int, behind: int, probes: int, stop_before: int | None) -> Any:
        message = contribution(StepId(client, incarnation, number), max(0, self.solo.agent.log.head - behind), probes)
        self._offer(message, stop_before)
        return message

    @rule(message=sent)
    def contribute_again(self, message: ProjectedGradients) -> None:
        self._offer(message, None)

    def _offer(self, message: ProjectedGradients, stop_before: int | None) -> None:
        effects = self.solo.receive(message.step.client, message)
        self.obey(effects, stop_before)
        if stop_before is not None and stop_before < len(effects):
            self.restart()

    @rule()
    def the_deadline_passes(self) -> None:
        if self.solo.timers.pop("deadline", None) is not None:
            self.obey(self.solo.feed(TimerFired("deadline")))

    @rule(count=st.integers(1, 4))
    def the_learner_works(self, count: int) -> None:
        for _ in range(count):
            if self.solo.job is not None:
                self.obey(self.solo.done(self.learner.run(self.solo.job)))

    @rule(client=st.sampled_from(["a", "b", "c", SPLIT_SERVER, "stranger"]), version=st.integers(0, 40))
    def catch_up(self, client: str, version: int) -> None:
        effects = self.solo.receive(client, CatchUp(version))
        assert len(effects) <= 1
        for page in self.solo.sent(LogPage):
            assert [entry.version for entry in page.entries] == list(range(version + 1, version + 1 + len(page.entries)))
            assert len(page.entries) <= self.settings.page_entries_max

    @rule()
    def crash(self) -> None:
        self.restart()

    @rule(client=st.sampled_from("abc"))
    def gone(self, client: str) -> None:
        self.obey(self.solo.feed(PeerGone(client)))

    @invariant()
    def each_step_is_durable_at_most_once_and_the_log_is_the_records(self) -> None:
        if not hasattr(self, "solo"):
            return
        entries = [record.entry for record in self.durable if isinstance(record, EntryCommitted)]
        steps = [term.step for entry in entries for term in entry.terms]
        assert len(steps) == len(set(steps)) <= self.settings.client_steps
        assert self.solo.agent.log.head == len(entries) and self.solo.agent.steps_in_log == len(steps)
        assert not entries or self.solo.agent.log.chain == entries[-1].chain


TestAggregatorAlone = AggregatorAlone.TestCase
TestAggregatorAlone.settings = EFFORT


# -- the split server ---------------------------------------------------------------------------------


class SplitServerAlone(RuleBasedStateMachine):
    """Smashed data and requests, each perhaps again and late; jobs that end or fail; the log and its end."""

    said = Bundle("said")

    @initialize(together=st.integers(1, 3), wait_s=st.sampled_from([0.0, 1.0]))
    def begin(self, together: int, wait_s: float) -> None:
        waits = {"micro_batch_max": together, "micro_batch_wait_s": wait_s}
        self.settings = replace(SMALL_SERVER, answers_remembered_max=3, evaluate_every_steps=2, **waits)
        self.jobs_trained = 0
        self.solo = Solo(SplitServer(self.settings))
        self.trained: list[StepId] = []
        self.answers: dict[StepId, DualVariable | DualRefused] = {}
        self.numbers = dict.fromkeys("abcd", 0)
        self.note(self.solo.start())

    def note(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(recipient, DualVariable(step) as dual):
                    assert recipient == step.client
                    assert self.answers.setdefault(step, dual) == dual, "another dual for the same step"
                    assert step in self.trained, "a dual of a step that was never trained"
        queued = self.solo.agent.counts["received"] - self.solo.agent.counts["trained"]
        assert queued >= 0

    @rule(target=said, client=st.sampled_from("abcd"), wanted=st.booleans(), skipped=st.integers(0, 1))
    def new_step(self, client: str, wanted: bool, skipped: int) -> Any:
        self.numbers[client] += 1 + skipped
        message = smashed(StepId(client, 1, self.numbers[client]), wanted=wanted)
        self.note(self.solo.receive(client, message))
        return message if wanted else multiple(message, DualRequest(message.step))

    @rule(message=said)
    def something_said_comes(self, message: Any) -> None:
        self.note(self.solo.receive(message.step.client, message))

    @rule(message=consumes(said))
    def something_said_comes_for_the_last_time(self, message: Any) -> None:
        self.note(self.solo.receive(message.step.client, message))

    @precondition(lambda self: self.solo.job is not None)
    @rule(count=st.integers(1, 4), fails=st.sampled_from([False, False, False, True]))
    def the_learner_works(self, count: int, fails: bool) -> None:
        for _ in range(count):
            job = self.solo.job
            match job:
                case Backward(step) | EvaluateDual(step) if fails:
                    self.solo.job = None
                    self.note(self.solo.feed(JobFailed(job, "shape")))
                    assert self.solo.sent(DualRefused)[0] == DualRefused(step, "malformed")
                case BackwardTogether() if fails:
                    self.solo.job = None
                    self.note(self.solo.feed(JobFailed(job, "shape")))
                case BackwardTogether(parts):
                    assert 1 < len(parts) <= self.settings.micro_batch_max
                    assert not {part.step for part in parts} & set(self.trained)
                    self.trained += [part.step for part in parts]
                    self.jobs_trained += 1
                    done = [BackwardDone(part.step, numbers("dual", str(part.step)), 1.0) for part in parts]
                    self.note(self.solo.done(BackwardsDone(tuple(done))))
                case Backward(step):
                    assert step not in self.trained
                    self.trained.append(step)
                    self.jobs_trained += 1
                    self.note(self.solo.done(BackwardDone(step, numbers("dual", str(step), len(self.trained)), 1.0)))
                case EvaluateDual(step):
                    assert step in self.trained
                    self.note(self.solo.done(BackwardDone(step, numbers("dual", str(step), len(self.trained)), 1.0)))
                case Evaluate():
                    self.note(self.solo.done(Evaluated(self.solo.agent._follower.version, 0.5, 1.0, 10)))
                case Replay(entries, digest_at):
                    version = entries[-1].version if entries else digest_at[0]
                    self.note(self.solo.done(Replayed(version, tuple(Checkpoint(at, bytes(32)) for at in digest_at))))

    @rule(over=st.sampled_from([False, False, False, False, True]))
    def the_aggregator_answers(self, over: bool) -> None:
        version = self.solo.agent._follower.offered
        self.note(self.solo.receive(AGGREGATOR, LogPage(version, (), version, bytes(32) if over else None, over)))

    @rule()
    def the_timer_fires(self) -> None:
        for name in ("catch_up", "micro_batch"):
            if self.solo.timers.pop(name, None) is not None:
                self.note(self.solo.feed(TimerFired(name)))

    @invariant()
    def trained_once_each(self) -> None:
        if hasattr(self, "trained"):
            assert len(self.trained) == len(set(self.trained)) == self.solo.agent.counts["trained"]
            assert self.jobs_trained == self.solo.agent.server_steps

    def teardown(self) -> None:
        """The run ends: the last evaluation is made exactly once, and nobody is left without an answer."""
        if not hasattr(self, "solo"):
            return
        solo, last = self.solo, 0
        self.note(solo.receive(AGGREGATOR, HeadAnnounced(0, True)))
        for _ in range(20):
            if solo.agent.finished:
                break
            last += isinstance(solo.job, Evaluate)
            self.the_learner_works(1, False) if solo.job is not None else self.the_aggregator_answers(True)
        assert solo.agent.finished and last <= 2 and not solo.agent._queue


TestSplitServerAlone = SplitServerAlone.TestCase
TestSplitServerAlone.settings = EFFORT


# -- the edge client ----------------------------------------------------------------------------------


class EdgeClientAlone(RuleBasedStateMachine):
    """The test plays both peers, the learner, the network and the clock; the log is real."""

    @initialize(policy=st.sampled_from(["eager", "fresh"]), unanswered=st.integers(1, 3), probes=st.sampled_from([2, 2, 0]))
    def begin(self, policy: str, unanswered: int, probes: int) -> None:
        self.client = Client(dual_policy=policy, steps_unanswered_max=unanswered, probes=probes, retry=RETRY)
        self.log = Solo(Aggregator(replace(SMALL_AGGREGATOR, client_steps=10**6))).agent.log
        self.said: dict[Any, Any] = {}
        self.phase = self.client.phase
        self.note()

    def note(self) -> None:
        client = self.client
        for message in client.sent():
            if isinstance(message, SmashedData | ProjectedGradients):
                assert self.said.setdefault((type(message), message.step), message) == message, "a retry differs"
        here, self.phase = self.phase, client.phase
        assert self.phase is here or here in (Phase.DONE, Phase.BROKEN) or self.phase in _reach(here)
        assert not client.agent.broken, client.agent.broken
        if client.phase is Phase.RESTING:
            assert client.job is not None or client.timers, "it waits for nothing"

    @precondition(lambda self: self.client.job is not None)
    @rule()
    def job_ends(self) -> None:
        job = self.client.job
        if isinstance(job, Forward | Probe | Project):
            assert self.client.agent.version == self._anchor(job)
        if isinstance(job, Project) and not self.client.agent.finished and len(self.said) % 7 == 3:
            self.client.job = None
            self.client.feed(JobFailed(job, "shape"))
        else:
            end_of(self.client)
        self.note()

    def _anchor(self, job: Forward | Probe | Project) -> int:
        if isinstance(job, Forward):
            self.anchor = job.base_version
        return self.anchor

    @rule(number=st.integers(1, 6))
    def dual(self, number: int) -> None:
        current = self.client.agent._number
        step = StepId("client-1", 1, max(1, current - number + 1))
        self.client.receive(SPLIT_SERVER, DualVariable(step, 1, numbers("dual", str(step))))
        self.note()

    @rule(reason=st.sampled_from(["busy", "forgotten", "malformed"]), back=st.integers(0, 2))
    def dual_refused(self, reason: Any, back: int) -> None:
        self.client.receive(SPLIT_SERVER, DualRefused(StepId("client-1", 1, max(1, self.client.agent._number - back)), reason))
        self.note()

    @rule(back=st.integers(0, 3), grow=st.integers(0, 2), refused=st.booleans())
    def answer(self, back: int, grow: int, refused: bool) -> None:
        for _ in range(grow):
            self.log.append(())
        step = StepId("client-1", 1, max(1, self.client.agent._number - back))
        message = Refused(step, "stale", self.log.head) if refused else Accepted(step, self.log.head, self.log.head)
        self.client.receive(AGGREGATOR, message)
        self.note()

    @rule(version=st.integers(0, 30), count=st.integers(0, 3), late=st.booleans())
    def page(self, version: int, count: int, late: bool) -> None:
        version = min(version, self.log.head) if late else self.client.agent._follower.offered
        self.client.receive(AGGREGATOR, LogPage(version, self.log.after(version, count), self.log.head))
        self.note()

    @precondition(lambda self: self.log.head)
    @rule(back=st.integers(0, 3))
    def snapshot(self, back: int) -> None:
        version = max(1, self.log.head - back)
        self.client.receive(AGGREGATOR, Snapshot(version, numbers("t", shape=(4,)), bytes(32), self.log.chain_at(version), self.log.head))
        self.note()

    @rule(boot=st.integers(1, 2))
    def welcome(self, boot: int) -> None:
        if self.client.agent.phase is not Phase.JOINING or self.client.agent._introduced is not None:
            self.client.receive(AGGREGATOR, Welcome(boot, boot, self.log.head))
            self.note()

    @precondition(lambda self: self.client.timers)
    @rule(index=st.integers(0, 9))
    def timer(self, index: int) -> None:
        name = sorted(self.client.timers)[index % len(self.client.timers)]
        del self.client.timers[name]
        self.client.feed(TimerFired(name))
        self.note()

    def teardown(self) -> None:
        """The run ends: whatever phase it is in, the client follows the log to its end and leaves."""
        if not hasattr(self, "client"):
            return
        client, head = self.client, self.log.head
        client.receive(AGGREGATOR, HeadAnnounced(head, True))
        for _ in range(60):
            if client.agent.finished:
                break
            if client.job is not None:
                end_of(client)
            elif client.phase is Phase.JOINING:
                client.receive(AGGREGATOR, Welcome(1, 1, head, True))
            else:
                version = client.agent._follower.offered
                digest = FINAL if version == head else None
                client.receive(AGGREGATOR, LogPage(version, self.log.after(version, 5), head, digest, True))
        assert client.phase is Phase.DONE and client.agent.version == head and client.timers == {}


def _reach(phase: Phase) -> set[Phase]:
    """Where one event may lead: along the table, perhaps over several phases at once."""
    found, frontier = set(), [phase]
    while frontier:
        for there in TRANSITIONS[frontier.pop()] - found:
            found.add(there)
            frontier.append(there)
    return found


TestEdgeClientAlone = EdgeClientAlone.TestCase
TestEdgeClientAlone.settings = EFFORT
