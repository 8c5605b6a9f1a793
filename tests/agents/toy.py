"""A toy world for real agents: a learner made of hashes, and a network, a clock and machines that obey whoever tests.

Nothing happens here by itself. A test (or hypothesis) says which message arrives, is lost or comes twice, which job ends, which
timer fires, who crashes between two effects and who starts again. The world keeps the hosts' duties (``hosfl_async.agent``) and
watches what any observer of the whole system could see, at the instant it happens:

* ``Accepted`` never leaves before the entry that holds the step is durable, and never names two versions for one step.
* A step is in the log at most once; a later incarnation is never lower.
* What is sent again is sent again byte for byte: contributions, smashed data, and duals within one life of the server.
* At most one job per agent; no projection at parameters that have moved since the anchor; no step trained twice in the life of a server
  half, which goes on from its checkpoint when the server starts again.
* With a durable outbox no contribution is sent before it is durable, and each one comes to an answer: in the log, or refused.

``calm`` ends the malice: everything is delivered, everyone is up, and the system must finish. ``check_end`` says what then holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hosfl_async.agent import JobDone, JobFailed, PeerGone, Persist, Received, Record, RunJob, Send, SetTimer, Started, TimerFired
from hosfl_async.agents import (
    Aggregator,
    AggregatorSettings,
    EdgeClient,
    EdgeClientSettings,
    RetrySettings,
    SplitServer,
    SplitServerSettings,
    StalenessSettings,
)
from hosfl_async.codec import Decoder, decode_record, encode, encode_record
from hosfl_async.errors import LearnerError
from hosfl_async.jobs import (
    Backward,
    BackwardDone,
    BackwardsDone,
    BackwardTogether,
    Evaluate,
    Evaluated,
    EvaluateDual,
    Forward,
    ForwardDone,
    InstallSnapshot,
    Introduce,
    Introduced,
    Probe,
    ProbeDone,
    Project,
    Projected,
    Replay,
    Replayed,
    RestoreServerState,
    ServerStateRestored,
    ServerStateTaken,
    SnapshotTaken,
    TakeServerState,
    TakeSnapshot,
)
from hosfl_async.messages import (
    AGGREGATOR,
    CLIENTS,
    SPLIT_SERVER,
    Accepted,
    AggregatorInbox,
    Checkpoint,
    ClientJoined,
    ContributionMade,
    ContributionSettled,
    DualVariable,
    EdgeClientInbox,
    EntryCommitted,
    LogEntry,
    NamedTensor,
    ProjectedGradients,
    SmashedData,
    SplitServerInbox,
    StepId,
    TargetMet,
    Tensor,
)
from hosfl_async.scaling import unpack_coefficients

SIZE = 4
"""Parameters of the toy client half."""


def hashed(*parts: object, size: int = 32) -> bytes:
    return blake2b(repr(parts).encode(), digest_size=size).digest()


def numbers(*parts: object, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    """A float32 tensor of numbers in [0, 1) that follow from ``parts``."""
    count = int(np.prod(shape))
    return Tensor("float32", shape, (np.frombuffer(hashed(*parts, size=count), np.uint8) / np.float32(256)).astype("<f4").tobytes())


LABELS = Tensor("int64", (2,), np.array([0, 1], "<i8").tobytes())


def scalars(step: StepId, probes: int) -> tuple[float, ...]:
    """The toy's projected gradients: they follow from the name of the step."""
    return tuple((byte - 128) / 128 for byte in hashed(str(step), size=max(probes, 1))[:probes])


def replayed(theta: np.ndarray, entry: LogEntry) -> np.ndarray:
    """``theta`` after one entry, with directions of +-1 that follow from step and probe."""
    for term in entry.terms:
        for probe, coefficient in enumerate(unpack_coefficients(term.coefficients)):
            signs = np.frombuffer(hashed(str(term.step), probe, size=SIZE), np.uint8) % 2 * np.float32(2) - np.float32(1)
            theta = (theta - np.float32(coefficient) * signs).astype(np.float32)
    return theta


def digest(theta: np.ndarray) -> bytes:
    return blake2b(theta.tobytes(), digest_size=32).digest()


