"""Envelopes and durable records: typed decoding first, then the checks of ``soundness``; everything else is a ``CodecError``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Generic, TypeVar, get_args

from msgspec import Struct
from msgspec.msgpack import Decoder as TypedDecoder
from msgspec.msgpack import Encoder

from hosfl_async.codec.limits import DEFAULT_LIMITS, CodecLimits
from hosfl_async.codec.refusal import BAD_BYTES, Unsound, quoted
from hosfl_async.codec.soundness import CHECKS, check_checkpoint, check_terms
from hosfl_async.errors import CodecError
from hosfl_async.messages import SCHEMA_VERSION, ContributionMade, DurableAny, EntryCommitted, Message, Name, ServerCheckpoint

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


_ENCODER = Encoder()
_ANY_HEAD = TypedDecoder(_EnvelopeHead)
_RECORD = TypedDecoder(DurableAny)


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

    __slots__ = ("_bytes_max", "_decode", "_kinds", "_sound")

    def __init__(self, inbox: Any, limits: CodecLimits = DEFAULT_LIMITS) -> None:
        self._decode = _typed(inbox).decode
        self._kinds = frozenset(get_args(inbox) or (inbox,))
        self._bytes_max = limits.message_bytes_max
        self._sound: dict[type, Any] = {}
        """By kind the message that ``check`` has looked through last: one that goes to many is looked through once."""

    def decode(self, payload: bytes) -> tuple[str, Any]:
        """The sender that the envelope names, and the checked message. Raises ``CodecError``, whatever the bytes."""
        if len(payload) > self._bytes_max:
            raise CodecError(f"envelope: expected at most {self._bytes_max} bytes, found {len(payload)}")
        try:
            envelope = self._decode(payload)
            if envelope.schema != SCHEMA_VERSION:
                raise Unsound("schema", str(SCHEMA_VERSION), str(envelope.schema))
            message = envelope.message
            check = CHECKS.get(type(message))
            if check is not None:
                check(message)
        except BAD_BYTES as error:
            raise CodecError(_explain(payload, error)) from None
        return envelope.sender, message

    def check(self, message: Any, payload_bytes: int) -> None:
        """What ``decode`` would refuse in the envelope of a message that one of our agents made: its kind, its length, its contents.

        For a host that holds the message itself; that it is well typed is the word of the agent that made it. Raises ``CodecError``.
        """
        kind = type(message)
        if kind not in self._kinds or payload_bytes > self._bytes_max:
            raise CodecError(f"{kind.__name__} of {payload_bytes} bytes: expected at most {self._bytes_max}, and a kind of this inbox")
        check = CHECKS.get(kind)
        if check is not None and self._sound.get(kind) is not message:
            try:
                check(message)
            except BAD_BYTES as error:
                raise CodecError(f"{kind.__name__}: {quoted(error)}") from None
            self._sound[kind] = message


def encode_record(record: DurableAny) -> bytes:
    """One durable record, without an envelope: the log store keeps the schema version once per file."""
    return _ENCODER.encode(record)


def decode_record(packed: bytes) -> DurableAny:
    """The reverse of ``encode_record``. Raises ``CodecError``, whatever the bytes."""
    try:
        record: DurableAny = _RECORD.decode(packed)
        match record:
            case EntryCommitted(entry):
                check_terms(entry, "entry")
            case ContributionMade(message):
                CHECKS[type(message)](message)
            case ServerCheckpoint():
                check_checkpoint(record)
    except BAD_BYTES as error:
        raise CodecError(f"durable record of {len(packed)} bytes: {quoted(error)}") from None
    return record


def _explain(payload: bytes, error: BaseException) -> str:
    """One line: who (if that can be read), how much, and what is wrong."""
    try:
        head = _ANY_HEAD.decode(payload)
    except BAD_BYTES:
        return f"unreadable frame of {len(payload)} bytes: {quoted(error)}"
    if head.schema != SCHEMA_VERSION:
        return f"from {head.sender}, {len(payload)} bytes: schema: expected {SCHEMA_VERSION}, found {head.schema}"
    return f"from {head.sender}, {len(payload)} bytes: {quoted(error)}"
