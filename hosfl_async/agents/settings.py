"""Settings of the three agents. Scenario files hold these very structs; each field's text is its documentation everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads these dataclasses when they stand in a scenario file."""

ANSWERS_REMEMBERED_MIN = 16
"""Answers that an aggregator remembers per client at least, and steps that a client is ahead of its oldest unanswered one at most."""


Estimator = Literal["dual_projection", "gradient", "skip_feedback", "activity_slopes", "server_losses", "local_losses", "local_training"]
DENSE = frozenset({"gradient", "skip_feedback", "activity_slopes", "local_training"})
"""Estimators whose contributions are dense vectors; those of the others are P scalars."""
ALONE = frozenset({"local_losses", "local_training"})
"""Estimators of clients that hold the whole model: nothing crosses a cut."""
Directions = Literal["per_step", "per_version"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessSettings:
    """How much a contribution counts when the log has moved on by tau versions since it was begun."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["constant", "polynomial", "hinge", "cutoff"] = "constant"
    """constant: 1. polynomial: (1 + tau)^-exponent. hinge: 1 up to hinge_from, then 1 / (hinge_slope (tau - hinge_from) + 1).
    cutoff: 1 up to versions_max, then refused."""
    exponent: Annotated[float, Ge(0)] = 0.5
    """a of the polynomial rule (FedAsync, arXiv:1903.03934)."""
    hinge_slope: Annotated[float, Gt(0)] = 10.0
    """a of the hinge rule."""
    hinge_from: Annotated[int, Ge(0)] = 4
    """b of the hinge rule, in versions."""
    versions_max: Annotated[int, Ge(0)] = 100
    """tau_max of the cutoff rule, in versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippingSettings:
    """Bounds on single projected gradients."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["none", "fixed", "median"] = "none"
    """fixed: to +-bound. median: to +-factor times the median of the latest absolute scalars in the log."""
    bound: Annotated[float, Gt(0)] = 1.0
    """Of the fixed rule."""
    factor: Annotated[float, Gt(1)] = 5.0
    """Of the median rule."""
    window: Annotated[int, Ge(1), Le(100_000)] = 500
    """Of the median rule: scalars it is taken of."""
    window_min: Annotated[int, Ge(1)] = 100
    """Of the median rule: nothing is clipped before so many scalars are in the window. More than window: nothing ever."""
    held_devices: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Of the median rule, in place of window_min: until a contribution of so many devices is in the log, all are there with weight 0, so
    that liars who are many among the first cannot set the scale. More than twice the liars to be feared. 0: the first count as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """Whose scalars count, with shared.directions per_version."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["none", "peers"] = "none"
    """peers: each device has a score, the decayed mean of the cosine of its scalars with every other device's at the same base version. Who
    has a low one is distrusted: in the log with weight 0, until it agrees again."""
    agreement_min_share: Annotated[float, Ge(0), Le(1)] = 0.5
    """The part that a device must reach of the median score of the trusted devices of which the entry says something."""
    distrust_deviations: Annotated[float, Ge(0)] = 2.5
    """A device is distrusted when its score is so many standard errors below that."""
    trust_deviations: Annotated[float, Ge(0)] = 1.0
    """It is trusted again when its score is so many standard errors above that."""
    comparisons_min: Annotated[int, Ge(1)] = 10
    """Comparisons before a device is judged."""
    memory_observations: Annotated[float, Ge(1), Le(1e6)] = 200.0
    """A comparison so many ago counts 1/e of the latest."""
    distrusted_share_max: Annotated[float, Ge(0), Lt(0.5)] = 0.4
    """Of the devices that can be judged, the part that is distrusted at one time at most; the others keep their trust."""
    versions_max: Annotated[int, Ge(1), Le(65536)] = 64
    """Base versions whose vectors are kept, the newest; a contribution from before them finds nobody to be compared with."""
    vectors_max: Annotated[int, Ge(1), Le(4096)] = 8
    """Vectors kept of one base version, the first in the log; later ones are compared with these, and not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipationSettings:
    """How much a contribution counts given how many steps n of its client are in the log; m is the mean over all that contributed."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["any", "capped", "inverse"] = "any"
    """any: 1. capped: min(1, cap m / n). inverse: min(boost_max, m / n)."""
    cap: Annotated[float, Gt(0)] = 2.0
    """Of the capped rule, in multiples of the mean."""
    boost_max: Annotated[float, Ge(1)] = 4.0
    """Of the inverse rule: the greatest factor for a client that is rarely heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Repeating what was not answered: capped exponential backoff, spread by the step's own name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    first_s: Annotated[float, Gt(0)] = 5.0
    """Seconds before the first repetition."""
    max_s: Annotated[float, Gt(0)] = 60.0
    """Upper bound of the growing pause."""
    attempts_max: Annotated[int, Ge(1)] = 8
    """Repetitions of one step's smashed data before the step is abandoned (and counted). Doubles with every step abandoned in a row, so
    that a way longer than all these pauses stops no client for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeClientSettings:
    """What one edge client needs to know."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    probes: Annotated[int, Ge(0), Le(4096)] = 5
    """P: perturbed forwards per step. 0 is the frozen client: it feeds the server and never moves."""
    estimator: Estimator = "dual_projection"
    """dual_projection: P scalars from perturbed forwards. gradient: the client back-propagates the dual and sends the dense gradient.
    skip_feedback, activity_slopes: a dense vector by forward passes, of the dual and the skip connections or P probes of activities.
    server_losses: the activations of the perturbed forwards go to the server, which answers with P slopes of the loss. local_losses: slopes
    of the client's own loss, with the whole model. local_training: what local_steps of SGD change in the whole model."""
    dual_policy: Literal["eager", "fresh"] = "eager"
    """eager: the dual comes as soon as the smashed data arrive. fresh: it is evaluated anew when the perturbed forwards are done."""
    dual_reuse: Annotated[int, Ge(1), Le(1000)] = 1
    """Steps taken with one dual, on one batch: only the first sends smashed data, the others probe new directions at newer parameters."""
    local_steps: Annotated[int, Ge(1), Le(1000)] = 1
    """Of local_training: batches, and steps of SGD, in one client step."""
    local_learning_rate: Annotated[float, Gt(0)] = 0.1
    """Of local_training: eta of those steps; aggregator.learning_rate is then the server's, by which their sum is scaled."""
    steps_unanswered_max: Annotated[int, Ge(1), Le(ANSWERS_REMEMBERED_MIN)] = 1
    """Steps sent but not yet accepted before the client waits. 1 with K = number of clients is the synchronous method."""
    asks_before_step: bool = False
    """Wait for a place before each step. Follows from aggregator.concurrency and aggregator.cohort."""
    durable_outbox: bool = False
    """Make every contribution durable before it is sent, and have those of an earlier life answered before joining. Real devices do."""
    catch_up: Literal["told", "measured"] = "told"
    """told: the aggregator decides between pages and a snapshot. measured: the client says which is sooner here, by how long its questions
    and its replay have taken. Real devices do."""
    digest_every_versions: Annotated[int, Ge(1)] = 50
    """Digest the parameters at multiples of this version and have them compared."""
    retry: RetrySettings = field(default_factory=RetrySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitServerSettings:
    """What the split server needs to know."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    staleness: StalenessSettings = field(default_factory=StalenessSettings)
    """The server's own policy: how much activations of an older client half count in its step. Down-weighting them hurts, hence
    constant."""
    steps_per_activation: Annotated[int, Ge(1), Le(1000)] = 1
    """tau of MU-SplitFed (arXiv:2510.21155): steps of the server half on each batch of activations. The dual is that before the first."""
    micro_batch_max: Annotated[int, Ge(1), Le(4096)] = 1
    """Clients' activations that one step of the server half takes together, as one batch. 1: each has a step of its own."""
    micro_batch_wait_s: Annotated[float, Ge(0)] = 0.0
    """How long activations wait for others to fill a micro-batch. 0: the server takes what is there when it is free."""
    queue_max: Annotated[int, Ge(1)] = 256
    """Smashed data waiting for the learner; above it the answer is busy."""
    queue_bytes_max: Annotated[int, Ge(1)] = 512 * 2**20
    """Bytes of activations waiting for the learner; above it the answer is busy."""
    device_share_max: Annotated[float, Gt(0), Le(1)] = 1.0
    """Of the latest device_share_window batches that the server half was trained on, the part that one device may have, rounded up; what it
    sends beyond gets its dual and trains nothing. 1: no limit."""
    device_share_window: Annotated[int, Ge(1), Le(65536)] = 256
    """Batches over which device_share_max holds."""
    answers_remembered_max: Annotated[int, Ge(1)] = 4096
    """Steps at the cut whose dual (under policy fresh also the activations) is remembered for repetitions: the newest of each client,
    and of so many clients at most."""
    evaluate_every_steps: Annotated[int, Ge(0)] = 250
    """Server steps between two evaluations on held-out data. 0: only at the end."""
    estimator: Estimator = "dual_projection"
    """server_losses: the server only runs forward passes."""
    evaluate_every_versions: Annotated[int, Ge(0)] = 0
    """Versions between two evaluations, for methods under which the server takes no steps. 0: none for their sake."""
    silence_s: Annotated[float, Gt(0)] = 120.0
    """Without smashed data for so long, the server asks for the log: the run may be over and its announcement lost. The pause doubles while
    the silence lasts."""
    silences_max: Annotated[int, Ge(1), Le(40)] = 16
    """Such questions in one silence; the next smashed data begin anew."""
    checkpoint_every_steps: Annotated[int, Ge(0)] = 0
    """Server steps between two durable checkpoints of the server half: what a crash costs at most. 0: none, a restart begins anew."""
    checkpoint_answers_bytes_max: Annotated[int, Ge(0)] = 64 * 2**20
    """Bytes of remembered duals in a checkpoint, the newest first; after a crash the others are forgotten."""
    stop_at_accuracy: Annotated[float, Ge(0), Le(1)] = 0.0
    """The aggregator is told of an evaluation that reaches it. 0: of none."""
    digest_every_versions: Annotated[int, Ge(1)] = 50
    """As for the clients: the server follows the log in order to evaluate."""
    retry: RetrySettings = field(default_factory=RetrySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSettings:
    """What the aggregator needs to know."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    client_steps: Annotated[int, Ge(1)] = 1000
    """The run ends when so many client steps are in the log."""
    probes: Annotated[int, Ge(0), Le(4096)] = 5
    """P that every contribution must have."""
    estimator: Estimator = "dual_projection"
    """gradient, local_training: contributions are dense vectors; else scalars."""
    evaluate_every_versions: Annotated[int, Ge(0)] = 0
    """The split server is told the head at multiples of this version, so that it evaluates. 0: never."""
    stop_at_accuracy: Annotated[float, Ge(0), Le(1)] = 0.0
    """The run ends earlier when the split server reports this accuracy. 0: whatever it reports."""
    learning_rate: Annotated[float, Gt(0)] = 0.1
    """eta of the client half."""
    learning_rate_final_share: Annotated[float, Ge(0), Le(1)] = 1.0
    """The part of learning_rate that is left at the end: eta falls in a straight line over client_steps, by the steps in the log when an
    entry is made. 1: it stays. Against the noise of few probes late in a run. Not with update.rule adamw, whose entries carry no eta: it
    has update.decay_versions."""
    coefficient_max: Annotated[float, Gt(0), Le(3.4e38)] = 1e6
    """A contribution with a scaled coefficient (or element of a gradient) beyond this is malformed: a few of them could drive the client
    half out of the range of float32, after which nobody makes a step any more."""
    buffer_contributions: Annotated[int, Ge(1)] = 5
    """K: contributions per log entry. Well below the number of quick clients: each waits for its answer, so a buffer that they cannot fill
    waits for the slow ones or for the deadline."""
    buffer_deadline_s: Annotated[float, Gt(0)] = 60.0
    """A buffer that is not full is committed so long after its first contribution, so that dropouts never stall the system."""
    divide_by: Literal["buffer_contributions", "weights"] = "buffer_contributions"
    """Divisor of an entry: the nominal K (FedBuff), or the sum of the weights in it."""
    staleness: StalenessSettings = field(default_factory=lambda: StalenessSettings(rule="polynomial"))
    """The aggregator's policy."""
    participation: ParticipationSettings = field(default_factory=ParticipationSettings)
    """Against the bias towards fast clients."""
    clipping: ClippingSettings = field(default_factory=ClippingSettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    device_share_max: Annotated[float, Gt(0), Le(1)] = 1.0
    """Of the buffer_contributions of an entry, the part that one device may have, rounded up; what it sends beyond is counted (over_share)
    and left unanswered until the entry is committed, so it comes again by its client's retry. 1: no limit."""
    directions: Directions = "per_step"
    """Whose projected gradients can be combined."""
    location: Literal["mean", "median", "trimmed_mean"] = "mean"
    """How scalars of the same direction are combined over clients, with shared.directions per_version. mean: weighted."""
    trim_share: Annotated[float, Ge(0), Lt(0.5)] = 0.2
    """Of trimmed_mean: the part of the clients left out at each end."""
    concurrency: Annotated[int, Ge(0)] = 0
    """M: client steps that may be in flight (FedBuff, arXiv:2106.06639); clients ask before they begin one. 0: no limit, nobody asks."""
    selection: Literal["random", "balanced", "fastest_first"] = "random"
    """Which waiting client gets a free place. balanced: the one with the fewest steps in the log. fastest_first: the one whose latest
    step took the least time from grant to contribution, newcomers before all."""
    cohort: Annotated[int, Ge(0)] = 0
    """m: clients granted for each version, the others wait for a later one. 0: no cohorts. Not together with concurrency."""
    cohort_extra: Annotated[int, Ge(0)] = 0
    """x: clients granted beyond the cohort, so that the slowest x need not be waited for."""
    place_deadline_s: Annotated[float, Gt(0)] = 600.0
    """A place whose client has sent nothing for so long is given to another; a late contribution is admitted all the same."""
    parked_max: Annotated[int, Ge(1)] = 1_000_000
    """Clients that wait for a place; a wish beyond them is dropped and counted, and comes again by itself."""
    overtaken_max: Annotated[int, Ge(1)] = 10_000
    """Places that may go to others while one client waits; then it is next, whatever the selection says."""
    page_entries_max: Annotated[int, Ge(1)] = 64
    """Log entries in one catch-up page."""
    page_bytes_max: Annotated[int, Ge(1)] = 16 * 2**20
    """Bytes of coefficients and gradients in one page; a page has at least one entry."""
    entries_kept_max: Annotated[int, Ge(1)] = 4096
    """Log entries kept in memory; whoever needs older ones gets a snapshot."""
    entries_bytes_max: Annotated[int, Ge(1)] = 4 * 2**30
    """Bytes of coefficients and gradients in them, the same. Dense gradients have as many numbers as the client half. Where those since the
    latest snapshot are half of it, the next one is taken, for what no snapshot covers is kept."""
    snapshot_every_versions: Annotated[int, Ge(1)] = 100
    """Versions between two snapshots."""
    snapshot_behind_versions: Annotated[int, Ge(1)] = 200
    """A follower so many versions behind the latest snapshot gets it instead of pages."""
    digest_every_versions: Annotated[int, Ge(1)] = 50
    """Versions between two digests of the parameters."""
    digests_kept_max: Annotated[int, Ge(1)] = 256
    """Digests remembered for comparison."""
    answers_remembered_max: Annotated[int, Ge(ANSWERS_REMEMBERED_MIN)] = ANSWERS_REMEMBERED_MIN
    """Answers remembered per client; a step older than these is superseded."""
    clients_max: Annotated[int, Ge(1)] = 1_000_000
    """Clients that may join."""
    farewells_max: Annotated[int, Ge(0)] = 20
    """Announcements of the end to peers that have not confirmed it."""
    retry: RetrySettings = field(default_factory=RetrySettings)