class ToyLearner:
    """Computes every job of every agent, and refuses what no agent may ask."""

    def __init__(self) -> None:
        self.theta = np.zeros(SIZE, np.float32)
        self.version = 0
        self.anchor: tuple[StepId, int] | None = None
        self.trained: list[StepId] = []

    def run(self, job: Any) -> Any:
        match job:
            case Introduce():
                return Introduced(hashed("golden"), digest(self.theta), SIZE)
            case Forward(step, base_version):
                assert base_version == self.version, f"{step} forward at {base_version}, the learner is at {self.version}"
                self.anchor = (step, self.version)
                return ForwardDone(numbers(str(step), base_version), LABELS)
            case Probe(step, _):
                self._check_anchor(step)
                return ProbeDone(step)
            case Project(step, dual):
                self._check_anchor(step)
                self.anchor = None
                assert dual.shape == (2, 3)
                return Projected(step, scalars(step, self.probes))
            case Replay(entries, digest_at):
                return self._replay(entries, digest_at)
            case InstallSnapshot(version, parameters, expected):
                theta = np.frombuffer(parameters.data, "<f4").astype(np.float32)
                if digest(theta) != expected:
                    raise LearnerError(f"the snapshot of version {version} does not have its digest")
                self.theta, self.version = theta, version
                return Replayed(version)
            case TakeSnapshot():
                return SnapshotTaken(self.version, Tensor("float32", (SIZE,), self.theta.astype("<f4").tobytes()), digest(self.theta))
            case Backward(step, activations, _, weight):
                assert step not in self.trained, f"{step} is trained twice"
                assert 0.0 < weight <= 1.0
                self.trained.append(step)
                return BackwardDone(step, numbers("dual", str(step), len(self.trained), shape=activations.shape), 1.0)
            case BackwardTogether(parts):
                return BackwardsDone(tuple(self.run(part) for part in parts))
            case TakeServerState():
                packed = np.frombuffer(msgspec.msgpack.encode(self.trained), np.uint8).astype("<i8")
                return ServerStateTaken((NamedTensor("trained", Tensor("int64", packed.shape, packed.tobytes())),))
            case RestoreServerState((NamedTensor("trained", packed),)):
                assert not self.trained
                bytes_ = np.frombuffer(packed.data, "<i8").astype(np.uint8).tobytes()
                self.trained = msgspec.msgpack.decode(bytes_, type=list[StepId])
                return ServerStateRestored()
            case EvaluateDual(step, activations, _):
                return BackwardDone(step, numbers("dual", str(step), len(self.trained), shape=activations.shape), 1.0)
            case Evaluate():
                return Evaluated(self.version, min(1.0, len(self.trained) / 8), 1.0, 10)
        raise AssertionError(f"unknown job {job!r}")

    probes = 2

    def _check_anchor(self, step: StepId) -> None:
        assert self.anchor is not None and self.anchor[0] == step, f"{step} has no anchor: {self.anchor}"
        assert self.anchor[1] == self.version, f"{step} was anchored at {self.anchor[1]}, the learner is at {self.version}"

    def _replay(self, entries: tuple[LogEntry, ...], digest_at: tuple[int, ...]) -> Replayed:
        checkpoints = [Checkpoint(self.version, digest(self.theta))] if self.version in digest_at else []
        for entry in entries:
            assert entry.version == self.version + 1, f"entry {entry.version} replayed at version {self.version}"
            self.theta, self.version = replayed(self.theta, entry), entry.version
            if self.version in digest_at:
                checkpoints.append(Checkpoint(self.version, digest(self.theta)))
        assert [one.version for one in checkpoints] == sorted(digest_at), f"digests wanted at {digest_at}, possible at {checkpoints}"
        return Replayed(self.version, tuple(checkpoints))


class Flight(NamedTuple):
    """One copy of a message under way."""

    number: int
    sender: str
    recipient: str
    payload: bytes
    message: Any


@dataclass
class Node:
    """One machine. ``records`` outlive its crashes, everything else does not."""

    name: str
    agent: Any = None
    learner: Any = None
    boot: int = 0
    job: Any = None
    timers: dict[str, float] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)
    crash_before_effect: int | None = None
    """Crash inside the next event, when this many of its effects have been obeyed."""
    history: list[tuple[Any, float, list[Any]]] = field(default_factory=list)
    """Events, times and effects of this life."""

    @property
    def up(self) -> bool:
        return self.agent is not None


