"""The three learners: each computes the jobs of one agent. Numbers in, numbers out; no decisions.

A learner checks what it is given (version, shape, order of jobs) and raises ``LearnerError`` with nothing changed, so that an agent can
never make it compute at parameters other than those it believes in. All three follow the update log; the client's learner also holds
the anchor of the step under way, the server's the server half and the held-out data.

===============  ==========================================================================================
job              computed by
===============  ==========================================================================================
Introduce        client, aggregator: golden replay and digest of theta_c(0)
Forward, Probe,  client, in this order for one step; a later Forward replaces the anchor. Probe and Project must find
Project          the anchor's version still held (no entry between anchor and probes: the estimate would be biased)
BackPropagate,   client, instead of Probe and Project: the dense gradient of a first-order client; what the skip connections make
FeedBack         of the dual, by a second forward pass; after a Probe of activities, the dense vector of their slopes
LocalSlopes,     client that holds the whole model, instead of all that: the scalars of its own loss; what local training changes
TrainLocally
Backward,        server: one step with its dual, or one for a micro-batch with theirs; the dual alone; accuracy and loss on
BackwardTogether, held-out data
Estimate,        held-out data; for a server that only runs forward passes, slopes of the loss and its own estimated step
EvaluateDual, Evaluate
TakeServerState,  server: half and optimiser, out and in again
RestoreServerState
Replay,          all: move the client half on along the log, or to a snapshot; copy it out
InstallSnapshot, TakeSnapshot
===============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hosfl_async import jobs
from hosfl_async.errors import LearnerError
from hosfl_async.learning.activity_prober import ActivityProber
from hosfl_async.learning.cut_traffic import CutTraffic, received
from hosfl_async.learning.data import BatchSampler, Dataset
from hosfl_async.learning.first_order import Dual, ServerTrainer, client_gradient
from hosfl_async.learning.forward_pool import ForwardPool
from hosfl_async.learning.golden import joining_proof
from hosfl_async.learning.losses import slopes
from hosfl_async.learning.sequences import as_bytes, from_bytes, lengths_beside, take
from hosfl_async.learning.skip_feedback import Noted, SkipFeedback
from hosfl_async.learning.skip_feedback_causal import CausalSkipFeedback
from hosfl_async.learning.split_model import SplitModel
from hosfl_async.learning.tensors import to_array, to_data, to_torch
from hosfl_async.learning.version_store import VersionStore
from hosfl_async.learning.whole_model import local_delta
from hosfl_async.learning.zeroth_order import Activations, DifferenceMaker, forward, project
from hosfl_async.learning.zeroth_order_server import ZerothOrderTrainer
from hosfl_async.messages import Checkpoint, NamedTensor, StepId


class _Follower:
    """Holds one version of the client half and moves along the update log."""

    __slots__ = ("_held", "_store")

    def __init__(self, store: VersionStore) -> None:
        self._store = store
        self._held = store.hold_initial()

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self._store.release(self._held)

    @property
    def version(self) -> int:
        """Version of the client half that this learner stands at."""
        return self._held.number

    @property
    def theta_c(self) -> NDArray[np.float32]:
        """A copy of the client half's parameters as they stand here."""
        return self._held.theta.copy()

    def digest(self) -> bytes:
        """Digest of the client half as it stands here."""
        return self._store.digest(self._held)

    def run(self, job: Any) -> Any:
        """Compute one job; see ``hosfl_async.jobs`` for what each one gives. Raises ``LearnerError``, having changed nothing."""
        match job:
            case jobs.Replay():
                return self._replay(job)
            case jobs.InstallSnapshot():
                return self._install_snapshot(job)
            case jobs.Introduce():
                proof = joining_proof(self._store.rule.settings, self._store.rule.learning_rate)
                return jobs.Introduced(proof, self._store.initial_digest(), self._store.parameters)
            case _:
                raise LearnerError(f"a {type(self).__name__} does not compute {type(job).__name__}")

    def _replay(self, job: jobs.Replay) -> jobs.Replayed:
        self._held, checkpoints = self._store.advance(self._held, job.entries, job.digest_at)
        return jobs.Replayed(version=self._held.number, checkpoints=checkpoints)

    def _install_snapshot(self, job: jobs.InstallSnapshot) -> jobs.Replayed:
        state = to_array(job.parameters, "float32", (self._held.state.size,), "snapshot")
        if blake2b(job.parameters.data, digest_size=32).digest() != job.digest:
            raise LearnerError(f"the snapshot of version {job.version} does not match its digest")
        self._held = self._store.install(self._held, job.version, state)
        return jobs.Replayed(version=job.version, checkpoints=(Checkpoint(version=job.version, digest=job.digest),))


