"""The aggregator: admits projected gradients, commits log entries, serves the log, and knows when the run is over.

Theory. The log is the only truth about the client half; a client step is in it exactly once or never. Three rules suffice:

* *Admission is idempotent.* The answer to every recent step is remembered per client (and rebuilt from the log after a restart), so
  a repeated message changes nothing and gets the first answer. A step older than the remembered window is superseded, never added.
* *Acceptance follows durability.* ``Accepted`` is sent after ``Persist`` of the entry that holds the step. A contribution that waits
  in the buffer is promised nothing: if the aggregator dies, its client sends it again.
* *An incarnation is granted, not claimed.* Each boot of a client joins and is granted the next number; steps of an older one are fenced.

One device has at most its share of an entry; beyond it a contribution is neither answered nor remembered, and comes again.
A deadline commits a buffer that does not fill, so dropouts never stall the system. Nothing here costs O(clients) per commit.
The run is over when all its client steps are in the log, or earlier when the split server reports its target accuracy: what waits in the
buffer is committed, the report made durable, and only then does anybody hear of the end.

Conservation, checked by ``validate``: received = accepted + duplicate + stale + fenced + superseded + malformed + late + impostor
+ over_share + waiting in the buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal

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
from hosfl_async.agents.clipping import Clipping
from hosfl_async.agents.membership import SUPERSEDED, UNKNOWN, Member, Membership
from hosfl_async.agents.own_half import OwnHalf
from hosfl_async.agents.participation import participation_weight
from hosfl_async.agents.settings import DENSE, AggregatorSettings
from hosfl_async.agents.staleness import staleness_weight
from hosfl_async.agents.trust import Sighting, Trust
from hosfl_async.agents.turnstile import COUNTS, Turnstile, Wish
from hosfl_async.agents.update_buffer import Contribution, UpdateBuffer
from hosfl_async.agents.update_log import UpdateLog
from hosfl_async.errors import AgentError
from hosfl_async.jobs import Introduce, Introduced
from hosfl_async.messages import (
    AGGREGATOR,
    CLIENTS,
    SPLIT_SERVER,
    Accepted,
    CatchUp,
    Checkpoint,
    ClientGradient,
    ClientJoined,
    Contributed,
    DigestDiffers,
    EntryCommitted,
    Granted,
    HeadAnnounced,
    Join,
    JoinRefused,
    LogPage,
    ProjectedGradients,
    Refused,
    StepId,
    StepWanted,
    TargetMet,
    TargetReached,
    Welcome,
)
from hosfl_async.scaling import clipped, declined

Refusal = Literal["stale", "fenced", "superseded", "malformed", "finished"]
_REFUSALS = ("stale", "fenced", "superseded", "malformed", "late")


class Aggregator:
    """Sans-IO state machine; see the module's text. Its learner holds a copy of the client half for snapshots and digests."""

    def __init__(self, settings: AggregatorSettings, name: str = AGGREGATOR) -> None:
        self.name = name
        self.counts: dict[str, int] = dict.fromkeys(
            ("received", "accepted", "duplicate", *_REFUSALS, "impostor", "over_share", "early", "joined", "join_refused", "strangers",
             "by_deadline", "digests_compared", "digests_differ", "pages", "snapshots", "peers_gone", "clipped", "distrusted", "held",
             "trust_lost", "trust_regained", "wishes_fenced",
             "targets_refused", *COUNTS), 0,
        )  # fmt: skip
        self.log = UpdateLog()
        self.confirmed: set[str] = set()
        """Peers whose digest at the final head was compared with ours and is equal."""
        self._settings = settings
        self._buffer = UpdateBuffer(settings)
        self._members = Membership(clients_max=settings.clients_max, window=settings.answers_remembered_max)
        self._own_half = OwnHalf(settings, self.log)
        self._clipping = Clipping(settings.clipping)
        self._trust = Trust(settings.trust)
        self._turnstile = Turnstile(settings, self.counts, member=self._present, members=self._members.__len__)
        self._limited = self._turnstile.places_max > 0
        """Whether there are places at all: without a limit nobody takes one, and nothing need be given back."""
        self._watching_places = False
        self._gone: set[str] = set()
        self._awaited: set[str] | None = None
        self._early: dict[str, Join] = {}
        self._introduced: Introduced | None = None
        self._busy = False
        self.steps_in_log = 0
        self.over = False
        """The run has all its client steps, or what it trains for."""
        self._accuracy_met = 0.0
        """The highest accuracy for which a run was ended, if any."""
        self._farewells = 0
        self._now = 0.0
        self._effects: list[Effect] = []
        self._receivers: dict[type, Callable[[str, Any], None]] = {
            Join: self._on_join,
            ProjectedGradients: self._on_contributed,
            ClientGradient: self._on_contributed,
            CatchUp: self._on_catch_up,
            StepWanted: self._on_step_wanted,
            TargetReached: self._on_target_reached,
        }

    # -- what others may read -----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Contributions in the buffer."""
        return len(self._buffer)

    @property
    def target_met(self) -> bool:
        """The split server has reported the accuracy at which this run ends."""
        return self._settings.stop_at_accuracy > 0 and self._accuracy_met >= self._settings.stop_at_accuracy

    @property
    def final_digest(self) -> bytes | None:
        """Digest of the client half at the final head, once known."""
        return self._own_half.digest(self.log.head) if self.over else None

    @property
    def finished(self) -> bool:
        """Over, and confirmed by every peer that is still there, or announced often enough."""
        if self._awaited is None or self.final_digest is None:
            return False
        return not self._awaited or self._farewells > self._settings.farewells_max

    # -- events -------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        self._now = now
        self._effects = []
        if type(event) is Received:  # the frequent ones first
            if event.sender in self._gone:
                self._note_present(event.sender)
            self._receivers[type(event.message)](event.sender, event.message)
        elif type(event) is JobDone:
            self._on_job_done(event.result)
        else:
            self._on_rare(event)
        return self._effects

    def _on_rare(self, event: Event) -> None:
        match event:
            case TimerFired(name):
                self._on_timer(name)
            case PeerGone(name):
                self.counts["peers_gone"] += 1
                self._gone.add(name)
                if self._awaited is not None:
                    self._awaited.discard(name)
                self._grant(self._turnstile.forget(name, self._now))
            case Started(_, records):
                self._restore(records)
                self._run(Introduce())
            case JobFailed(job, reason):
                raise AgentError(f"{self.name}: {type(job).__name__} failed: {reason}")
            case Stopping():
                pass

    def _note_present(self, sender: str) -> None:
        """Whoever was reported gone and speaks again is waited for again."""
        self._gone.discard(sender)
        if sender in self._members or sender == SPLIT_SERVER:
            self._await_confirmation(sender)

    def _restore(self, records: tuple[Any, ...]) -> None:
        """Rebuild log, members and answers from what was made durable."""
        for record in records:
            if isinstance(record, ClientJoined):
                self._members.grant(record.client, record.boot, record.incarnation)
                continue
            if isinstance(record, TargetMet):
                self._note_progress(accuracy=record.accuracy)
                continue
            self.log.restore(record.entry)
            self._note_progress(len(record.entry.terms))
            for term in record.entry.terms:
                self._remember(term.step, record.entry.version)

    def _note_progress(self, steps: int = 0, accuracy: float = 0.0) -> None:
        """So many more steps are in the log, or the target was met."""
        self.steps_in_log += steps
        self._accuracy_met = max(self._accuracy_met, accuracy)
        settings = self._settings
        self.over = self.steps_in_log >= settings.client_steps or self.target_met
        done = min(self.steps_in_log / settings.client_steps, 1.0)
        self._buffer.learning_rate = declined(settings.learning_rate, settings.learning_rate_final_share, done)

    def _remember(self, step: StepId, version: int) -> None:
        """``step`` is in the log."""
        member = self._members.credit(step.client)
        if member is not None and member.incarnation == step.incarnation:
            member.remember(step.number, version)

    # -- joining ------------------------------------------------------------------------------------------

    def _on_join(self, sender: str, join: Join) -> None:
        if self._introduced is None:
            if sender in self._early or len(self._early) < self._settings.clients_max:
                self._early[sender] = join  # answered as soon as our own golden replay is done
            else:
                self.counts["join_refused"] += 1
            return
        member = self._members.get(sender)
        if member is not None and member.boot == join.boot:
            self._welcome(sender, member)
        elif reason := self._members.refusal(sender, join, self._introduced):
            self.counts["join_refused"] += 1
            self._send(sender, JoinRefused(join.boot, reason))
        else:
            incarnation = self._members.next_incarnation(sender)
            self._effects.append(Persist(ClientJoined(sender, join.boot, incarnation)))
            self.counts["joined"] += 1
            self._grant(self._turnstile.forget(sender, self._now))
            self._welcome(sender, self._members.grant(sender, join.boot, incarnation))

    def _welcome(self, client: str, member: Member) -> None:
        self._await_confirmation(client)
        self._send(client, Welcome(member.boot, member.incarnation, self.log.head, self.over))

    # -- admission ----------------------------------------------------------------------------------------

    def _on_contributed(self, sender: str, message: Contributed) -> None:
        if isinstance(message, ClientGradient) and self._introduced is None:
            self.counts["early"] += 1  # just restarted: how long a gradient must be is not known yet, and it comes again by itself
            return
        self.counts["received"] += 1
        step = message.step
        member = self._members.of(sender, step.incarnation)
        if step.client != sender:
            self.counts["impostor"] += 1
        elif member is None:
            self._refuse(sender, message, "fenced")
        elif (fate := member.fate(step.number)) is SUPERSEDED:
            self._refuse(sender, message, "superseded")
        elif fate is not UNKNOWN:
            self.counts["duplicate"] += 1
            self._answer_again(sender, message, member.answers[step.number])
        elif self.over:
            self._refuse(sender, message, "finished")
        elif self._buffer.has_share(sender):
            # a buffer that holds anything has a deadline: there is room again by then, and the message comes again by itself
            self.counts["over_share"] += 1
        else:
            self._admit(sender, message, member)

    def _admit(self, sender: str, message: Contributed, member: Member) -> None:
        staleness = self.log.head - message.base_version
        weight = staleness_weight(staleness, self._settings.staleness) if staleness >= 0 else 1.0
        too_stale = weight == 0.0
        weight *= self._participation(member)
        scalars, gradient = self._contents(message)
        trusted, held = self._trust.trusts(sender), bool(scalars) and self._clipping.holds
        if held or not trusted:
            weight = 0.0
        contribution = Contribution(message.step, message.base_version, scalars, staleness, weight, gradient)
        problem = "stale" if too_stale else self._try_add(contribution)
        member.remember(message.step.number, problem)
        if self._limited:
            step_s = self._turnstile.contributed(message.step, self._now, admitted=problem is None)
            member.step_s = member.step_s if step_s is None else step_s
        if problem:
            self._refuse(sender, message, problem)
        else:
            self.counts["distrusted"] += not trusted
            self.counts["held"] += held
            self._take(contribution)
        if self._limited:
            self._grant(self._turnstile.fill(self._now))

    def _participation(self, member: Member) -> float:
        """See ``participation``: this step counts as if it were in the log already."""
        if self._settings.participation.rule == "any":
            return 1.0
        contributors = self._members.contributors + (member.accepted == 0)
        return participation_weight(member.accepted + 1, (self.steps_in_log + 1) / contributors, self._settings.participation)

    def _contents(self, message: Contributed) -> tuple[tuple[float, ...], bytes]:
        """The scalars, clipped, and the gradient of a contribution, one of them empty."""
        if isinstance(message, ClientGradient):
            return (), message.gradient.data
        bound = self._clipping.bound
        if bound == inf:
            return message.projected_gradients, b""
        scalars = clipped(message.projected_gradients, bound)
        if scalars == message.projected_gradients:
            return scalars, b""
        self.counts["clipped"] += 1
        self._effects.append(Record("clipped", {"bound": bound}, message.step))
        return scalars, b""

    def _take(self, contribution: Contribution) -> None:
        """It is in the buffer: commit if that is full."""
        values = {"staleness_versions": float(contribution.staleness), "weight": contribution.weight}
        self._effects.append(Record("admitted", values, contribution.step))
        if self._buffer.full or self.steps_in_log + len(self._buffer) >= self._settings.client_steps:
            self._commit(by_deadline=False)
        elif len(self._buffer) == 1:
            self._effects.append(SetTimer("deadline", self._settings.buffer_deadline_s))

    def _try_add(self, contribution: Contribution) -> Literal["malformed"] | None:
        """Put it into the buffer, or say why not."""
        if contribution.staleness < 0 or not self._well_formed(contribution):
            return "malformed"
        try:
            self._buffer.add(contribution)
        except OverflowError:
            return "malformed"
        return None

    def _well_formed(self, contribution: Contribution) -> bool:
        """P scalars, or a gradient as long as theta_c, whichever this run's estimator gives."""
        if self._settings.estimator not in DENSE:
            return not contribution.gradient and len(contribution.projected_gradients) == self._settings.probes
        parameters = self._introduced.parameters if self._introduced else 0
        return not contribution.projected_gradients and len(contribution.gradient) == 4 * parameters > 0

    def _refuse(self, sender: str, message: Contributed, reason: Refusal) -> None:
        self.counts["late" if reason == "finished" else reason] += 1
        self._answer_again(sender, message, reason)

    def _answer_again(self, sender: str, message: Contributed, answer: int | Refusal | None) -> None:
        if isinstance(answer, int):
            self._send(sender, Accepted(message.step, answer, self.log.head, self.over))
        elif answer is not None:
            self._send(sender, Refused(message.step, answer, self.log.head, self.over))

    def _commit(self, *, by_deadline: bool) -> None:
        """One entry: durable first, answers second."""
        contributions, terms = self._buffer.drain()
        entry = self.log.append(terms)
        for one in contributions:
            self._clipping.learn(one.step.client, one.projected_gradients)
        if self._settings.trust.rule != "none":
            self._judge_devices(contributions)
        self.counts["accepted"] += len(terms)
        self._note_progress(len(terms))
        self.counts["by_deadline"] += by_deadline
        self._effects.append(Persist(EntryCommitted(entry)))
        self._effects.append(SetTimer("deadline", None))
        values = {
            "version": float(entry.version),
            "client_steps": float(self.steps_in_log),
            "contributions": float(len(terms)),
            "staleness_mean_versions": sum(one.staleness for one in contributions) / len(contributions),
            "by_deadline": float(by_deadline),
        }
        self._effects.append(Record("commit", values))
        for term in terms:
            step = term.step
            self._remember(step, entry.version)
            self._effects.append(Send(step.client, Accepted(step, entry.version, entry.version, self.over)))
        every = self._settings.evaluate_every_versions
        if every and entry.version % every == 0 and not self.over:
            self._send(SPLIT_SERVER, HeadAnnounced(entry.version, False))
        if self.over:
            self._announce_end()
        else:
            self._grant(self._turnstile.next_cohort(self._now))
        self._advance()

    def _judge_devices(self, contributions: list[Contribution]) -> None:
        """What the entry says about whom to trust; whoever lost trust by it, or won it back, stands in the journal."""
        for turn in self._trust.learn([Sighting(one.step.client, one.base_version, one.projected_gradients) for one in contributions]):
            name = "trust_regained" if turn.trusted else "trust_lost"
            self.counts[name] += 1
            values = {"score": turn.score, "wanted": turn.wanted, "comparisons": float(turn.comparisons)}
            self._effects.append(Record(name, values, turn.device))

    def _announce_end(self) -> None:
        self._send(CLIENTS, HeadAnnounced(self.log.head, True))
        self._say_farewell()

    # -- the target ---------------------------------------------------------------------------------------

    def _on_target_reached(self, sender: str, message: TargetReached) -> None:
        """End the run, once and durably; a repeated report, or one that is no end, changes nothing."""
        target = self._settings.stop_at_accuracy
        if sender != SPLIT_SERVER or not target or message.accuracy < target or message.version > self.log.head:
            self.counts["targets_refused"] += 1
        elif self.over:
            self._send(SPLIT_SERVER, HeadAnnounced(self.log.head, True))
        else:
            self._meet_target(message)

    def _meet_target(self, message: TargetReached) -> None:
        """What waits in the buffer is committed as by a deadline: its clients have paid for it."""
        if len(self._buffer):
            self._commit(by_deadline=True)
        if self.over:
            return
        self._effects.append(Persist(TargetMet(message.version, message.accuracy)))
        self._note_progress(accuracy=message.accuracy)
        self._effects.append(Record("target_met", {"accuracy": message.accuracy, "version": float(self.log.head)}))
        self._announce_end()
        self._advance()

    # -- places in flight ---------------------------------------------------------------------------------

    def _present(self, index: int) -> str | None:
        name = self._members.name(index)
        return None if name in self._gone else name

    def _on_step_wanted(self, sender: str, message: StepWanted) -> None:
        step = message.step
        member = self._members.of(sender, step.incarnation)
        if step.client != sender or sender not in self._members:
            self.counts["strangers"] += 1
        elif member is None:
            self.counts["wishes_fenced"] += 1
            self._send(sender, Refused(step, "fenced", self.log.head, self.over))
        elif not self._compare(sender, message.checkpoint):
            pass
        elif self.over:
            self._serve(sender, message.from_version)
        elif member.fate(step.number) is not UNKNOWN:
            self.counts["wishes"] += 1
            self.counts["wishes_late"] += 1
        else:
            rank = {"balanced": float(member.accepted), "fastest_first": member.step_s}.get(self._settings.selection, 0.0)
            self._grant(self._turnstile.wish(Wish(step, message.from_version, rank), self._now))

    def _grant(self, wishes: list[Wish]) -> None:
        """Tell each client that it may begin, after what it lacks of the log."""
        for wish in [] if self.over else wishes:
            if wish.from_version < self.log.head:
                self._serve(wish.step.client, wish.from_version)
            self._send(wish.step.client, Granted(wish.step, self.log.head))
        if not self._watching_places and (due_s := self._turnstile.next_deadline_s()) is not None:
            self._watching_places = True
            self._effects.append(SetTimer("places", max(due_s - self._now, 1e-3)))

    # -- serving the log ----------------------------------------------------------------------------------

    def _on_catch_up(self, sender: str, message: CatchUp) -> None:
        if sender not in self._members and sender != SPLIT_SERVER:
            self.counts["strangers"] += 1
            return
        if self._compare(sender, message.checkpoint):
            self._serve(sender, message.from_version, prefers_snapshot=message.prefers_snapshot)

    def _compare(self, sender: str, theirs: Checkpoint | None) -> bool:
        """Compare the asker's digest with ours of the same version, if we still have it; False on a split brain."""
        ours = self._own_half.digest(theirs.version) if theirs else None
        if theirs is None or ours is None:
            return True
        self.counts["digests_compared"] += 1
        if theirs.digest != ours:
            self.counts["digests_differ"] += 1
            self._send(sender, DigestDiffers(theirs.version, ours))
            return False
        if self.over and theirs.version == self.log.head:
            self.confirmed.add(sender)
            if self._awaited is not None:
                self._awaited.discard(sender)
        return True

    def _serve(self, sender: str, version: int, *, prefers_snapshot: bool = False) -> None:
        """A snapshot to whom it takes far enough, or who would rather have it and would have half of its way behind it."""
        settings, saves = self._settings, self._own_half.snapshot_version - version
        far = saves >= settings.snapshot_behind_versions or (prefers_snapshot and 0 < self.log.head - version <= 2 * saves)
        if (far or version < self.log.oldest_base) and (snapshot := self._own_half.snapshot_now(self.log.head, over=self.over)):
            self.counts["snapshots"] += 1
            self._send(sender, snapshot)
            return
        entries = self.log.after(version, settings.page_entries_max, settings.page_bytes_max) if version <= self.log.head else ()
        self.counts["pages"] += 1
        self._send(sender, LogPage(version, entries, self.log.head, self._own_half.digest(version), self.over))

    # -- our own copy of the client half ------------------------------------------------------------------

    def _advance(self) -> None:
        if self._busy or self._introduced is None:
            return
        if job := self._own_half.next_job(over=self.over):
            self._run(job)

    def _on_job_done(self, result: Any) -> None:
        self._busy = False
        if isinstance(result, Introduced):
            self._introduced = result
            self._turnstile.key = result.initial
            self._own_half.note_digest(0, result.initial)
            for client, join in self._early.items():
                self._on_join(client, join)
            self._early.clear()
            if self.over:
                self._say_farewell()  # restarted after the end: our peers may not know it yet
        else:
            self._own_half.done(result)
        self._advance()

    # -- time ---------------------------------------------------------------------------------------------

    def _on_timer(self, name: str) -> None:
        if name == "deadline" and len(self._buffer):
            self._commit(by_deadline=True)
        elif name == "farewell":
            self._say_farewell()
        elif name == "places":
            self._watching_places = False
            self._grant(self._turnstile.expire(self._now))

    def _say_farewell(self) -> None:
        """The split server has no step of its own that would tell it the end: announce it until it confirms, a bounded number of times."""
        if self._awaited is None:
            self._awaited = {SPLIT_SERVER, *self._members} - self._gone - self.confirmed
        if not self._awaited or self._farewells > self._settings.farewells_max:
            return
        if SPLIT_SERVER in self._awaited:
            self._send(SPLIT_SERVER, HeadAnnounced(self.log.head, True))
        self._effects.append(SetTimer("farewell", pause_s(self._settings.retry, self._farewells, self.name)))
        self._farewells += 1

    def _await_confirmation(self, peer: str) -> None:
        """After the end: wait for one more peer, and announce it again if nobody was left."""
        if self._awaited is None or peer in self.confirmed:
            return
        alone = not self._awaited
        self._awaited.add(peer)
        if alone:
            self._say_farewell()

    def _send(self, recipient: str, message: Any) -> None:
        self._effects.append(Send(recipient, message))

    def _run(self, job: Any) -> None:
        self._busy = True
        self._effects.append(RunJob(job))

    def validate(self) -> None:
        counts = self.counts
        sorted_out = sum(counts[kind] for kind in ("accepted", "duplicate", *_REFUSALS, "impostor", "over_share"))
        if counts["received"] != sorted_out + len(self._buffer):
            raise AgentError(f"{self.name}: contributions are not conserved: {counts}, {len(self._buffer)} waiting")
        self._turnstile.validate()
        for client in self._members:
            member = self._members.get(client)
            if member is not None and len(member.answers) > member.window:
                raise AgentError(f"{self.name}: {len(member.answers)} answers remembered for {client}, at most {member.window} allowed")
        if self._own_half.version > self.log.head or self.log.oldest_base > self._own_half.snapshot_version:
            raise AgentError(f"{self.name}: our half at {self._own_half.version}, log {self.log.oldest_base}..{self.log.head}")
