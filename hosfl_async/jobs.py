"""What agents ask of their learner, and the results. Every heavy number is one of these jobs.

A job names what is to be computed; the learner holds the parameters, the data and the anchor of the step under way.
Parameters of the client half change in ``Replay`` and ``InstallSnapshot`` only, those of the server half in ``Backward`` only.
"""

from __future__ import annotations

from msgspec import Struct

from hosfl_async.messages import Checkpoint, LogEntry, NamedTensor, StepId, Tensor


class Introduce(Struct, frozen=True, gc=False):
    """Replay the golden records and digest theta_c(0): the proof that a machine may join. -> ``Introduced``"""


class Introduced(Struct, frozen=True, gc=False):
    golden: bytes
    initial: bytes
    parameters: int = 0
    """d: the length of theta_c."""


# -- the edge client's step ---------------------------------------------------------------------------


class Forward(Struct, frozen=True, gc=False):
    """Draw the step's batch, run one forward pass to the cut at ``base_version``, remember the anchor. -> ``ForwardDone``"""

    step: StepId
    base_version: int
    batch_of: StepId | None = None
    """Takes the batch of that earlier step instead of a new one (a dual used again)."""
    probes: int = 0
    """For a server that only runs forward passes: the activations are those of the anchor and of so many perturbed forwards, one batch
    after the other; the labels are those of one batch."""
    feedback: bool = False
    """Note on the way what a ``FeedBack`` of this step will need."""


class ForwardDone(Struct, frozen=True, gc=False):
    activations: Tensor
    labels: Tensor


class Probe(Struct, frozen=True, gc=False):
    """Run the perturbed forwards of the anchored step and remember their differences from the anchor. -> ``ProbeDone``"""

    step: StepId
    probes: int
    activities: bool = False
    """Perturb what units take in, a sign for each sample and unit, instead of the parameters."""


class ProbeDone(Struct, frozen=True, gc=False):
    step: StepId


class Project(Struct, frozen=True, gc=False):
    """Inner products of the dual with the remembered differences, divided by mu; forgets the anchor. -> ``Projected``"""

    step: StepId
    dual: Tensor


class Projected(Struct, frozen=True, gc=False):
    step: StepId
    projected_gradients: tuple[float, ...]


class BackPropagate(Struct, frozen=True, gc=False):
    """First order: back-propagate the dual through the client half at the anchor; forgets the anchor. -> ``GradientDone``"""

    step: StepId
    dual: Tensor


class FeedBack(Struct, frozen=True, gc=False):
    """By another forward pass over the anchor's batch, carry the dual down the skip connections to the residual writers; or, after probes
    of activities, give each layer the outer products of its inputs with the slopes found. Forgets the anchor. -> ``GradientDone``"""

    step: StepId
    dual: Tensor


class GradientDone(Struct, frozen=True, gc=False):
    step: StepId
    gradient: Tensor
    """With respect to theta_c, float32 (d,)."""


class LocalSlopes(Struct, frozen=True, gc=False):
    """Whole model at the client: slopes of its own loss along the step's directions, by forward passes. -> ``Projected``"""

    step: StepId
    base_version: int
    probes: int


class TrainLocally(Struct, frozen=True, gc=False):
    """Whole model at the client: SGD on so many batches; what the parameters lost on the way. -> ``GradientDone``"""

    step: StepId
    base_version: int
    steps: int
    learning_rate: float


class Replay(Struct, frozen=True, gc=False):
    """Apply entries in order; digest the parameters at each version in ``digest_at``, which may include the one at hand
    before the first entry; ``entries`` may be empty. -> ``Replayed``"""

    entries: tuple[LogEntry, ...]
    digest_at: tuple[int, ...] = ()


class InstallSnapshot(Struct, frozen=True, gc=False):
    """Replace the client half by a received snapshot, after checking ``digest``. -> ``Replayed``"""

    version: int
    parameters: Tensor
    digest: bytes


class Replayed(Struct, frozen=True, gc=False):
    version: int
    checkpoints: tuple[Checkpoint, ...] = ()


class TakeSnapshot(Struct, frozen=True, gc=False):
    """Copy the client half as it stands. -> ``SnapshotTaken``"""


class SnapshotTaken(Struct, frozen=True, gc=False):
    version: int
    parameters: Tensor
    digest: bytes


# -- the split server's step --------------------------------------------------------------------------


class Backward(Struct, frozen=True, gc=False):
    """Finish the forward pass, back-propagate, step the server half with the gradient times ``weight``; all that ``steps`` times.
    The dual is that of the first. -> ``BackwardDone``"""

    step: StepId
    activations: Tensor
    labels: Tensor
    weight: float = 1.0
    steps: int = 1


class BackwardTogether(Struct, frozen=True, gc=False):
    """A micro-batch: ``Backward`` of several clients' activations as one batch, one step (``steps`` steps) for all of them.
    Each dual is that of the client's own mean loss. -> ``BackwardsDone``"""

    parts: tuple[Backward, ...]

    @property
    def step(self) -> str:
        """The names of all its steps, as a journal writes them."""
        return " ".join(str(part.step) for part in self.parts)


class Estimate(Struct, frozen=True, gc=False):
    """A server that only runs forward passes: slopes of the loss along the client's perturbed activations, then ``steps`` steps of the
    server half along directions of its own, with the estimate times ``weight``. -> ``BackwardDone``, its dual the slopes, float32 (P,)"""

    step: StepId
    activations: Tensor
    labels: Tensor
    weight: float = 1.0
    steps: int = 1


class EvaluateDual(Struct, frozen=True, gc=False):
    """The dual of remembered activations at the current server half, without a step (policy ``fresh``). -> ``BackwardDone``"""

    step: StepId
    activations: Tensor
    labels: Tensor


class BackwardDone(Struct, frozen=True, gc=False):
    step: StepId
    dual: Tensor
    loss: float


class BackwardsDone(Struct, frozen=True, gc=False):
    """In the order of the parts."""

    parts: tuple[BackwardDone, ...]


class TakeServerState(Struct, frozen=True, gc=False):
    """Copy the server half and its optimiser as they stand. -> ``ServerStateTaken``"""


class ServerStateTaken(Struct, frozen=True, gc=False):
    state: tuple[NamedTensor, ...]


class RestoreServerState(Struct, frozen=True, gc=False):
    """Go on from a state that was taken, in this life or an earlier one. -> ``ServerStateRestored``"""

    state: tuple[NamedTensor, ...]


class ServerStateRestored(Struct, frozen=True, gc=False):
    pass


class Evaluate(Struct, frozen=True, gc=False):
    """Accuracy and mean loss on the held-out data at the learner's client half and server half. -> ``Evaluated``"""


class Evaluated(Struct, frozen=True, gc=False):
    version: int
    accuracy: float
    loss: float
    samples: int


ClientJob = Introduce | Forward | Probe | Project | BackPropagate | FeedBack | LocalSlopes | TrainLocally | Replay | InstallSnapshot
ServerJob = (
    Backward | BackwardTogether | Estimate | EvaluateDual | TakeServerState | RestoreServerState | Replay | InstallSnapshot | Evaluate
)
AggregatorJob = Introduce | Replay | TakeSnapshot | InstallSnapshot
Job = ClientJob | ServerJob | AggregatorJob