class AggregatorLearner(_Follower):
    """Follows the log that its agent writes, so as to digest it and to hand out snapshots."""

    __slots__ = ()

    def run(self, job: Any) -> Any:
        match job:
            case jobs.TakeSnapshot():
                return self._take_snapshot(job)
            case _:
                return super().run(job)

    def _take_snapshot(self, job: jobs.TakeSnapshot) -> jobs.SnapshotTaken:
        held = self._held
        return jobs.SnapshotTaken(version=held.number, parameters=to_data(held.state), digest=self._store.digest(held))


@dataclass(frozen=True, slots=True)
class Workbench:
    """What client learners of one thread share: the model's client half, the prober, the training samples."""

    model: SplitModel
    prober: DifferenceMaker
    sampler: BatchSampler
    images: torch.Tensor
    labels: NDArray[np.int64]
    mu: float
    cut: CutTraffic
    activities: Callable[[], ActivityProber]
    """Made when it is first wanted, as is the next."""
    feedback: Callable[[], SkipFeedback | CausalSkipFeedback]
    """Made when it is first wanted: most models have none."""
    shared_directions: bool = False
    """Directions are named by the base version instead of the step."""
    pool: ForwardPool | None = None
    """Computes forward passes of several clients together; the simulator's, where it is wanted."""


@dataclass(slots=True)
class _Anchor:
    """A step under way: its batch, the activations at the cut, and (after the probes) the differences from them."""

    step: StepId
    version: int
    batch: torch.Tensor
    activations: Activations
    labels: NDArray[np.int64]
    differences: Activations | None = None
    moved: Activations | None = None
    """The differences where activities were perturbed."""
    noted: Noted | None = None
    """What the feedback needs of the forward pass."""


