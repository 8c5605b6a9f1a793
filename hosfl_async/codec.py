"""Messages to bytes and back: MessagePack, typed decoding, named bounds. docs/protocol-wire.md is the format, byte by byte.

What travels is one *envelope*, the map ``{schema, sender, message: {kind, ...}}``. An envelope above ``frame_bytes_max`` is cut
into *fragments*; a fragment is an array, so the first byte tells the two apart. Nothing received is trusted:

1. msgspec decodes straight into the types of one agent's inbox. An unknown field, another type, a foreign kind, a nesting bomb
   or a length that the bytes do not cover ends there, before memory is spent on it.
2. What types cannot say is checked next, by kind, in ``_CHECKS``: numbers are finite, a tensor is as long as its dtype and shape
   say, labels fit their activations, a log page has no gap, terms stand in canonical order.
3. Whatever goes wrong is a ``CodecError`` of one line: who, what, expected, found. It never quotes the payload at length.

Hash chains and digests are not checked here: they need the log or the parameters, which their owners have.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
from annotated_types import Ge, Le
from msgspec import Meta, MsgspecError, Struct
from msgspec.msgpack import Decoder as TypedDecoder
from msgspec.msgpack import Encoder

from hosfl_async.errors import CodecError
from hosfl_async.messages import (
    SCHEMA_VERSION,
    Count,
    DualVariable,
    DurableRecord,
    EntryCommitted,
    LogEntry,
    LogPage,
    Message,
    Name,
    ProjectedGradients,
    SmashedData,
    Snapshot,
    Tensor,
)

BYTE_KINDS = ("activations", "labels", "duals", "scalars", "log", "control")
"""The kinds that ``bytes_by_kind`` splits traffic into."""

FRAGMENT_HEAD_BYTES = 40
"""What a fragment needs at most besides its data: array head 1, four integers 9 + 5 + 5 + 9, check 5, data head 5; one to spare."""

FRAGMENT_COST_BYTES = 256
"""Charged for each held fragment besides its data, so that a flood of tiny fragments meets the same bounds as a few big ones."""

QUOTED_CHARACTERS_MAX = 200
"""Longest stretch of decoder text (it may quote a field name or tag of the sender's) in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecLimits:
    """Bounds on what is encoded, cut, put together again and decoded."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    message_bytes_max: Annotated[int, Ge(1024)] = 64 * 2**20
    """Longest envelope, in bytes, whole or put together from fragments."""
    frame_bytes_max: Annotated[int, Ge(1024), Le(2**30)] = 256 * 2**10
    """Longest single frame, in bytes: a longer envelope is cut into fragments."""
    fragments_max: Annotated[int, Ge(1), Le(2**31)] = 4096
    """Fragments of one message."""
    partial_messages_max: Annotated[int, Ge(1)] = 8
    """Incomplete messages kept per sender; above it the sender's oldest is dropped and counted."""
    partial_bytes_per_sender_max: Annotated[int, Ge(1024)] = 128 * 2**20
    """Bytes kept for one sender's incomplete messages; above it the sender's oldest is dropped and counted."""
    partial_bytes_max: Annotated[int, Ge(1024)] = 2**30
    """Bytes kept for the incomplete messages of all senders; above it the oldest of the longest waiting sender is dropped."""


DEFAULT_LIMITS = CodecLimits()


# -- envelopes ----------------------------------------------------------------------------------------

M = TypeVar("M")


class Envelope(Struct, Generic[M], frozen=True, forbid_unknown_fields=True, gc=False):
    """What travels: the schema version, who says it, and the message with its kind."""

    schema: int
    sender: Name
    message: M


class _EnvelopeHead(Struct, frozen=True, gc=False):
    """As much of a refused envelope as an error needs."""

    schema: int
    sender: Name


class _Unsound(ValueError):
    """Well typed, but not what its kind must be. Internal: ``decode`` adds who said it and raises ``CodecError``."""

    def __init__(self, where: str, expected: str, found: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}")


_BAD_BYTES = (MsgspecError, ValueError, RecursionError, OverflowError, MemoryError)
"""All that decoding raises on arbitrary bytes. Invalid UTF-8 is a plain ``UnicodeDecodeError``, nesting bombs a ``RecursionError``."""

_ENCODER = Encoder()
_ANY_HEAD = TypedDecoder(_EnvelopeHead)
_RECORD = TypedDecoder(DurableRecord)


def encode(sender: str, message: Message) -> bytes:
    """One envelope. Deterministic: equal messages give equal bytes."""
    return _ENCODER.encode(Envelope(SCHEMA_VERSION, sender, message))


@lru_cache(maxsize=16)
def _typed(inbox: Any) -> TypedDecoder[Envelope[Any]]:
    return TypedDecoder(Envelope[inbox])


class Decoder:
    """Decodes what may come to one agent.

    Parameters
    ----------
    inbox: union of the message types it accepts, for example ``messages.AggregatorInbox``. Any other kind is refused.
    limits: bounds on size.
    """

    __slots__ = ("_bytes_max", "_decode")

    def __init__(self, inbox: Any, limits: CodecLimits = DEFAULT_LIMITS) -> None:
        self._decode = _typed(inbox).decode
        self._bytes_max = limits.message_bytes_max

    def decode(self, payload: bytes) -> tuple[str, Any]:
        """The sender that the envelope names, and the checked message. Raises ``CodecError``, whatever the bytes."""
        if len(payload) > self._bytes_max:
            raise CodecError(f"envelope: expected at most {self._bytes_max} bytes, found {len(payload)}")
        try:
            envelope = self._decode(payload)
            if envelope.schema != SCHEMA_VERSION:
                raise _Unsound("schema", str(SCHEMA_VERSION), str(envelope.schema))
            message = envelope.message
            check = _CHECKS.get(type(message))
            if check is not None:
                check(message)
        except _BAD_BYTES as error:
            raise CodecError(_explain(payload, error)) from None
        return envelope.sender, message


def encode_record(record: DurableRecord) -> bytes:
    """One durable record, without an envelope: the log store keeps the schema version once per file."""
    return _ENCODER.encode(record)


def decode_record(packed: bytes) -> DurableRecord:
    """The reverse of ``encode_record``. Raises ``CodecError``, whatever the bytes."""
    try:
        record: DurableRecord = _RECORD.decode(packed)
        if isinstance(record, EntryCommitted):
            _check_terms(record.entry, "entry")
    except _BAD_BYTES as error:
        raise CodecError(f"durable record of {len(packed)} bytes: {_quoted(error)}") from None
    return record


def _explain(payload: bytes, error: BaseException) -> str:
    """One line: who (if that can be read), how much, and what is wrong."""
    try:
        head = _ANY_HEAD.decode(payload)
    except _BAD_BYTES:
        return f"unreadable frame of {len(payload)} bytes: {_quoted(error)}"
    if head.schema != SCHEMA_VERSION:
        return f"from {head.sender}, {len(payload)} bytes: schema: expected {SCHEMA_VERSION}, found {head.schema}"
    return f"from {head.sender}, {len(payload)} bytes: {_quoted(error)}"


def _quoted(error: BaseException) -> str:
    """The error's text, printable and short; its two ends say what is wrong and where."""
    if isinstance(error, UnicodeDecodeError):
        return "invalid UTF-8"
    text = str(error) or type(error).__name__
    if len(text) > QUOTED_CHARACTERS_MAX:
        half = QUOTED_CHARACTERS_MAX // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else "?" for c in text)


# -- what types cannot say ----------------------------------------------------------------------------


def _check_finite(data: bytes, where: str) -> None:
    values = np.frombuffer(data, "<f4")
    finite = np.isfinite(values)
    if not finite.all():
        place = int(finite.argmin())
        raise _Unsound(where, "finite numbers", f"{values[place]} at element {place}")


def _check_tensor(tensor: Tensor, where: str, dtype: str, dimensions: int | None = None) -> None:
    if tensor.dtype != dtype:
        raise _Unsound(where, dtype, tensor.dtype)
    if dimensions is not None and len(tensor.shape) != dimensions:
        raise _Unsound(where, f"{dimensions} dimension(s)", f"shape {tensor.shape}")
    if len(tensor.data) != tensor.bytes_expected:
        raise _Unsound(where, f"{tensor.bytes_expected} bytes for {dtype} {tensor.shape}", f"{len(tensor.data)} bytes")
    if dtype == "float32":
        _check_finite(tensor.data, where)


def _check_batch(tensor: Tensor, where: str) -> None:
    _check_tensor(tensor, where, "float32")
    if not tensor.shape or tensor.shape[0] < 1:
        raise _Unsound(where, "a batch of at least one sample", f"shape {tensor.shape}")


def _check_smashed_data(message: SmashedData) -> None:
    _check_batch(message.activations, "SmashedData.activations")
    _check_tensor(message.labels, "SmashedData.labels", "int64", 1)
    if message.labels.shape[0] != message.activations.shape[0]:
        raise _Unsound("SmashedData.labels", f"{message.activations.shape[0]} labels, one per sample", str(message.labels.shape[0]))


def _check_dual_variable(message: DualVariable) -> None:
    _check_batch(message.dual, "DualVariable.dual")


def _check_projected_gradients(message: ProjectedGradients) -> None:
    if not all(map(isfinite, message.projected_gradients)):
        raise _Unsound("ProjectedGradients.projected_gradients", "finite numbers", "one that is not")


def _check_snapshot(message: Snapshot) -> None:
    _check_tensor(message.parameters, "Snapshot.parameters", "float32", 1)


def _check_log_page(message: LogPage) -> None:
    for version, entry in enumerate(message.entries, start=message.from_version + 1):
        where = f"LogPage.entries[{version - message.from_version - 1}]"
        if entry.version != version:
            raise _Unsound(where, f"version {version}", f"version {entry.version}")
        _check_terms(entry, where)


def _check_terms(entry: LogEntry, where: str) -> None:
    """Terms in strictly increasing canonical order (StepId), coefficients whole and finite float32."""
    previous = None
    for term in entry.terms:
        step = term.step
        if previous is not None and not previous < step:
            raise _Unsound(f"{where}.terms", "strictly increasing steps", f"{step} after {previous}")
        if len(term.coefficients) % 4:
            raise _Unsound(f"{where}.terms", "whole float32 coefficients", f"{len(term.coefficients)} bytes for {step}")
        previous = step
    _check_finite(b"".join([term.coefficients for term in entry.terms]), f"{where}.terms")


_CHECKS: dict[type, Callable[[Any], None]] = {
    SmashedData: _check_smashed_data,
    DualVariable: _check_dual_variable,
    ProjectedGradients: _check_projected_gradients,
    Snapshot: _check_snapshot,
    LogPage: _check_log_page,
}


# -- accounting ---------------------------------------------------------------------------------------


def bytes_by_kind(message: Message, payload_length: int) -> dict[str, int]:
    """Where the bytes of one encoded message go; the values always sum to ``payload_length``.

    A tensor's data count as their kind, and the rest of that envelope as control. A message that *is* the scalars or the log
    (``ProjectedGradients``; ``LogPage``, ``Snapshot``) counts as such in whole: names and framing are the price of sending them.
    """
    if isinstance(message, SmashedData):
        activations, labels = len(message.activations.data), len(message.labels.data)
        return {"activations": activations, "labels": labels, "control": payload_length - activations - labels}
    if isinstance(message, DualVariable):
        duals = len(message.dual.data)
        return {"duals": duals, "control": payload_length - duals}
    if isinstance(message, ProjectedGradients):
        return {"scalars": payload_length}
    if isinstance(message, LogPage | Snapshot):
        return {"log": payload_length}
    return {"control": payload_length}


# -- fragments ----------------------------------------------------------------------------------------


class Fragment(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Piece ``index`` of ``count``. ``(message_number, check)`` names the message, so that a sender that restarts and numbers anew
    cannot have two messages mixed; ``check`` is the CRC-32 of the whole payload."""

    message_number: Count
    index: Annotated[int, Meta(ge=0, lt=2**31)]
    count: Annotated[int, Meta(ge=1, le=2**31)]
    payload_bytes: Count
    check: Annotated[int, Meta(ge=0, lt=2**32)]
    data: Annotated[bytes, Meta(min_length=1)]


_FRAGMENT = TypedDecoder(Fragment)


def is_fragment(frame: bytes) -> bool:
    """True for a MessagePack array (a fragment), False for a map (an envelope) and everything else."""
    return len(frame) > 0 and (0x90 <= frame[0] <= 0x9F or frame[0] in (0xDC, 0xDD))


def split(payload: bytes, message_number: int, limits: CodecLimits = DEFAULT_LIMITS) -> list[bytes]:
    """Frames of at most ``frame_bytes_max`` bytes: the payload itself if it fits, else its fragments.

    ``message_number`` must differ between the messages of one sender that can be under way together; a payload that is cut
    anew, to other sizes, needs a new number. Raises ``CodecError`` if the payload is above ``message_bytes_max`` or needs more
    than ``fragments_max`` fragments.
    """
    total = len(payload)
    if total > limits.message_bytes_max:
        raise CodecError(f"envelope to send: expected at most {limits.message_bytes_max} bytes, found {total}")
    if total <= limits.frame_bytes_max:
        return [payload]
    size = limits.frame_bytes_max - FRAGMENT_HEAD_BYTES
    count = -(-total // size)
    if count > limits.fragments_max:
        raise CodecError(f"envelope to send: expected at most {limits.fragments_max} fragments, found {count} for {total} bytes")
    check = crc32(payload)
    return [
        _ENCODER.encode(Fragment(message_number, index, count, total, check, payload[index * size : (index + 1) * size]))
        for index in range(count)
    ]


class _Partial:
    """A message of which some fragments are here."""

    __slots__ = ("bytes_held", "count", "pieces", "total")

    def __init__(self, fragment: Fragment) -> None:
        self.count, self.total = fragment.count, fragment.payload_bytes
        self.pieces: dict[int, bytes] = {}
        self.bytes_held = 0


class Reassembler:
    """Puts fragments together, in any order and with repetitions, within bounds; one object serves all senders.

    ``counts``: ``assembled`` messages, ``repeated`` fragments, ``refused`` frames (malformed, oversize or contradicting
    earlier ones), ``evicted`` incomplete messages.
    """

    def __init__(self, limits: CodecLimits = DEFAULT_LIMITS) -> None:
        self.counts = dict.fromkeys(("assembled", "repeated", "refused", "evicted"), 0)
        self.bytes_held = 0
        self._limits = limits
        self._partial: dict[str, dict[tuple[int, int], _Partial]] = {}
        self._sender_bytes: dict[str, int] = {}

    def offer(self, sender: str, frame: bytes) -> bytes | None:
        """The whole payload if ``frame`` is one or completes one, else None. ``sender`` is the transport's word for it.

        Raises ``CodecError`` for a fragment that cannot be, or that contradicts the earlier ones. What was collected of its
        message stays, unless it is all there (or more) and wrong.
        """
        if not is_fragment(frame):
            return frame
        try:
            fragment = self._decode(frame)
            return self._add(sender, fragment)
        except _BAD_BYTES as error:
            self.counts["refused"] += 1
            raise CodecError(f"from {sender}, fragment of {len(frame)} bytes: {_quoted(error)}") from None

    def forget(self, sender: str) -> None:
        """Drop (and count) the incomplete messages of a sender that is gone."""
        while sender in self._partial:
            self._evict(sender)

    def _decode(self, frame: bytes) -> Fragment:
        limits = self._limits
        if len(frame) > limits.frame_bytes_max:
            raise _Unsound("frame", f"at most {limits.frame_bytes_max} bytes", str(len(frame)))
        fragment = _FRAGMENT.decode(frame)
        if fragment.index >= fragment.count:
            raise _Unsound("index", f"below count {fragment.count}", str(fragment.index))
        if fragment.count > limits.fragments_max:
            raise _Unsound("count", f"at most {limits.fragments_max}", str(fragment.count))
        bytes_max = min(limits.message_bytes_max, limits.partial_bytes_per_sender_max - fragment.count * FRAGMENT_COST_BYTES)
        if not fragment.count <= fragment.payload_bytes <= bytes_max:
            raise _Unsound("payload_bytes", f"{fragment.count} to {bytes_max}", str(fragment.payload_bytes))
        return fragment

    def _add(self, sender: str, fragment: Fragment) -> bytes | None:
        key = (fragment.message_number, fragment.check)
        partial = self._partial.get(sender, {}).get(key)
        if partial is None:
            partial = _Partial(fragment)
            self._partial.setdefault(sender, {})[key] = partial
        elif (partial.count, partial.total) != (fragment.count, fragment.payload_bytes):
            raise _Unsound(
                "fragment", f"{partial.count} pieces of {partial.total} bytes as before", f"{fragment.count} of {fragment.payload_bytes}"
            )
        if fragment.index in partial.pieces:
            self.counts["repeated"] += 1
            return None
        partial.pieces[fragment.index] = fragment.data
        self._charge(sender, partial, len(fragment.data) + FRAGMENT_COST_BYTES)
        if partial.bytes_held - len(partial.pieces) * FRAGMENT_COST_BYTES > partial.total:
            self._remove(sender, key)
            raise _Unsound("fragments", f"{partial.total} bytes in all", "more")
        if len(partial.pieces) < partial.count:
            self._keep_bounds(sender)
            return None
        self._remove(sender, key)
        payload = b"".join([partial.pieces[index] for index in range(partial.count)])
        if len(payload) != partial.total or crc32(payload) != fragment.check:
            raise _Unsound("payload put together", f"{partial.total} bytes with CRC-32 {fragment.check:08x}", f"{len(payload)} others")
        self.counts["assembled"] += 1
        return payload

    def _charge(self, sender: str, partial: _Partial, amount: int) -> None:
        partial.bytes_held += amount
        self.bytes_held += amount
        self._sender_bytes[sender] = self._sender_bytes.get(sender, 0) + amount

    def _keep_bounds(self, sender: str) -> None:
        limits = self._limits
        while len(self._partial.get(sender, ())) > limits.partial_messages_max:
            self._evict(sender)
        while self._sender_bytes.get(sender, 0) > limits.partial_bytes_per_sender_max:
            self._evict(sender)
        while self.bytes_held > limits.partial_bytes_max:
            self._evict(next(iter(self._partial)))

    def _evict(self, sender: str) -> None:
        self._remove(sender, next(iter(self._partial[sender])))
        self.counts["evicted"] += 1

    def _remove(self, sender: str, key: tuple[int, int]) -> None:
        partial = self._partial[sender].pop(key)
        self.bytes_held -= partial.bytes_held
        self._sender_bytes[sender] -= partial.bytes_held
        if not self._partial[sender]:
            del self._partial[sender], self._sender_bytes[sender]
