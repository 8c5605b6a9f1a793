"""Cutting a long payload into frames, and joining frames to the payload again.

Brokers refuse or disconnect above their packet limit, and a big frame keeps small ones waiting, so what is longer than
``frame_bytes_max`` travels in pieces. Joining is bounded everywhere, since a sender may begin messages and never end them: the oldest
incomplete message gives way and is counted. Nothing is asked for again here; a message that matters is repeated by its agent.
"""

from __future__ import annotations

from binascii import crc32
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder as TypedDecoder
from msgspec.msgpack import Encoder

from hosfl_async.codec.limits import DEFAULT_LIMITS, CodecLimits
from hosfl_async.codec.refusal import BAD_BYTES, Unsound, quoted
from hosfl_async.errors import CodecError
from hosfl_async.messages import Count

FRAGMENT_HEAD_BYTES = 40
"""What a fragment needs at most besides its data: array head 1, four integers 9 + 5 + 5 + 9, check 5, data head 5; one to spare."""

FRAGMENT_COST_BYTES = 256
"""Charged for each held fragment besides its data, so that a flood of tiny fragments meets the same bounds as a few big ones."""


class Fragment(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Piece ``index`` of ``count``. ``(message_number, check)`` names the message, so that a sender that restarts and numbers anew
    cannot have two messages mixed; ``check`` is the CRC-32 of the whole payload."""

    message_number: Count
    index: Annotated[int, Meta(ge=0, lt=2**31)]
    count: Annotated[int, Meta(ge=1, le=2**31)]
    payload_bytes: Count
    check: Annotated[int, Meta(ge=0, lt=2**32)]
    data: Annotated[memoryview, Meta(min_length=1)]
    """A view of the payload, or of the frame that it came in: megabytes are not copied for every layer that they pass."""


_ENCODER = Encoder()
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
    check, whole = crc32(payload), memoryview(payload)
    return [
        _ENCODER.encode(Fragment(message_number, index, count, total, check, whole[index * size : (index + 1) * size]))
        for index in range(count)
    ]


class _Partial:
    """A message of which some fragments are here."""

    __slots__ = ("bytes_held", "count", "pieces", "total")

    def __init__(self, fragment: Fragment) -> None:
        self.count, self.total = fragment.count, fragment.payload_bytes
        self.pieces: dict[int, memoryview] = {}
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
        except BAD_BYTES as error:
            self.counts["refused"] += 1
            raise CodecError(f"from {sender}, fragment of {len(frame)} bytes: {quoted(error)}") from None

    def forget(self, sender: str) -> None:
        """Drop (and count) the incomplete messages of a sender that is gone."""
        while sender in self._partial:
            self._evict(sender)

    def _decode(self, frame: bytes) -> Fragment:
        limits = self._limits
        if len(frame) > limits.frame_bytes_max:
            raise Unsound("frame", f"at most {limits.frame_bytes_max} bytes", str(len(frame)))
        fragment = _FRAGMENT.decode(frame)
        if fragment.index >= fragment.count:
            raise Unsound("index", f"below count {fragment.count}", str(fragment.index))
        if fragment.count > limits.fragments_max:
            raise Unsound("count", f"at most {limits.fragments_max}", str(fragment.count))
        bytes_max = min(limits.message_bytes_max, limits.partial_bytes_per_sender_max - fragment.count * FRAGMENT_COST_BYTES)
        if not fragment.count <= fragment.payload_bytes <= bytes_max:
            raise Unsound("payload_bytes", f"{fragment.count} to {bytes_max}", str(fragment.payload_bytes))
        return fragment

    def _add(self, sender: str, fragment: Fragment) -> bytes | None:
        key = (fragment.message_number, fragment.check)
        partial = self._partial.get(sender, {}).get(key)
        if partial is None:
            partial = _Partial(fragment)
            self._partial.setdefault(sender, {})[key] = partial
        elif (partial.count, partial.total) != (fragment.count, fragment.payload_bytes):
            raise Unsound(
                "fragment", f"{partial.count} pieces of {partial.total} bytes as before", f"{fragment.count} of {fragment.payload_bytes}"
            )
        if fragment.index in partial.pieces:
            self.counts["repeated"] += 1
            return None
        partial.pieces[fragment.index] = fragment.data
        self._charge(sender, partial, len(fragment.data) + FRAGMENT_COST_BYTES)
        if partial.bytes_held - len(partial.pieces) * FRAGMENT_COST_BYTES > partial.total:
            self._remove(sender, key)
            raise Unsound("fragments", f"{partial.total} bytes in all", "more")
        if len(partial.pieces) < partial.count:
            self._keep_bounds(sender)
            return None
        self._remove(sender, key)
        payload = b"".join([partial.pieces[index] for index in range(partial.count)])
        if len(payload) != partial.total or crc32(payload) != fragment.check:
            raise Unsound("payload put together", f"{partial.total} bytes with CRC-32 {fragment.check:08x}", f"{len(payload)} others")
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