class ClientLearner(_Follower):
    """One edge client's numbers. Idle, it is a version, a data shard and a few references."""

    __slots__ = ("_anchor", "_bench", "_shard")

    def __init__(self, store: VersionStore, bench: Workbench, shard: NDArray[np.int64]) -> None:
        super().__init__(store)
        self._bench = bench
        self._shard = shard
        self._anchor: _Anchor | None = None

    @property
    def samples(self) -> int:
        """Training samples that this client owns."""
        return len(self._shard)

    def activations(self, positions: NDArray[np.int64]) -> tuple[Activations, NDArray[np.int64], torch.Tensor | None]:
        """Of these samples at the version held: activations, labels, and lengths where samples are sequences."""
        batch = take(self._bench.images, torch.from_numpy(positions))
        activations = forward(self._bench.model.client, self._held.views, batch)
        return activations, self._bench.labels[positions], lengths_beside(batch)

    def run(self, job: Any) -> Any:
        match job:
            case jobs.Forward():
                return self._forward(job)
            case jobs.Probe():
                return self._probe(job)
            case jobs.Project():
                return self._project(job)
            case jobs.BackPropagate() | jobs.FeedBack():
                return self._gradient(job)
            case jobs.LocalSlopes():
                return self._local_slopes(job)
            case jobs.TrainLocally():
                return self._train_locally(job)
            case _:
                return super().run(job)

    def _forward(self, job: jobs.Forward) -> jobs.ForwardDone:
        bench = self._bench
        if bench.pool is not None and not job.feedback:
            anchor = self._pooled_anchor(bench.pool, job)
        else:
            anchor = self._new_anchor(job.step, job.base_version, job.batch_of, job.feedback)
        sent = anchor.activations
        if job.probes:
            perturbed = anchor.activations + self._differences(anchor, job.probes)
            sent = np.concatenate([sent[None], perturbed]).reshape(-1, *sent.shape[1:])
        lengths = as_bytes(lengths_beside(anchor.batch))
        return jobs.ForwardDone(activations=bench.cut.activations(sent, job.step, lengths), labels=to_data(anchor.labels))

    def _new_anchor(self, step: StepId, base_version: int, batch_of: StepId | None = None, feedback: bool = False) -> _Anchor:
        """The step's batch, and the forward pass to the cut."""
        self._at(step, base_version)
        self._anchor = None
        batch, labels = self._batch(batch_of or step)
        if feedback:
            activations, noted = self._bench.feedback().forward(self._held.views, batch)
        else:
            activations, noted = forward(self._bench.model.client, self._held.views, batch), None
        self._anchor = _Anchor(step, base_version, batch, activations, labels, noted=noted)
        return self._anchor

    def begin(self, job: Any) -> None:
        """The device has begun a job, which ``run`` is asked for when it is due. Only passes that go together need to know."""
        if self._bench.pool is not None and type(job) is jobs.Forward and not job.feedback and job.base_version == self._held.number:
            self._bench.pool.begin(self, job)

    def batch_of(self, job: jobs.Forward) -> tuple[torch.Tensor, NDArray[np.int64]]:
        """The samples and labels of a forward pass."""
        return self._batch(job.batch_of or job.step)

    def _pooled_anchor(self, pool: ForwardPool, job: jobs.Forward) -> _Anchor:
        self._at(job.step, job.base_version)
        self._anchor = None
        (batch, labels), activations = pool.forward(self, job, self._held.views)
        self._anchor = _Anchor(job.step, job.base_version, batch, activations, labels)
        return self._anchor

    def _at(self, step: StepId, version: int) -> None:
        if version != self._held.number:
            raise LearnerError(f"step {step}: forward wanted at version {version}, the learner is at {self._held.number}")

    def _batch(self, step: StepId, local: int = 0) -> tuple[torch.Tensor, NDArray[np.int64]]:
        chosen = self._shard[self._bench.sampler.draw(step, len(self._shard), local)]
        return take(self._bench.images, torch.from_numpy(chosen)), self._bench.labels[chosen]

    def _differences(self, anchor: _Anchor, probes: int) -> Activations:
        probe = self._bench.prober.differences
        base_version = anchor.version if self._bench.shared_directions else None
        return probe(self._held.theta, self._held.views, anchor.batch, anchor.activations, anchor.step, probes, base_version)

    def _local_slopes(self, job: jobs.LocalSlopes) -> jobs.Projected:
        anchor = self._new_anchor(job.step, job.base_version)
        differences = self._differences(anchor, job.probes)
        found = slopes(anchor.activations, (anchor.activations + each for each in differences), anchor.labels, self._bench.mu)
        self._anchor = None
        if not np.isfinite(found).all():
            raise LearnerError(f"step {job.step}: a slope of the loss is not finite")
        return jobs.Projected(step=job.step, projected_gradients=found)

    def _train_locally(self, job: jobs.TrainLocally) -> jobs.GradientDone:
        self._at(job.step, job.base_version)
        drawn = (self._batch(job.step, local) for local in range(job.steps))
        batches = ((batch, torch.from_numpy(labels)) for batch, labels in drawn)
        delta = local_delta(self._bench.model.client, self._held.theta, batches, job.learning_rate)
        return jobs.GradientDone(step=job.step, gradient=to_data(delta))

    def _probe(self, job: jobs.Probe) -> jobs.ProbeDone:
        anchor = self._anchored(job.step)
        if anchor.version != self._held.number:
            raise LearnerError(f"step {job.step}: anchored at version {anchor.version}, probes wanted at {self._held.number}")
        if job.activities:
            prober, views = self._bench.activities(), self._held.views
            anchor.moved = prober.differences(views, anchor.batch, anchor.activations, job.step, job.probes)
        else:
            anchor.differences = self._differences(anchor, job.probes)
        return jobs.ProbeDone(step=job.step)

    def _project(self, job: jobs.Project) -> jobs.Projected:
        anchor = self._anchored(job.step)
        if anchor.differences is None:
            raise LearnerError(f"step {job.step}: projection wanted before the probes")
        dual = received(job.dual, anchor.activations.shape, f"dual of step {job.step}")
        projected = project(anchor.differences, dual, self._bench.mu)
        self._anchor = None
        if not np.isfinite(projected).all():
            raise LearnerError(f"step {job.step}: a projected gradient is not finite")
        return jobs.Projected(step=job.step, projected_gradients=projected)

    def _gradient(self, job: jobs.BackPropagate | jobs.FeedBack) -> jobs.GradientDone:
        anchor = self._anchored(job.step)
        if anchor.version != self._held.number:
            raise LearnerError(f"step {job.step}: anchored at version {anchor.version}, gradient wanted at {self._held.number}")
        dual = received(job.dual, anchor.activations.shape, f"dual of step {job.step}")
        if isinstance(job, jobs.BackPropagate):
            gradient = client_gradient(self._bench.model.client, self._held.views, anchor.batch, to_torch(dual))
        elif anchor.moved is not None:
            prober, views = self._bench.activities(), self._held.views
            gradient = prober.gradient(views, anchor.batch, dual, anchor.moved, job.step)
        elif anchor.noted is None:
            raise LearnerError(f"step {job.step}: feedback wanted, and its forward pass noted nothing for it")
        else:
            gradient = self._bench.feedback().gradient(self._held.views, anchor.batch, to_torch(dual), anchor.noted)
        self._anchor = None
        if not np.isfinite(gradient).all():
            raise LearnerError(f"step {job.step}: the gradient is not finite")
        return jobs.GradientDone(step=job.step, gradient=to_data(gradient))

    def _anchored(self, step: StepId) -> _Anchor:
        if self._anchor is None or self._anchor.step != step:
            raise LearnerError(f"step {step} is not anchored here (anchored: {self._anchor.step if self._anchor else 'none'})")
        return self._anchor