RETRY = RetrySettings(first_s=1.0, max_s=8.0, attempts_max=3)
SMALL_AGGREGATOR = AggregatorSettings(
    client_steps=9, probes=2, learning_rate=0.5, buffer_contributions=2, buffer_deadline_s=10.0, page_entries_max=2, entries_kept_max=2,
    snapshot_every_versions=3, snapshot_behind_versions=3, digest_every_versions=2, digests_kept_max=4, farewells_max=50, retry=RETRY,
)  # fmt: skip
"""Bounds so small that short histories meet all of them."""
SMALL_CLIENT = EdgeClientSettings(probes=2, digest_every_versions=2, retry=RETRY)
SMALL_SERVER = SplitServerSettings(
    queue_max=2, answers_remembered_max=4, evaluate_every_steps=3, digest_every_versions=2, retry=RETRY, staleness=StalenessSettings()
)


class World:
    """Agents, messages in flight, clocks and machines; see the module's text.

    Parameters
    ----------
    clients: how many edge clients, named ``client-1`` ...
    aggregator, client, server: their settings.
    """

    def __init__(
        self,
        clients: int = 2,
        *,
        aggregator: AggregatorSettings = SMALL_AGGREGATOR,
        client: EdgeClientSettings = SMALL_CLIENT,
        server: SplitServerSettings = SMALL_SERVER,
    ) -> None:
        assert aggregator.probes == client.probes
        self.now = 0.0
        self.in_flight: list[Flight] = []
        self.story: list[str] = []
        """What happened since somebody last emptied it, in words."""
        self.logged: dict[StepId, int] = {}
        """Every step in a durable entry, with its version."""
        self.target_met: TargetMet | None = None
        """Why the run was over before it had all its steps."""
        self.acknowledged: dict[StepId, int] = {}
        self.entries: list[LogEntry] = []
        self.outbox: dict[StepId, bool] = {}
        """Every contribution that became durable at its client, and whether it was answered since."""
        self._incarnations: dict[str, int] = {}
        self._said: dict[Any, Any] = {}
        self._sent = 0
        self._settings = {AGGREGATOR: aggregator, SPLIT_SERVER: server, CLIENTS: client}
        self.clients = [f"client-{number}" for number in range(1, clients + 1)]
        self.nodes = {name: Node(name) for name in (AGGREGATOR, SPLIT_SERVER, *self.clients)}
        inboxes = {AGGREGATOR: AggregatorInbox, SPLIT_SERVER: SplitServerInbox}
        self._decoders = {name: Decoder(inboxes.get(name, EdgeClientInbox)) for name in self.nodes}

    def agent(self, name: str) -> Any:
        return self.nodes[name].agent

    def make(self, name: str) -> Any:
        if name == AGGREGATOR:
            return Aggregator(self._settings[AGGREGATOR])
        if name == SPLIT_SERVER:
            return SplitServer(self._settings[SPLIT_SERVER])
        return EdgeClient(self._settings[CLIENTS], name)

    # -- machines -----------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a machine that is down: a new agent, a new learner, the old records."""
        node = self.nodes[name]
        assert not node.up
        node.agent, node.learner, node.boot = self.make(name), ToyLearner(), node.boot + 1
        node.learner.probes = self._settings[AGGREGATOR].probes
        node.history = []
        self.feed(name, Started(node.boot, tuple(decode_record(record) for record in node.records)))

    def start_all(self) -> None:
        for node in self.nodes.values():
            if not node.up:
                self.start(node.name)

    def crash(self, name: str) -> None:
        """Memory, timers and the job under way are gone; what was sent is under way, what was persisted stays."""
        node = self.nodes[name]
        node.agent = node.learner = node.job = node.crash_before_effect = None
        node.timers = {}
        self.story.append(f"{name} crashes")

    def feed(self, name: str, event: Any) -> None:
        """One event to one agent; its effects are obeyed in order, perhaps not to the end."""
        node = self.nodes[name]
        effects = node.agent.handle(event, self.now)
        node.history.append((event, self.now, effects))
        self.story.append(f"{name} <- {describe(event)}")
        for index, effect in enumerate(effects):
            if node.crash_before_effect == index:
                self.crash(name)
                return
            self.story.append(f"    {describe(effect)}")
            self._obey(node, effect)
        if node.crash_before_effect is not None:
            self.crash(name)
            return
        node.agent.validate()

    # -- what may happen ----------------------------------------------------------------------------------

    def deliver(self, index: int = 0, *, keep: bool = False) -> None:
        """A message arrives; with ``keep`` another copy of it stays under way. Nobody at home: it is lost."""
        flight = self.in_flight[index] if keep else self.in_flight.pop(index)
        if self.nodes[flight.recipient].up:
            sender, message = self._decoders[flight.recipient].decode(flight.payload)
            self.feed(flight.recipient, Received(sender, message))

    def drop(self, index: int = 0) -> Flight:
        return self.in_flight.pop(index)

    def run_job(self, name: str) -> None:
        """The job under way ends now: only now it is computed."""
        node = self.nodes[name]
        job, node.job = node.job, None
        try:
            event: Any = JobDone(job, node.learner.run(job))
        except LearnerError as error:
            event = JobFailed(job, str(error))
        self.feed(name, event)

    def fail_job(self, name: str, reason: str = "it does not fit") -> None:
        node = self.nodes[name]
        job, node.job = node.job, None
        self.feed(name, JobFailed(job, reason))

    def fire(self, name: str, timer: str) -> None:
        """The timer fires, at its time or later."""
        self.now = max(self.now, self.nodes[name].timers.pop(timer))
        self.feed(name, TimerFired(timer))

    def report_gone(self, name: str, to: str = AGGREGATOR) -> None:
        """The transport's last will."""
        self.feed(to, PeerGone(name))

    @property
    def jobs(self) -> list[str]:
        return [node.name for node in self.nodes.values() if node.job is not None]

    @property
    def timers(self) -> list[tuple[float, str, str]]:
        """All timers, the next one first: (time, agent, timer)."""
        return sorted((due, node.name, timer) for node in self.nodes.values() for timer, due in node.timers.items())

    @property
    def finished(self) -> bool:
        return all(node.up and node.agent.finished for node in self.nodes.values())

    # -- the world's part ---------------------------------------------------------------------------------

    def _obey(self, node: Node, effect: Any) -> None:
        match effect:
            case Send(recipient, message):
                self._watch_message(node, message)
                payload = encode(node.name, message)
                for name in self.clients if recipient == CLIENTS else [recipient]:
                    self._sent += 1
                    self.in_flight.append(Flight(self._sent, node.name, name, payload, message))
            case SetTimer(name, None):
                node.timers.pop(name, None)
            case SetTimer(name, delay_s):
                assert delay_s > 0
                node.timers[name] = self.now + delay_s
            case RunJob(job):
                assert node.job is None, f"{node.name} asks for {job!r} while {node.job!r} is under way"
                node.job = job
            case Persist(record):
                self._watch_record(record)
                node.records.append(encode_record(record))
            case Record():
                pass

    def _watch_message(self, node: Node, message: Any) -> None:
        match message:
            case Accepted(step, version):
                assert self.logged.get(step) == version, f"{step} accepted in {version}, durable in {self.logged.get(step)}"
                self.acknowledged[step] = version
            case ProjectedGradients(step) | SmashedData(step):
                self._watch_same((type(message), step), message)
                if isinstance(message, ProjectedGradients) and self._settings[CLIENTS].durable_outbox:
                    assert step in self.outbox, f"{step} is sent and is not durable"
            case DualVariable(step):
                self._watch_same((type(message), step, node.boot), message)

    def _watch_same(self, key: Any, message: Any) -> None:
        assert self._said.setdefault(key, message) == message, f"{key} is not what it was the first time"

    def _watch_record(self, record: Any) -> None:
        match record:
            case ContributionMade(message):
                assert message.step not in self.outbox, f"{message.step} is made twice"
                self.outbox[message.step] = False
            case ContributionSettled(step):
                assert self.outbox[step] is False, f"{step} is settled twice"
                self.outbox[step] = True
            case ClientJoined(client, _, incarnation):
                assert incarnation > self._incarnations.get(client, 0), f"{client}: incarnation {incarnation} is not new"
                self._incarnations[client] = incarnation
            case EntryCommitted(entry):
                assert self.target_met is None, f"entry {entry.version} follows the end"
                assert entry.version == len(self.entries) + 1, f"entry {entry.version} follows {len(self.entries)}"
                self.entries.append(entry)
                for term in entry.terms:
                    assert term.step not in self.logged, f"{term.step} is in the log twice"
                    self.logged[term.step] = entry.version
            case TargetMet():
                assert self.target_met is None, "the run ends twice"
                self.target_met = record

    # -- the end ------------------------------------------------------------------------------------------

    def happen(self, choice: int) -> None:
        """One of the things that can happen next without any malice, by number; timers only when nothing else can."""
        jobs, flights = self.jobs, len(self.in_flight)
        if jobs or flights:
            choice %= len(jobs) + flights
            if choice < len(jobs):
                self.run_job(jobs[choice])
            else:
                self.deliver(choice - len(jobs))
        elif self.timers:
            _, name, timer = self.timers[0]
            self.fire(name, timer)

    def calm(self, events_max: int = 5000) -> None:
        """Everyone is up and nothing is lost any more: run until all are finished."""
        for node in self.nodes.values():
            node.crash_before_effect = None
        self.start_all()
        for _ in range(events_max):
            if self.finished:
                return
            assert self.jobs or self.in_flight or self.timers, f"nothing can happen any more: {self.states()}"
            self.happen(0)
        raise AssertionError(f"no end after {events_max} events: {self.states()}\n" + "\n".join(self.story[-60:]))

    def states(self) -> dict[str, Any]:
        return {
            name: (getattr(node.agent, "phase", None), getattr(node.agent, "broken", ""), node.agent and node.agent.finished)
            for name, node in self.nodes.items()
        }

    def check_end(self) -> None:
        """What must hold when all are finished: nothing acknowledged is lost, and everybody has the same parameters."""
        broken = {name: node.agent.broken for name, node in self.nodes.items() if getattr(node.agent, "broken", "")}
        assert not broken, broken
        aggregator = self.agent(AGGREGATOR)
        assert aggregator.log.head == len(self.entries) and len(self.logged) <= self._settings[AGGREGATOR].client_steps
        assert (len(self.logged) < self._settings[AGGREGATOR].client_steps) == (self.target_met is not None) == aggregator.target_met
        assert self.acknowledged.items() <= self.logged.items()
        left = [step for step, answered in self.outbox.items() if not answered and step not in self.logged]
        assert len(left) <= sum(self.agent(name).counts.get("unanswered_at_the_end", 0) for name in self.clients), f"never answered: {left}"
        theta = np.zeros(SIZE, np.float32)
        for entry in self.entries:
            theta = replayed(theta, entry)
        assert aggregator.final_digest == digest(theta)
        for name, node in self.nodes.items():
            assert node.learner.version == aggregator.log.head, f"{name} is at {node.learner.version}"
            assert digest(node.learner.theta) == digest(theta), f"{name} has other parameters"

    def check_deterministic(self) -> None:
        """Equal event histories give equal effects: live every life again."""
        for name, node in self.nodes.items():
            again = self.make(name)
            for event, now, effects in node.history:
                assert again.handle(event, now) == effects


