"""What agents say to each other, and the data they speak of. One inbox union per agent, at the bottom.

A tensor here is data: dtype, shape, bytes. Only ``learning`` turns it into numbers and back.
Step, version and direction names are those of docs/glossary.md.
"""

from __future__ import annotations

from hashlib import blake2b
from math import prod
from struct import Struct as Packing
from typing import Annotated, Literal

from msgspec import Meta, Struct

SCHEMA_VERSION = 1

PROBES_MAX = 4096
"""P is at most this; the bound also keeps a list of one-byte numbers from growing 32-fold in memory."""

AGGREGATOR = "aggregator"
SPLIT_SERVER = "split_server"
CLIENTS = "clients"
"""Group name: a message sent to it goes to every client. Used for rare hints only, never per commit."""

Count = Annotated[int, Meta(ge=0, le=2**62)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+\Z")]
"""An agent's name; it stands in topics and paths. ``\\Z``, because ``$`` would let a trailing newline through."""

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]

CutDtype = Literal["float32", "bfloat16", "int8", "int4"]
"""Of activations and duals. The integers are codes, to be multiplied by a scale; see ``codec.quantisation``."""

CUT_DTYPES = frozenset(("float32", "bfloat16", "int8", "int4"))
SCALED_DTYPES = frozenset(("int8", "int4"))
ITEM_BITS = {"float32": 32, "int64": 64, "bfloat16": 16, "int8": 8, "int4": 4}
EMPTY_CHAIN = bytes(32)
"""The hash chain's value before entry 1."""


class StepId(Struct, frozen=True, order=True, forbid_unknown_fields=True, gc=False):
    """Name of one client step: idempotency key, batch key and direction key at once. Its order is the canonical one."""

    client: Name
    incarnation: Count
    number: Count

    def __str__(self) -> str:
        again = f"#{self.incarnation}" if self.incarnation != 1 else ""
        return f"{self.client}{again}/{self.number}"