class ServerLearner(_Follower):
    """The split server's numbers: the server half with its optimiser, and a follower's client half for evaluation."""

    __slots__ = ("_cut", "_data", "_evaluation_batch", "_forward_only", "_model", "_trainer")

    def __init__(
        self,
        store: VersionStore,
        model: SplitModel,
        trainer: ServerTrainer,
        cut: CutTraffic,
        data: Dataset,
        evaluation_batch: int,
        forward_only: Callable[[], ZerothOrderTrainer],
    ) -> None:
        """``forward_only`` makes what moves the server half without back-propagation, if a job asks for it."""
        super().__init__(store)
        self._forward_only = cache(forward_only)
        self._cut = cut
        self._model = model
        self._trainer = trainer
        self._data = data
        self._evaluation_batch = evaluation_batch

    @property
    def theta_s(self) -> NDArray[np.float32]:
        """A copy of the server half's parameters."""
        return self._trainer.theta.copy()

    def correct(self, activations: Activations, labels: NDArray[np.int64], lengths: torch.Tensor | None) -> int:
        """How many of these samples are classified as their labels say; changes nothing."""
        return self._trainer.evaluate(torch.from_numpy(activations), torch.from_numpy(labels), lengths=lengths)[0]

    def run(self, job: Any) -> Any:
        match job:
            case jobs.Backward():
                return self._backward(job)
            case jobs.BackwardTogether():
                return self._backward_together(job)
            case jobs.Estimate():
                return self._estimate(job)
            case jobs.EvaluateDual():
                return self._evaluate_dual(job)
            case jobs.Evaluate():
                return self._evaluate(job)
            case jobs.TakeServerState():
                return jobs.ServerStateTaken(tuple(NamedTensor(name, to_data(array)) for name, array in self._trainer.state().items()))
            case jobs.RestoreServerState():
                self._restore(job.state)
                return jobs.ServerStateRestored()
            case _:
                return super().run(job)

    def _backward(self, job: jobs.Backward) -> jobs.BackwardDone:
        activations, labels, lengths = self._received(job)
        return self._answer(job, self._trainer.backward(activations, labels, job.weight, job.steps, lengths=lengths))

    def _backward_together(self, job: jobs.BackwardTogether) -> jobs.BackwardsDone:
        received = [self._received(part) for part in job.parts]
        parts = [(*given[:2], part.weight, given[2]) for part, given in zip(job.parts, received, strict=True)]
        answers = self._trainer.backward_together(parts, job.parts[0].steps)
        return jobs.BackwardsDone(tuple(self._answer(part, answer) for part, answer in zip(job.parts, answers, strict=True)))

    def _estimate(self, job: jobs.Estimate) -> jobs.BackwardDone:
        activations = received(job.activations, (None, *self._model.cut_shape), f"activations of step {job.step}")
        lengths = self._lengths(job)
        labels = self._known_labels(job, (job.labels.shape[0] if job.labels.shape else 0) if lengths is None else len(lengths))
        rows = len(labels) if lengths is None else int(lengths.sum())
        if len(activations) < 2 * rows or len(activations) % rows:
            raise LearnerError(f"activations of step {job.step}: expected those of perturbed forwards beside the anchor's, batch by batch")
        found, loss = self._forward_only().estimate(to_torch(activations), labels, job.step, job.weight, job.steps, lengths=lengths)
        return jobs.BackwardDone(step=job.step, dual=to_data(np.array(found, np.float32)), loss=loss)

    def _evaluate_dual(self, job: jobs.EvaluateDual) -> jobs.BackwardDone:
        activations, labels, lengths = self._received(job)
        return self._answer(job, self._trainer.evaluate_dual(activations, labels, lengths=lengths))

    def _evaluate(self, job: jobs.Evaluate) -> jobs.Evaluated:
        images, labels, size = torch.from_numpy(self._data.test_images), torch.from_numpy(self._data.test_labels), self._evaluation_batch
        correct, loss = 0, 0.0
        for begin in range(0, len(labels), size):
            batch = take(images, slice(begin, begin + size))
            activations = torch.from_numpy(forward(self._model.client, self._held.views, batch))
            hits, batch_loss = self._trainer.evaluate(activations, labels[begin : begin + size], lengths=lengths_beside(batch))
            correct, loss = correct + hits, loss + batch_loss
        samples = len(labels)
        return jobs.Evaluated(version=self._held.number, accuracy=correct / samples, loss=loss / samples, samples=samples)

    def _restore(self, state: tuple[NamedTensor, ...]) -> None:
        arrays = {}
        for name, tensor in ((named.name, named.tensor) for named in state):
            arrays[name] = to_array(tensor, "int64" if tensor.dtype == "int64" else "float32", (None,), f"{name} of the checkpoint")
        self._trainer.restore(arrays)

    def _received(self, job: jobs.Backward | jobs.EvaluateDual) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        activations = received(job.activations, (None, *self._model.cut_shape), f"activations of step {job.step}")
        lengths = self._lengths(job)
        if lengths is not None and int(lengths.sum()) != len(activations):
            raise LearnerError(f"activations of step {job.step}: {int(lengths.sum())} tokens in all, but {len(activations)} rows")
        return to_torch(activations), self._known_labels(job, len(activations if lengths is None else lengths)), lengths

    def _known_labels(self, job: jobs.Backward | jobs.Estimate | jobs.EvaluateDual, samples: int) -> torch.Tensor:
        labels = to_array(job.labels, "int64", (samples,), f"labels of step {job.step}")
        if not labels.size or labels.min() < 0 or labels.max() >= self._data.classes:
            raise LearnerError(f"labels of step {job.step}: expected at least one, each from 0 to {self._data.classes - 1}")
        return to_torch(labels)

    def _lengths(self, job: jobs.Backward | jobs.Estimate | jobs.EvaluateDual) -> torch.Tensor | None:
        lengths, expected = from_bytes(job.activations.lengths), self._data.train_images.shape[1]
        if (lengths is not None) != self._model.sequences:
            raise LearnerError(f"activations of step {job.step}: lengths of samples are {'missing' if lengths is None else 'not expected'}")
        if lengths is not None and int(lengths.max()) > expected:
            raise LearnerError(f"activations of step {job.step}: samples of up to {lengths.max()} tokens, {expected} are the most")
        return lengths

    def _answer(self, job: jobs.Backward | jobs.EvaluateDual, answer: Dual) -> jobs.BackwardDone:
        return jobs.BackwardDone(step=job.step, dual=self._cut.dual(answer.dual.numpy(), job.step), loss=answer.loss)
