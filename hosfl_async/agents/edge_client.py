"""The edge client: forward passes only. One step after the other, each computed entirely at its base version.

Theory (HO-SFL, arXiv:2603.14773, section 3). A step is: forward to the cut, perturbed forwards while the dual is under way, inner
products of the dual with the differences, P scalars to the aggregator. The two-point estimate is biased if the parameters move between
the anchor forward and the projection; therefore the update log is replayed *between* steps and nowhere else.

Phases and the ways between them are data (``TRANSITIONS``). What may be lost is repeated: the join, the smashed data, the catch-up
and every unanswered contribution, byte for byte, with growing pauses. Only the smashed data are given up after a bounded number of
repetitions: an abandoned step costs one batch, a contribution that waits for its answer is kept until it is answered.

With ``durable_outbox`` a contribution is made durable before it is sent, so that not even a crash loses a step that was paid for. What an
earlier life left unanswered is sent again as it stands *before* joining: the next incarnation would fence it off.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from struct import unpack
from typing import Any, Literal

from msgspec import structs

from hosfl_async.agent import (
    Effect,
    Event,
    JobDone,
    JobFailed,
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
from hosfl_async.agents.backoff import first_pause_s, pause_s, spread_of
from hosfl_async.agents.catch_up_cost import TERM_BYTES, CatchUpCost
from hosfl_async.agents.settings import ALONE, ANSWERS_REMEMBERED_MIN, EdgeClientSettings
from hosfl_async.agents.update_log import LogFollower
from hosfl_async.errors import AgentError, LogError
from hosfl_async.jobs import (
    BackPropagate,
    FeedBack,
    Forward,
    ForwardDone,
    GradientDone,
    InstallSnapshot,
    Introduce,
    Introduced,
    LocalSlopes,
    Probe,
    ProbeDone,
    Project,
    Projected,
    Replay,
    Replayed,
    TrainLocally,
)
from hosfl_async.messages import (
    AGGREGATOR,
    CUT_DTYPES,
    SPLIT_SERVER,
    Accepted,
    CatchUp,
    Checkpoint,
    ClientGradient,
    Contributed,
    ContributionMade,
    ContributionSettled,
    DigestDiffers,
    DualRefused,
    DualRequest,
    DualVariable,
    Granted,
    HeadAnnounced,
    Join,
    JoinRefused,
    LogPage,
    ProjectedGradients,
    Refused,
    SmashedData,
    Snapshot,
    StepId,
    StepWanted,
    Tensor,
    Welcome,
)

PATIENCE_DOUBLINGS_MAX = 10
"""Times that a client which gives up one step after the other waits twice as long for the next."""


class Phase(StrEnum):
    __hash__ = str.__hash__  # Enum's own is a call of Python, at every look into the table of transitions

    JOINING = "joining"
    RESTING = "resting"
    """Between two steps: replaying, catching up, or waiting for answers."""
    FORWARD = "forward"
    AWAITING_DUAL = "awaiting dual"
    """The perturbed forwards run in this phase."""
    PROJECTING = "projecting"
    """Or back-propagating, or feeding back; a client that holds the whole model does nothing else in a step."""
    DONE = "done"
    BROKEN = "broken"


JOINING, RESTING, FORWARD, AWAITING_DUAL, PROJECTING, DONE, BROKEN = Phase  # to ask the enum each time is a call of Python 3.11

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    JOINING: frozenset({RESTING, BROKEN}),
    RESTING: frozenset({FORWARD, PROJECTING, DONE, BROKEN}),
    FORWARD: frozenset({AWAITING_DUAL, RESTING, BROKEN}),
    AWAITING_DUAL: frozenset({PROJECTING, RESTING, BROKEN}),
    PROJECTING: frozenset({RESTING, BROKEN}),
    DONE: frozenset(),
    BROKEN: frozenset(),
}

_IN_STEP = frozenset({FORWARD, AWAITING_DUAL, PROJECTING})


class EdgeClient:
    """Sans-IO state machine; see the module's text. Its learner holds the client half, the data shard and the anchor of a step."""

    __slots__ = (
        "_asked_s", "_asking", "_attempts", "_base_version", "_boot", "_busy", "_cost", "_dual", "_effects", "_follower", "_given_up",
        "_granted", "_incarnation", "_introduced", "_job_began_s", "_kept_dual", "_now", "_number", "_phase", "_probed", "_probes",
        "_reuses_left", "_settings", "_smashed", "_spread", "_step", "_step_began", "_unanswered", "_wishing",
        "broken", "counts", "finished", "name",
    )  # fmt: skip

    def __init__(self, settings: EdgeClientSettings, name: str) -> None:
        self.name = name
        self.counts: dict[str, int] = {}
        self.broken = ""
        """Why this client stopped for good, if it did."""
        self.finished = False
        self._settings = settings
        self._probes = settings.probes if settings.estimator in {"dual_projection", "activity_slopes"} else 0
        """Perturbed forwards of a step: none for a frozen client, nor for one that back-propagates."""
        self._spread = spread_of(f"{name}:")
        """Of its pauses, see ``backoff``."""
        self._follower = LogFollower(settings.digest_every_versions)
        self._phase = JOINING
        self._boot = 0
        self._introduced: Introduced | None = None
        self._incarnation = 0
        self._number = 0
        self._step = StepId(name, 0, 0)
        self._base_version = 0
        self._step_began = 0.0
        self._smashed: SmashedData | None = None
        self._dual: Tensor | None = None
        self._kept_dual: tuple[StepId, Tensor] | None = None
        """The step whose batch it belongs to, and the dual, while it is to be used again."""
        self._reuses_left = 0
        self._probed = False
        self._unanswered: dict[StepId, Contributed] = {}
        self._busy = False
        self._asking = False
        self._given_up = 0
        """Steps in a row whose dual never came."""
        self._granted = 0
        """Number of the step that may begin, under a limit of steps in flight."""
        self._wishing = False
        self._attempts: dict[str, int] = {}
        self._cost = CatchUpCost() if settings.catch_up == "measured" else None
        self._asked_s: float | None = None
        """When the question for entries left that was not repeated since."""
        self._job_began_s = 0.0
        self._now = 0.0
        self._effects: list[Effect] = []

    # -- what others may read -----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def version(self) -> int:
        """Version of the client half as it stands."""
        return self._follower.version

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The latest digest of its own client half."""
        return self._follower.checkpoint

    # -- events -------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._now = now
        self._effects = []
        if self.finished:
            return self._effects
        if type(event) is Received:  # the frequent ones first
            _RECEIVERS[type(event.message)](self, event.message)
        elif type(event) is JobDone:
            self._busy = False
            if self._cost is not None:
                self._measure(self._cost, event.job)
            _RESULTS[type(event.result)](self, event.result)
        else:
            self._on_rare(event)
        self._advance()
        return self._effects

    def _on_rare(self, event: Event) -> None:
        match event:
            case TimerFired(name):
                self._on_timer(name)
            case JobFailed(job, reason):
                self._busy = False
                self._on_job_failed(job, reason)
            case Started(boot, records):
                self._boot = boot
                self._restore(records)
                self._run(Introduce())
            case PeerGone(_):
                self._count("peers_gone")
            case Stopping():
                pass

    def _on_job_failed(self, job: Any, reason: str) -> None:
        """A projection can fail on a dual that does not fit: the step is lost. Anything else is this machine's own fault."""
        if isinstance(job, Project | BackPropagate | FeedBack):
            self._count("projections_failed")
            if self._phase is PROJECTING:  # else it was abandoned while the job ran
                self._abandon()
        elif isinstance(job, InstallSnapshot):
            self._break(f"snapshot of version {job.version} refused: {reason}")
        else:
            self._break(f"{type(job).__name__} failed: {reason}")

    # -- joining ------------------------------------------------------------------------------------------

    def _on_introduced(self, result: Introduced) -> None:
        self._introduced = result
        if not self._unanswered:
            self._ask_to_join()

    def _restore(self, records: tuple[Any, ...]) -> None:
        """Send again what an earlier life has left unanswered."""
        for record in records:
            if isinstance(record, ContributionMade):
                self._unanswered[record.message.step] = record.message
            else:
                self._unanswered.pop(record.step, None)
        if self._unanswered:
            self._count("left_by_earlier_lives", len(self._unanswered))
            for message in self._unanswered.values():
                self._send(AGGREGATOR, message)
            self._pause("answer")

    def _ask_to_join(self) -> None:
        assert self._introduced is not None
        self._send(AGGREGATOR, Join(self._boot, self._introduced.golden, self._introduced.initial))
        self._pause("join")

    def _on_welcome(self, message: Welcome) -> None:
        if self._phase is JOINING and message.boot == self._boot:
            self._incarnation = message.incarnation
            self._answered("join")
            self._follower.hear(message.head, message.finished)
            self._enter(RESTING)

    def _on_join_refused(self, message: JoinRefused) -> None:
        if self._phase is JOINING and message.boot == self._boot:
            self._break(f"join refused: {message.reason}")

    # -- one step -----------------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        self._number += 1
        self._step = StepId(self.name, self._incarnation, self._number)
        self._base_version = self._follower.version
        self._step_began = self._now
        self._smashed = self._dual = None
        self._probed = not self._probes
        settings = self._settings
        if settings.estimator in ALONE:
            self._enter(PROJECTING)
            self._run(self._local_job())
            return
        batch_of = self._take_kept_dual()
        self._enter(FORWARD)
        probes = settings.probes if settings.estimator == "server_losses" else 0
        self._run(Forward(self._step, self._base_version, batch_of, probes, settings.estimator == "skip_feedback"))

    def _local_job(self) -> LocalSlopes | TrainLocally:
        """The whole step of a client that holds the whole model."""
        settings = self._settings
        if settings.estimator == "local_losses":
            return LocalSlopes(self._step, self._base_version, settings.probes)
        return TrainLocally(self._step, self._base_version, settings.local_steps, settings.local_learning_rate)

    def _take_kept_dual(self) -> StepId | None:
        """Policy reuse: the dual of an earlier step serves this one too, on the same batch. That step's name, or None."""
        if self._kept_dual is None:
            return None
        batch_of, self._dual = self._kept_dual
        self._reuses_left -= 1
        if not self._reuses_left:
            self._kept_dual = None
        return batch_of

    def _keep_dual(self, dual: Tensor) -> None:
        self._reuses_left = self._settings.dual_reuse - 1
        self._kept_dual = (self._step, dual) if self._reuses_left else None

    def _on_forward(self, result: ForwardDone) -> None:
        if self._phase is not FORWARD:
            return
        if self._dual is not None:  # used again: nothing needs to be sent
            self._enter(AWAITING_DUAL)
            if self._probed:
                self._project()
            else:
                self._run(Probe(self._step, self._probes, self._settings.estimator == "activity_slopes"))
            return
        eager = self._settings.dual_policy == "eager" or self._probed
        self._smashed = SmashedData(self._step, self._base_version, result.activations, result.labels, eager)
        self._enter(AWAITING_DUAL)
        self._send_smashed()
        if not self._probed:
            self._run(Probe(self._step, self._probes, self._settings.estimator == "activity_slopes"))

    def _send_smashed(self) -> None:
        assert self._smashed is not None
        self._send(SPLIT_SERVER, self._smashed)
        if self._probed and not self._smashed.dual_wanted:
            self._send(SPLIT_SERVER, DualRequest(self._step))
        self._pause("dual")

    def _on_probed(self, result: ProbeDone) -> None:
        if self._phase is not AWAITING_DUAL or result.step != self._step:
            return
        self._probed = True
        if self._smashed is not None and not self._smashed.dual_wanted:
            self._answered("dual")
            self._send(SPLIT_SERVER, DualRequest(self._step))
            self._pause("dual")
        self._project()

    def _on_dual_variable(self, message: DualVariable) -> None:
        smashed = self._smashed
        if self._phase is not AWAITING_DUAL or message.step != self._step or smashed is None or self._dual is not None:
            self._count("duals_late")
        elif not self._fits(message.dual, smashed):
            self._count("duals_malformed")
            self._abandon()
        else:
            self._answered("dual")
            self._given_up = 0
            self._dual = message.dual
            self._keep_dual(message.dual)
            self._effects.append(Record("dual", {"wait_s": self._now - self._step_began}, self._step))
            self._project()

    def _fits(self, dual: Tensor, smashed: SmashedData) -> bool:
        """As large as the activations; or P slopes, from a server that only runs forward passes."""
        if self._settings.estimator == "server_losses":
            return dual.dtype == "float32" and dual.shape == (self._settings.probes,)
        return dual.shape == smashed.activations.shape and dual.dtype in CUT_DTYPES

    def _on_dual_refused(self, message: DualRefused) -> None:
        if message.reason == "finished":
            self._follower.hear(0, True)  # whatever step it is about: one abandoned long ago is over, too
        if self._phase is not AWAITING_DUAL or message.step != self._step or self._dual is not None:
            return
        self._count(f"duals_refused_{message.reason}")
        fresh_again = message.reason == "forgotten" and self._smashed is not None and not self._smashed.dual_wanted
        if message.reason == "malformed" or (message.reason == "forgotten" and not fresh_again):
            self._abandon()
        elif message.reason == "finished":
            self._abandon("cut_off")
        # busy, or a fresh request that overtook its data: the timer repeats both

    def _project(self) -> None:
        """Once the dual and the perturbed forwards are both there."""
        if self._dual is None or not self._probed or self._busy:
            return
        self._enter(PROJECTING)
        if self._settings.estimator == "server_losses":
            slopes = unpack(f"<{self._settings.probes}f", self._dual.data)
            self._contribute(ProjectedGradients(self._step, self._base_version, slopes))
        elif self._settings.estimator == "gradient":
            self._run(BackPropagate(self._step, self._dual))
        elif self._settings.estimator in {"skip_feedback", "activity_slopes"}:
            self._run(FeedBack(self._step, self._dual))
        elif self._probes:
            self._run(Project(self._step, self._dual))
        else:
            self._contribute(ProjectedGradients(self._step, self._base_version, ()))

    def _on_estimated(self, result: Projected | GradientDone) -> None:
        if self._phase is not PROJECTING or result.step != self._step:
            return
        if isinstance(result, GradientDone):
            self._contribute(ClientGradient(self._step, self._base_version, result.gradient))
        else:
            self._contribute(ProjectedGradients(self._step, self._base_version, result.projected_gradients))

    def _contribute(self, message: Contributed) -> None:
        self._unanswered[self._step] = message
        if self._settings.durable_outbox:
            self._effects.append(Persist(ContributionMade(message)))
        self._smashed = self._dual = None
        self._enter(RESTING)
        self._send(AGGREGATOR, message)
        self._pause("answer")
        self._effects.append(Record("step", {"duration_s": self._now - self._step_began}, self._step))

    def _abandon(self, why: Literal["abandoned", "cut_off"] = "abandoned") -> None:
        """Give the step under way up: its batch is not counted anywhere. ``cut_off``: the run was over before the step."""
        self._count(why)
        self._effects.append(Record(why, {}, self._step))
        self._smashed = self._dual = self._kept_dual = None
        self._answered("dual")
        self._enter(RESTING)

    def _on_replayed(self, result: Replayed) -> None:
        self._follower.replayed(result)

    def _measure(self, cost: CatchUpCost, job: Any) -> None:
        match job:
            case Replay():
                cost.replayed(self._now - self._job_began_s, len(job.entries))
            case InstallSnapshot():
                cost.installed(self._now - self._job_began_s)

    # -- answers and the log ------------------------------------------------------------------------------

    def _on_accepted(self, message: Accepted) -> None:
        self._follower.hear(message.head, message.finished)
        if self._unanswered.pop(message.step, None) is not None:
            self._count("accepted")
            self._settle(message.step)

    def _on_refused(self, message: Refused) -> None:
        self._follower.hear(message.head, message.finished)
        if self._unanswered.pop(message.step, None) is not None:
            self._count(f"refused_{message.reason}")
            self._settle(message.step)
            if message.step.incarnation != self._incarnation:
                return  # an earlier life's: that it was fenced off says nothing about this one
        elif not self._wishing or message.step != self._next_step:
            return
        if message.reason == "fenced":
            self._break("fenced: another incarnation of this client has joined")

    def _settle(self, step: StepId) -> None:
        if self._settings.durable_outbox:
            self._effects.append(Persist(ContributionSettled(step)))
        self._answered("answer")
        if self._unanswered:
            self._pause("answer")
        elif self._phase is JOINING and self._introduced is not None:
            self._ask_to_join()

    def _on_log_page(self, message: LogPage) -> None:
        follower = self._follower
        answered = message.from_version == follower.offered  # else it is late or repeated: another answer is under way
        try:
            taken = follower.offer_page(message)
        except LogError as problem:
            self._break(str(problem))
            return
        if taken:
            self._note_answer(
                sum(TERM_BYTES + len(term.coefficients) + len(term.gradient) for entry in message.entries for term in entry.terms), taken
            )
        if taken or follower.confirmed or (answered and not follower.finished):
            self._answered("catch_up")
            self._asking = False
        # else the aggregator has not digested the end yet: the timer asks again, not we at once

    def _on_snapshot(self, message: Snapshot) -> None:
        if self._follower.offer_snapshot(message):
            self._note_answer(len(message.parameters.data), 0)
            self._answered("catch_up")
            self._asking = False

    def _note_answer(self, payload_bytes: int, entries: int) -> None:
        if self._cost is not None and self._asked_s is not None:
            self._cost.answered(self._now - self._asked_s, payload_bytes, entries)
            self._asked_s = None

    def _on_digest_differs(self, message: DigestDiffers) -> None:
        self._break(f"the parameters at version {message.version} differ from the aggregator's")

    def _on_head_announced(self, message: HeadAnnounced) -> None:
        self._follower.hear(message.head, message.finished)

    def _ask_for_entries(self) -> None:
        if not self._asking:
            self._asking = True
            self._send(AGGREGATOR, self._question())
            self._pause("catch_up")

    def _question(self) -> CatchUp:
        """For what lacks of the log, or for the client half whole where this device's own measures say that it is sooner."""
        question, follower = self._follower.request(), self._follower
        if self._cost is None or self._introduced is None:
            return question
        self._asked_s = None if self._attempts.get("catch_up") else self._now
        if not self._cost.prefers_snapshot(follower.head - follower.offered, self._introduced.parameters):
            return question
        self._count("snapshots_preferred")
        return structs.replace(question, prefers_snapshot=True)

    # -- what next ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Pick the next job. Between steps: first replay, then catch up, then wait for answers, then the next step."""
        follower = self._follower
        if follower.finished and self._phase in _IN_STEP:
            self._abandon("cut_off")
        if self._busy or self._phase is not RESTING:
            return
        if job := follower.job():
            self._run(job)
        elif follower.finished and follower.confirmed:
            self._leave()
        elif follower.finished or (follower.behind and self._may_begin):
            self._ask_for_entries()
        elif not self._unanswered or (len(self._unanswered) < self._settings.steps_unanswered_max and not self._outruns_memory()):
            if self._may_begin:
                self._begin_step()
            else:
                self._wish()

    @property
    def _next_step(self) -> StepId:
        return StepId(self.name, self._incarnation, self._number + 1)

    @property
    def _may_begin(self) -> bool:
        return not self._settings.asks_before_step or self._granted > self._number

    def _wish(self) -> None:
        """Ask for a place, and for what the log has gained: a wish stands in for the catch-up before a step."""
        if not self._wishing:
            self._wishing = True
            self._send(AGGREGATOR, StepWanted(self._next_step, self._follower.offered, self._follower.checkpoint))
            self._pause("wish")

    def _on_granted(self, message: Granted) -> None:
        self._follower.hear(message.head, False)
        if self._wishing and message.step == self._next_step:
            self._wishing = False
            self._granted = message.step.number
            self._answered("wish")
        else:
            self._count("grants_late")

    def _outruns_memory(self) -> bool:
        """The aggregator remembers its answers to the latest steps by number: one that still waits must not fall out of them."""
        oldest = min(step.number for step in self._unanswered)
        return self._number + 1 - oldest >= ANSWERS_REMEMBERED_MIN

    def _leave(self) -> None:
        self._count("unanswered_at_the_end", len(self._unanswered))
        self._unanswered.clear()
        for name in tuple(self._attempts):
            self._answered(name)
        self._enter(DONE)

    # -- time ---------------------------------------------------------------------------------------------

    def _on_timer(self, name: str) -> None:
        if name == "join" and self._phase is JOINING:
            self._count("retried")
            self._ask_to_join()
        elif name == "catch_up" and self._asking:
            self._count("retried")
            self._asking = False  # _advance asks again
        elif name == "wish" and self._wishing:
            self._count("wishes_repeated")
            self._wishing = False  # _advance wishes again
        elif name == "answer" and self._unanswered:
            self._count("retried", len(self._unanswered))
            for message in self._unanswered.values():
                self._send(AGGREGATOR, message)
            if self._attempts["answer"] > self._settings.retry.attempts_max:
                self._ask_for_entries()  # no answer may ever come (it cannot be decoded there): ask whether the run is over
            self._pause("answer")
        elif name == "dual" and self._phase is AWAITING_DUAL and self._dual is None:
            self._repeat_smashed()

    def _repeat_smashed(self) -> None:
        """Give up after ``attempts_max`` repetitions; after twice as many when the step before was given up, too: the way to the server
        and back may take longer than they all."""
        if self._attempts.get("dual", 0) > self._settings.retry.attempts_max * 2 ** min(self._given_up, PATIENCE_DOUBLINGS_MAX):
            self._given_up += 1
            self._abandon()
        else:
            self._count("retried")
            self._send_smashed()

    def _pause(self, name: str) -> None:
        attempt, retry = self._attempts.get(name, 0), self._settings.retry
        self._attempts[name] = attempt + 1
        after_s = pause_s(retry, attempt, f"{self.name}:{name}") if attempt else first_pause_s(retry, name, self._spread)
        self._effects.append(SetTimer(name, after_s))

    def _answered(self, name: str) -> None:
        if self._attempts.pop(name, None) is not None:
            self._effects.append(SetTimer(name, None))

    # -- small things -------------------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        if phase not in TRANSITIONS[self._phase]:
            raise AgentError(f"{self.name}: no way from {self._phase.value} to {phase.value}, in step {self._step}")
        self._phase = phase
        self.finished = phase is DONE or phase is BROKEN

    def _break(self, reason: str) -> None:
        self.broken = reason
        self._effects.append(Record("broken", {}, self._step))
        for name in tuple(self._attempts):
            self._answered(name)
        self._enter(BROKEN)

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def _send(self, recipient: str, message: Any) -> None:
        self._effects.append(Send(recipient, message))

    def _run(
        self, job: Forward | Probe | Project | BackPropagate | FeedBack | LocalSlopes | TrainLocally | Replay | InstallSnapshot | Introduce
    ) -> None:
        self._busy = True
        self._job_began_s = self._now
        self._effects.append(RunJob(job))

    def validate(self) -> None:
        if self._phase is not JOINING and len(self._unanswered) > self._settings.steps_unanswered_max:
            raise AgentError(f"{self.name}: {len(self._unanswered)} steps unanswered")
        if self._phase in _IN_STEP and self._base_version != self._follower.version:
            raise AgentError(f"{self.name}: the log moved from {self._base_version} to {self._follower.version} within step {self._step}")
        try:
            self._follower.validate()
        except LogError as problem:
            raise AgentError(f"{self.name}: {problem}") from problem


_RECEIVERS: dict[type, Callable[[EdgeClient, Any], None]] = {
    DualVariable: EdgeClient._on_dual_variable,
    DualRefused: EdgeClient._on_dual_refused,
    Welcome: EdgeClient._on_welcome,
    JoinRefused: EdgeClient._on_join_refused,
    Accepted: EdgeClient._on_accepted,
    Refused: EdgeClient._on_refused,
    Granted: EdgeClient._on_granted,
    LogPage: EdgeClient._on_log_page,
    Snapshot: EdgeClient._on_snapshot,
    DigestDiffers: EdgeClient._on_digest_differs,
    HeadAnnounced: EdgeClient._on_head_announced,
}

_RESULTS: dict[type, Callable[[EdgeClient, Any], None]] = {
    ForwardDone: EdgeClient._on_forward,
    ProbeDone: EdgeClient._on_probed,
    Projected: EdgeClient._on_estimated,
    GradientDone: EdgeClient._on_estimated,
    Replayed: EdgeClient._on_replayed,
    Introduced: EdgeClient._on_introduced,
}