class Tensor(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A dense tensor as data: little-endian, C order, ``data`` exactly as long as dtype and shape say."""

    dtype: CutDtype | Literal["int64"]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=6)]
    data: bytes
    scales: bytes = b""
    """Of int8 and int4: little-endian float32, one for the whole tensor or one for each index of its first dimension.
    Other dtypes have none, and the field is not written."""
    lengths: bytes = b""
    """Of smashed data whose samples have several rows each (tokens), one after another without padding: little-endian uint16, the rows of
    each sample; they add up to the first dimension. Elsewhere there are none, and the field is not written."""

    @property
    def bytes_expected(self) -> int:
        return -(-ITEM_BITS[self.dtype] * prod(self.shape) // 8)

    @property
    def scales_lengths(self) -> tuple[int, ...]:
        """Bytes that ``scales`` may have: none, or four for each scale."""
        return (4, 4 * self.shape[0]) if self.dtype in SCALED_DTYPES and self.shape else (4 * (self.dtype in SCALED_DTYPES),)

    @property
    def bytes_sent(self) -> int:
        """What the numbers cost on the wire, scales and lengths included."""
        return len(self.data) + len(self.scales) + len(self.lengths)


class Term(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One contribution inside a log entry: ``theta -= coefficients[p] * direction(step, p)`` for each probe p.

    ``coefficients`` is little-endian float32, one per probe, already scaled (``scaling.coefficients``): its bits are the truth.
    """

    step: StepId
    base_version: Count
    coefficients: bytes
    gradient: bytes = b""
    """Of a first-order client: little-endian float32 (d,), already scaled (``scaling.scaled_gradient``): ``theta -= gradient``.
    A term has coefficients or a gradient, never both; without a gradient the field is not written."""


class LogEntry(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Entry ``version`` of the update log: terms in canonical order, and the hash chain up to and including this entry."""

    version: Annotated[int, Meta(ge=1, le=2**62)]
    terms: tuple[Term, ...]
    chain: Digest


_ENTRY_HEAD = Packing("<QI")
_TERM_HEAD = Packing("<HQQQI")
_DENSE_LENGTHS = Packing("<IQ")
_DENSE = 2**32 - 1
"""Stands where a term's length of coefficients stands if both lengths follow after the name; no coefficients are that long."""


def chain_hash(previous: bytes, version: int, terms: tuple[Term, ...]) -> bytes:
    """BLAKE2b-256 over the previous chain value and this entry, packed little-endian as written in docs/protocol-wire.md."""
    parts = [previous, _ENTRY_HEAD.pack(version, len(terms))]
    for term in terms:
        step, client, length = term.step, term.step.client.encode(), len(term.coefficients)
        if term.gradient:
            lengths = _DENSE_LENGTHS.pack(length, len(term.gradient))
            head = _TERM_HEAD.pack(len(client), step.incarnation, step.number, term.base_version, _DENSE)
            parts += (head, client, lengths, term.coefficients, term.gradient)
            continue
        head = _TERM_HEAD.pack(len(client), step.incarnation, step.number, term.base_version, length)
        parts += (head, client, term.coefficients)
    return blake2b(b"".join(parts), digest_size=32).digest()


class Checkpoint(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """``digest`` is BLAKE2b-256 of the client half's parameter bytes (float32, little-endian) at ``version``."""

    version: Count
    digest: Digest


class Message(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", gc=False):
    """Base of everything sent. The tag on the wire is the class's name."""


# -- edge client <-> split server: the cut ------------------------------------------------------------


class SmashedData(Message, frozen=True, tag=True):
    """Activations at the cut (batch, ...) and labels (batch,) of one step, computed at ``base_version``.

    Activations of sequences are (tokens of all samples, ...), with ``lengths``."""

    step: StepId
    base_version: Count
    activations: Tensor
    labels: Tensor
    dual_wanted: bool = True
    """False under dual policy ``fresh``: train now, answer when ``DualRequest`` comes."""


class DualRequest(Message, frozen=True, tag=True):
    """Policy ``fresh``: the perturbed forwards are done; evaluate the dual of the remembered activations now, without a step."""

    step: StepId


class DualVariable(Message, frozen=True, tag=True):
    """Gradient of the mean loss with respect to the activations, same shape; ``server_version`` counts server steps.

    From a server that only runs forward passes: the slopes of the loss along the P perturbed activations, float32 (P,).
    """

    step: StepId
    server_version: Count
    dual: Tensor


class DualRefused(Message, frozen=True, tag=True):
    """``busy``: queue full, try again later. ``forgotten``: the activations are no longer here. ``malformed``: do not try again.
    ``finished``: the run is over."""

    step: StepId
    reason: Literal["busy", "forgotten", "malformed", "finished"]


# -- followers <-> aggregator: the update log ---------------------------------------------------------


class Join(Message, frozen=True, tag=True):
    """A client's first word. ``golden`` is the digest of the golden replay, ``initial`` that of theta_c(0)."""

    boot: Count
    golden: Digest
    initial: Digest


class Welcome(Message, frozen=True, tag=True):
    """Answer to ``Join``: the incarnation under which this boot's steps count."""

    boot: Count
    incarnation: Count
    head: Count
    finished: bool = False


class JoinRefused(Message, frozen=True, tag=True):
    """``golden_differs``: this machine does not replay bit for bit. ``initial_differs``: another model or seed.
    ``old_boot``: a later boot of the same client has joined. ``fleet_full``: clients_max reached."""

    boot: Count
    reason: Literal["golden_differs", "initial_differs", "old_boot", "fleet_full"]


class ProjectedGradients(Message, frozen=True, tag=True):
    """The P scalars of one step, unscaled, float64; empty for a frozen client."""

    step: StepId
    base_version: Count
    projected_gradients: Annotated[tuple[float, ...], Meta(max_length=PROBES_MAX)]


class ClientGradient(Message, frozen=True, tag=True):
    """The dense gradient of one step with respect to theta_c, unscaled, float32 (d,): what a client that back-propagates contributes."""

    step: StepId
    base_version: Count
    gradient: Tensor


Contributed = ProjectedGradients | ClientGradient
"""What a client contributes, by its estimator."""


class Accepted(Message, frozen=True, tag=True):
    """The step is in log entry ``version``, and that entry is durable."""

    step: StepId
    version: Count
    head: Count
    finished: bool = False


class Refused(Message, frozen=True, tag=True):
    """This message puts nothing into the log, now or later; under ``fenced`` and ``superseded`` an earlier copy of it may have.

    ``stale``: its weight is zero. ``fenced``: another incarnation has taken over, or none was granted. ``superseded``: older than the
    answers remembered for this client. ``malformed``: wrong number of probes, a base version of the future, or a coefficient beyond
    float32. ``finished``: the run is over."""

    step: StepId
    reason: Literal["stale", "fenced", "superseded", "malformed", "finished"]
    head: Count
    finished: bool = False


class StepWanted(Message, frozen=True, tag=True):
    """A ``CatchUp`` that waits: the client would begin ``step`` and asks for a place, and then for the entries after ``from_version``."""

    step: StepId
    from_version: Count
    checkpoint: Checkpoint | None = None


class Granted(Message, frozen=True, tag=True):
    """``step`` may begin. Entries that its client lacked when it asked have been sent before."""

    step: StepId
    head: Count


class CatchUp(Message, frozen=True, tag=True, omit_defaults=True):
    """Asks for the entries after ``from_version``; ``checkpoint`` is the asker's latest digest, to be compared.

    ``prefers_snapshot``: by its own measures the asker would be there sooner with the whole client half.
    """

    from_version: Count
    checkpoint: Checkpoint | None = None
    prefers_snapshot: bool = False


class LogPage(Message, frozen=True, tag=True):
    """Entries ``from_version + 1 ...`` in order, perhaps not all. ``digest`` is the aggregator's own at ``from_version``, if known."""

    from_version: Count
    entries: tuple[LogEntry, ...]
    head: Count
    digest: Digest | None = None
    finished: bool = False


class Snapshot(Message, frozen=True, tag=True):
    """The whole client half at ``version``, for those far behind: float32 (d,), behind it the moments of the log's update rule if it has
    any, with their digest and the chain value there."""

    version: Count
    parameters: Tensor
    digest: Digest
    chain: Digest
    head: Count
    finished: bool = False


class DigestDiffers(Message, frozen=True, tag=True):
    """The asker's parameters at ``version`` are not ours: a split brain. The asker must stop."""

    version: Count
    expected: Digest


class HeadAnnounced(Message, frozen=True, tag=True):
    """A rare hint that the log has grown, or that the run is over."""

    head: Count
    finished: bool = False


class TargetReached(Message, frozen=True, tag=True):
    """The split server found ``accuracy`` on held-out data at ``version``: that is the run's target, so it may end."""

    version: Count
    accuracy: Share


EdgeClientInbox = (
    DualVariable | DualRefused | Welcome | JoinRefused | Accepted | Refused | Granted | LogPage | Snapshot | DigestDiffers | HeadAnnounced
)
SplitServerInbox = SmashedData | DualRequest | LogPage | Snapshot | DigestDiffers | HeadAnnounced
AggregatorInbox = Join | ProjectedGradients | ClientGradient | CatchUp | StepWanted | TargetReached


# -- what the aggregator makes durable ----------------------------------------------------------------


class ClientJoined(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: this boot of this client was granted this incarnation."""

    client: Name
    boot: Count
    incarnation: Count


class EntryCommitted(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: the entry is part of the log for ever."""

    entry: LogEntry


class TargetMet(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: the split server reported this accuracy, and a run with no higher target ends at the log's head of that moment."""

    version: Count
    accuracy: Share


DurableRecord = ClientJoined | EntryCommitted | TargetMet


# -- what a client makes durable ----------------------------------------------------------------------


class ContributionMade(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: this contribution may have been sent; until it is answered, it is sent again as it stands here."""

    message: Contributed


class ContributionSettled(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: the contribution of this step was answered and need not be kept."""

    step: StepId


OutboxRecord = ContributionMade | ContributionSettled


# -- what the split server makes durable --------------------------------------------------------------


class NamedTensor(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    name: Name
    tensor: Tensor


class ServerCheckpoint(Struct, frozen=True, tag=True, tag_field="kind", forbid_unknown_fields=True, gc=False):
    """Durable record: the server half with its optimiser, and exactly the steps that have trained it. Each one stands for all before it."""

    server_steps: Count
    newest_base: Count
    """Highest base version of smashed data so far."""
    steps: tuple[StepId, ...]
    """The journal: each client's latest step that is in the state. Earlier ones are in it or will never be."""
    answers: tuple[DualVariable, ...]
    """Duals of some of these steps, for whoever asks again."""
    state: tuple[NamedTensor, ...]
    """What the learner needs to go on; only it knows what that is."""


DurableAny = DurableRecord | OutboxRecord | ServerCheckpoint
