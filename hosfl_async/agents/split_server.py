"""The split server: trains its half on smashed data as they arrive, answers with duals, and evaluates along the way.

Theory. A client step trains the server half at most once, whatever the network repeats. A client has one step at the cut at a time
and numbers its steps upwards, so per client the highest number seen tells new from repeated; a bounded memory of the latest answers
serves the repetitions. What has fallen out of it is *forgotten*: the client gives the step up, and nothing is trained twice.

Policy ``eager`` sends the dual of the very backward pass that trained. Policy ``fresh`` trains on arrival and evaluates the dual of the
remembered activations anew, at the server half of that moment, when the client has finished its perturbed forwards.

An evaluation that reaches ``stop_at_accuracy`` is reported to the aggregator, which alone ends runs. The report is repeated until the end
is heard of, a bounded number of times, and again after the next such evaluation.

The server follows the update log like a client, so that it can evaluate the whole model; it pulls only when an evaluation is due.

With ``checkpoint_every_steps`` half, optimiser and the journal of steps that trained them become durable together, in one record. A
restarted server goes on from the last one: what came after is lost together with its steps, which are trained if they come again; what came
before is never trained twice, since the journal says so.

It has no step of its own that would tell it the end of the run, and the announcement may be lost. So a server that has received nothing
for a while asks for the log, ever more rarely and a bounded number of times: silence may mean that the run is over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

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
from hosfl_async.agents.backoff import pause_s
from hosfl_async.agents.cut_queue import CutJob, CutQueue
from hosfl_async.agents.cut_step import ASKED, EVALUATING, FORGOTTEN, TRAINED, CutStep
from hosfl_async.agents.device_share import DeviceShare
from hosfl_async.agents.settings import SplitServerSettings
from hosfl_async.agents.staleness import staleness_weight
from hosfl_async.agents.update_log import LogFollower
from hosfl_async.errors import AgentError, LogError
from hosfl_async.jobs import (
    Backward,
    BackwardDone,
    BackwardsDone,
    BackwardTogether,
    Estimate,
    Evaluate,
    Evaluated,
    EvaluateDual,
    InstallSnapshot,
    Replay,
    Replayed,
    RestoreServerState,
    ServerStateTaken,
    TakeServerState,
)
from hosfl_async.messages import (
    AGGREGATOR,
    SPLIT_SERVER,
    Checkpoint,
    DigestDiffers,
    DualRefused,
    DualRequest,
    DualVariable,
    HeadAnnounced,
    LogPage,
    NamedTensor,
    ServerCheckpoint,
    SmashedData,
    Snapshot,
    StepId,
    TargetReached,
)


class SplitServer:
    """Sans-IO state machine; see the module's text. Its learner holds the server half, and a copy of the client half to evaluate."""

    def __init__(self, settings: SplitServerSettings, name: str = SPLIT_SERVER) -> None:
        self.name = name
        self.counts: dict[str, int] = dict.fromkeys(
            ("received", "trained", "duplicate", "busy", "forgotten", "malformed", "late", "impostor", "duals_sent", "duals_evaluated",
             "evictions", "evaluations", "micro_batches", "taken_apart", "retried", "log_refused", "peers_gone", "silences",
             "checkpoints", "targets_reported", "over_share"), 0,
        )  # fmt: skip
        self.server_steps = 0
        self.broken = ""
        """Why this server stopped for good, if it did."""
        self._settings = settings
        self._follower = LogFollower(settings.digest_every_versions)
        self._newest_step: dict[str, StepId] = {}
        self._trained_step: dict[str, StepId] = {}
        """Each client's latest step that is in the server half: the journal. Kept only if there are checkpoints."""
        self._steps_restored = 0
        self._steps_kept = 0
        """Server steps of this life's beginning, and of the latest checkpoint."""
        self._newest_base = 0
        self._memory: OrderedDict[StepId, CutStep] = OrderedDict()
        self._queue = CutQueue(settings)
        self._shares = DeviceShare(settings.device_share_max, settings.device_share_window)
        self._gathering = False
        """The timer of a micro-batch that waits for company is set."""
        self._now = 0.0
        self._busy = False
        self._evaluation_due = True  # the first point of every curve is the untrained model
        self._target: int | None = None
        self._evaluated_last = False
        self._evaluated_version = 0
        self._asking = False
        self._attempts = 0
        self._reached: TargetReached | None = None
        """The target was met, and nobody has said yet that the run is over."""
        self._reports = 0
        self._silences = 0
        """Watches in a row in which no smashed data arrived."""
        self._received_before = 0
        self._watching = False
        self._effects: list[Effect] = []
        self._receivers: dict[type, Callable[[str, Any], None]] = {
            SmashedData: self._on_smashed_data,
            DualRequest: self._on_dual_request,
            LogPage: self._on_log_page,
            Snapshot: self._on_snapshot,
            DigestDiffers: self._on_digest_differs,
            HeadAnnounced: self._on_head_announced,
        }

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The latest digest of its own client half."""
        return self._follower.checkpoint

    @property
    def waiting(self) -> int:
        """Activations in the queue."""
        return len(self._queue)

    @property
    def finished(self) -> bool:
        return bool(self.broken) or (self._evaluated_last and self._follower.confirmed)

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._now = now
        self._effects = []
        if type(event) is Received:  # the frequent ones first
            self._receivers[type(event.message)](event.sender, event.message)
        elif type(event) is JobDone:
            self._on_job_done(event.job, event.result)
        else:
            self._on_rare(event)
        if not self.finished:
            self._advance()
        elif self._watching:
            self._watching = False
            self._effects.append(SetTimer("silence", None))
        return self._effects

    def _on_rare(self, event: Event) -> None:
        match event:
            case TimerFired("catch_up"):
                self._asking = False
                self.counts["retried"] += 1
                if self._silences and self._attempts <= self._settings.retry.attempts_max:
                    self._ask()  # the question of a silence is repeated, too: the next silence is twice as far
            case JobFailed(job, reason):
                self._on_job_failed(job, reason)
            case PeerGone(_):
                self.counts["peers_gone"] += 1
            case Started(_, records):
                self._restore(records)
                self._watch_for_silence()
            case TimerFired("target"):
                self._report_target()
            case TimerFired("silence"):
                self._on_silence()
            case TimerFired("micro_batch"):
                self._gathering = False
                self._queue.ripen()
            case TimerFired() | Stopping():
                pass

    # -- what outlives a crash ----------------------------------------------------------------------------

    def _restore(self, records: tuple[Any, ...]) -> None:
        """Go on from the latest checkpoint."""
        if not records:
            return
        kept: ServerCheckpoint = records[-1]
        self.server_steps = self._steps_restored = self._steps_kept = kept.server_steps
        self._newest_base = kept.newest_base
        self._newest_step = {step.client: step for step in kept.steps}
        self._trained_step = dict(self._newest_step)
        for answer in kept.answers[-self._settings.answers_remembered_max :]:
            self._memory[answer.step] = CutStep(None, answer)
        self._busy = True
        self._effects.append(RunJob(RestoreServerState(kept.state)))

    def _checkpoint_is_due(self) -> bool:
        every = self._settings.checkpoint_every_steps
        since = self.server_steps - self._steps_kept
        return every > 0 and since > 0 and (since >= every or self._follower.finished)

    def _on_state_taken(self, result: ServerStateTaken) -> None:
        """Nothing was trained since the job began, so journal and state belong together."""
        self.counts["checkpoints"] += 1
        self._steps_kept = self.server_steps
        self._effects.append(Persist(self.checkpoint_with(result.state)))
        self._effects.append(Record("checkpoint", {"server_steps": float(self.server_steps)}))

    def checkpoint_with(self, state: tuple[NamedTensor, ...]) -> ServerCheckpoint:
        """What a server needs to go on from here; ``state`` is its learner's, as it is now."""
        steps = tuple(self._trained_step.values())
        return ServerCheckpoint(self.server_steps, self._newest_base, steps, self._answers_to_keep(), state)

    def _answers_to_keep(self) -> tuple[DualVariable, ...]:
        room, answers = self._settings.checkpoint_answers_bytes_max, []
        for remembered in reversed(self._memory.values()):
            if isinstance(remembered.answer, DualVariable):
                room -= remembered.answer.dual.bytes_sent
                if room < 0:
                    break
                answers.append(remembered.answer)
        return tuple(reversed(answers))

    # -- the cut ------------------------------------------------------------------------------------------

    def _on_smashed_data(self, sender: str, message: SmashedData) -> None:
        self.counts["received"] += 1
        if self._silences:
            self._silences = 0
            self._watch_for_silence()
        step = message.step
        if step.client != sender:
            self.counts["impostor"] += 1
        elif sender in self._newest_step and step <= self._newest_step[sender]:
            self.counts["duplicate"] += 1
            self._answer_again(sender, step)
        elif self._follower.finished:
            self._refuse(DualRefused(step, "finished"))
        elif self._full(message) or not self._make_room(step):
            self._refuse(DualRefused(step, "busy"))
        else:
            self._newest_step[sender] = step
            self._memory[step] = CutStep(message)
            self._queue.add(self._first_job(message), self._now)

    def _full(self, message: SmashedData) -> bool:
        return self._queue.full(len(message.activations.data))

    def _first_job(self, message: SmashedData) -> CutJob:
        """Train, unless the server's own staleness policy gives these activations no weight, or their device has had its share."""
        self._newest_base = max(self._newest_base, message.base_version)
        weight = staleness_weight(self._newest_base - message.base_version, self._settings.staleness)
        if weight and not self._shares.takes(message.step.client):
            self.counts["over_share"] += 1
            weight = 0.0
        if self._settings.estimator == "server_losses":
            steps = self._settings.steps_per_activation if weight else 0
            return Estimate(message.step, message.activations, message.labels, weight, steps)
        if weight == 0.0:
            return EvaluateDual(message.step, message.activations, message.labels)
        return Backward(message.step, message.activations, message.labels, weight, self._settings.steps_per_activation)

    def _on_dual_request(self, sender: str, message: DualRequest) -> None:
        remembered = self._memory.get(message.step)
        if message.step.client != sender:
            self.counts["impostor"] += 1
        elif remembered is None:
            self._refuse(DualRefused(message.step, "forgotten"))
        elif remembered.answer is not None:
            self.counts["duplicate"] += 1
            self._send(sender, remembered.answer)
        elif self._follower.finished:
            self._refuse(DualRefused(message.step, "finished"))
        elif remembered.phase is TRAINED:
            self._evaluate_dual(message.step, remembered)
        elif remembered.dual_awaits_request:
            remembered.enter(ASKED)
        else:
            self.counts["duplicate"] += 1

    def _evaluate_dual(self, step: StepId, remembered: CutStep) -> None:
        """Policy fresh: once trained on and asked for, and once only. A full queue refuses it as it does smashed data."""
        smashed = remembered.smashed
        assert smashed is not None
        if self._full(smashed):
            self._refuse(DualRefused(step, "busy"))
            return
        remembered.enter(EVALUATING)
        remembered.smashed = None
        self._queue.add(EvaluateDual(step, smashed.activations, smashed.labels), self._now)

    def _answer_again(self, sender: str, step: StepId) -> None:
        remembered = self._memory.get(step)
        if remembered is None:
            self._refuse(DualRefused(step, "forgotten"))
        elif remembered.answer is not None:
            self._send(sender, remembered.answer)

    def _make_room(self, step: StepId) -> bool:
        """A client has one step at the cut: whoever begins the next has no use for the answer to the last. Beyond that the oldest step goes
        that does not wait for the learner; False if all of them do: otherwise each would push out another, and nobody got a dual."""
        older = self._newest_step.get(step.client)
        if older is not None and (former := self._memory.pop(older, None)) is not None:
            former.enter(FORGOTTEN)
            return True
        if len(self._memory) >= self._settings.answers_remembered_max:
            oldest = next((known for known, remembered in self._memory.items() if not remembered.at_work), None)
            if oldest is None:
                return False
            self._memory.pop(oldest).enter(FORGOTTEN)
            self.counts["evictions"] += 1
        return True

    def _refuse(self, refused: DualRefused) -> None:
        self.counts["late" if refused.reason == "finished" else refused.reason] += 1
        self._send(refused.step.client, refused)

    def _refuse_for_good(self, refused: DualRefused) -> None:
        """The answer that repetitions will get, too."""
        if remembered := self._memory.get(refused.step):
            remembered.settle(refused)
        self._refuse(refused)

    def _on_trained(self, results: tuple[BackwardDone, ...]) -> None:
        """One step of the server half, on one client's activations or on several's."""
        self.counts["trained"] += len(results)
        self.counts["micro_batches"] += 1
        before, every = self.server_steps, self._settings.evaluate_every_steps
        self.server_steps += self._settings.steps_per_activation
        self._evaluation_due = self._evaluation_due or (every > 0 and before // every != self.server_steps // every)
        for result in results:
            if self._settings.checkpoint_every_steps:
                self._trained_step[result.step.client] = result.step
            self._effects.append(Record("server_step", {"loss": result.loss}, result.step))
            self._on_dual(result)

    def _on_dual(self, result: BackwardDone) -> None:
        remembered = self._memory.get(result.step)
        if remembered is None:
            return  # evicted while it was computed; a repetition will be told so
        if remembered.smashed is not None and not remembered.smashed.dual_wanted:
            asked = remembered.phase is ASKED
            remembered.enter(TRAINED)
            if asked:
                self._evaluate_dual(result.step, remembered)
            return
        answer = DualVariable(result.step, self.server_steps, result.dual)
        remembered.settle(answer)
        self.counts["duals_sent"] += 1
        self._send(result.step.client, answer)

    # -- following the log, to evaluate -------------------------------------------------------------------

    def _on_log_page(self, sender: str, message: LogPage) -> None:
        answered = message.from_version == self._follower.offered  # else it is late or repeated: another answer is under way
        try:
            taken = self._follower.offer_page(message)
        except LogError as problem:
            self.counts["log_refused"] += 1
            self.broken = str(problem)
            return
        if taken or self._follower.confirmed or (answered and not self._evaluated_last):
            self._heard(message.head)
        # else the aggregator has not digested the end yet: the timer asks again, not we at once

    def _on_snapshot(self, sender: str, message: Snapshot) -> None:
        if self._follower.offer_snapshot(message):
            self._heard(message.head)

    def _on_digest_differs(self, sender: str, message: DigestDiffers) -> None:
        self.broken = f"the parameters at version {message.version} differ from the aggregator's"

    def _on_head_announced(self, sender: str, message: HeadAnnounced) -> None:
        self._follower.hear(message.head, message.finished)
        every = self._settings.evaluate_every_versions
        if every and message.head // every > self._evaluated_version // every:
            self._evaluation_due = True

    def _heard(self, head: int) -> None:
        self._asking = False
        self._attempts = 0
        self._effects.append(SetTimer("catch_up", None))
        if self._evaluation_due and self._target is None:
            self._target = head

    def _ask(self) -> None:
        if not self._asking:
            self._asking = True
            self._send(AGGREGATOR, self._follower.request())
            self._effects.append(SetTimer("catch_up", pause_s(self._settings.retry, self._attempts, self.name)))
            self._attempts += 1

    def _watch_for_silence(self) -> None:
        self._watching = True
        self._received_before = self.counts["received"]
        self._effects.append(SetTimer("silence", self._settings.silence_s * 2.0**self._silences))

    def _on_silence(self) -> None:
        """Nothing arrived since the watch began: ask how far the log is, which also tells whether the run is over."""
        self._watching = False
        if self._follower.finished:
            return
        if self.counts["received"] == self._received_before:
            self._silences += 1
            self.counts["silences"] += 1
            self._attempts = 0
            self._ask()
        if self._silences < self._settings.silences_max:
            self._watch_for_silence()

    # -- the learner --------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Pick the next job: what an evaluation needs, then the cut in order of arrival. The last evaluation ends the training.

        An untrained half is evaluated before it is trained, however late the log that this needs: all curves begin at the same point."""
        if self._follower.finished and self._queue:
            self._dismiss_queue()
        if self._busy:
            return
        trains = self.server_steps > 0 or self.counts["evaluations"] > 0
        job: Any = TakeServerState() if self._checkpoint_is_due() else self._next_for_evaluation()
        if job or (trains and (job := self._queue.take(self._now))):
            self._busy = True
            self._effects.append(RunJob(job))
            self._gather(False)
        else:
            self._gather(trains)

    def _gather(self, waits: bool) -> None:
        """Set the timer of a micro-batch that waits for company, or cancel it once it went."""
        due_s = self._queue.due_in_s(self._now) if waits else None
        if due_s is not None and not self._gathering:
            self._effects.append(SetTimer("micro_batch", due_s))
        elif due_s is None and self._gathering:
            self._effects.append(SetTimer("micro_batch", None))
        self._gathering = due_s is not None

    def _dismiss_queue(self) -> None:
        for job in self._queue:
            self._refuse_for_good(DualRefused(job.step, "finished"))
        self._queue.clear()
        self._gather(False)

    def _next_for_evaluation(self) -> Replay | InstallSnapshot | Evaluate | None:
        """Replay what was pulled, ask for what lacks, evaluate once the wanted version is reached."""
        follower = self._follower
        if not self._evaluation_due and not follower.finished:
            return None
        if job := follower.job():
            return job
        if self._evaluated_last:
            self._ask()  # until the aggregator confirms the digest at the final head
            return None
        target = follower.head if follower.finished else self._target
        if target is not None and follower.version >= target:
            return Evaluate()
        self._ask()
        return None

    def _on_job_done(self, job: Any, result: Any) -> None:
        self._busy = False
        if isinstance(result, BackwardDone) and (isinstance(job, Backward) or (isinstance(job, Estimate) and job.steps)):
            self._on_trained((result,))
            return
        match result:
            case BackwardsDone(parts):
                self._on_trained(parts)
            case BackwardDone():
                self.counts["duals_evaluated"] += 1
                self._on_dual(result)
            case Replayed():
                self._follower.replayed(result)
            case Evaluated():
                self._on_evaluated(result)
            case ServerStateTaken():
                self._on_state_taken(result)

    def _on_evaluated(self, result: Evaluated) -> None:
        self.counts["evaluations"] += 1
        self._evaluation_due, self._target = False, None
        self._evaluated_version = result.version
        self._evaluated_last = self._follower.finished and result.version == self._follower.head
        values = {
            "accuracy": result.accuracy,
            "loss": result.loss,
            "samples": float(result.samples),
            "version": float(result.version),
            "server_steps": float(self.server_steps),
            "last": float(self._evaluated_last),
        }
        self._effects.append(Record("evaluation", values))
        if self._settings.stop_at_accuracy and result.accuracy >= self._settings.stop_at_accuracy and not self._follower.finished:
            self._reached, self._reports = TargetReached(result.version, result.accuracy), 0
            self._report_target()

    def _report_target(self) -> None:
        """Tell the aggregator, and again after a pause: the report or the end that follows it may be lost."""
        if self._reached is None or self._follower.finished or self._reports > self._settings.retry.attempts_max:
            self._reached = None
            return
        self.counts["targets_reported"] += 1
        self._send(AGGREGATOR, self._reached)
        self._effects.append(SetTimer("target", pause_s(self._settings.retry, self._reports, self.name)))
        self._reports += 1

    def _on_job_failed(self, job: Any, reason: str) -> None:
        """Activations that do not fit are their sender's fault; everything else is ours, and final."""
        self._busy = False
        if isinstance(job, Backward | Estimate | EvaluateDual):
            self._refuse_for_good(DualRefused(job.step, "malformed"))
        elif isinstance(job, BackwardTogether):
            self.counts["taken_apart"] += 1
            self._queue.take_apart(job.parts)
        else:
            self.broken = f"{type(job).__name__} failed: {reason}"

    def _send(self, recipient: str, message: Any) -> None:
        self._effects.append(Send(recipient, message))

    def validate(self) -> None:
        counts = self.counts
        queued_max = self._settings.queue_max + (self._settings.micro_batch_max if counts["taken_apart"] else 0)
        if len(self._memory) > self._settings.answers_remembered_max or len(self._queue) > queued_max:
            raise AgentError(f"{self.name}: a bound is broken: {len(self._memory)} remembered, {len(self._queue)} queued")
        steps = counts["micro_batches"] * self._settings.steps_per_activation
        in_this_life = self.server_steps - self._steps_restored
        if steps != in_this_life or not counts["micro_batches"] <= counts["trained"] <= counts["received"]:
            raise AgentError(f"{self.name}: more steps trained than received: {counts}")
        try:
            self._follower.validate()
        except LogError as problem:
            raise AgentError(f"{self.name}: {problem}") from problem