def with_steps(client_steps: int, **changes: Any) -> AggregatorSettings:
    return replace(SMALL_AGGREGATOR, client_steps=client_steps, **changes)


# -- in words -----------------------------------------------------------------------------------------


def describe(thing: Any) -> str:
    """An event or effect in one line of a story: names and numbers, tensors by their shape, digests by their first bytes."""
    match thing:
        case Received(sender, message):
            return f"{words(message)} from {sender}"
        case Send(recipient, message):
            return f"send {recipient}: {words(message)}"
        case SetTimer(name, None):
            return f"cancel timer {name}"
        case SetTimer(name, delay_s):
            return f"timer {name} in {delay_s:.2f} s"
        case TimerFired(name):
            return f"timer {name}"
        case RunJob(job):
            return f"run {words(job)}"
        case JobDone(_, result):
            return f"done {words(result)}"
        case JobFailed(job, reason):
            return f"failed {words(job)}: {reason}"
        case Persist(record):
            return f"persist {words(record)}"
        case Record(name, values, step):
            shown = " ".join(f"{key}={value:g}" for key, value in values.items())
            return f"record {name} {step} {shown}".replace("  ", " ").rstrip()
        case Started(boot, records):
            return f"started boot={boot} records={len(records)}"
    return words(thing)


def words(value: Any) -> str:
    match value:
        case StepId():
            return str(value)
        case Tensor(dtype, shape):
            return f"{dtype}{list(shape)}"
        case LogEntry(version, terms, _):
            return f"[{version}: {', '.join(str(term.step) for term in terms)}]"
        case Checkpoint(version, at):
            return f"{version}@{at.hex()[:6]}"
        case bytes():
            return value.hex()[:6]
        case float():
            return f"{value:g}"
        case tuple():
            return "(" + " ".join(words(one) for one in value) + ")"
    if hasattr(value, "__struct_fields__"):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        shown = [f"{name}={words(one)}" for name, one in fields.items() if one is not None and one is not False]
        return f"{type(value).__name__}({' '.join(shown)})"
    return str(value)
