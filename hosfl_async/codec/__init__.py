"""Messages to bytes and back: MessagePack, typed decoding, named bounds. docs/protocol-wire.md is the format, byte by byte.

What travels is one *envelope*, the map ``{schema, sender, message: {kind, ...}}``. An envelope above ``frame_bytes_max`` is cut
into *fragments*; a fragment is an array, so the first byte tells the two apart. Nothing received is trusted:

1. msgspec decodes straight into the types of one agent's inbox. An unknown field, another type, a foreign kind, a nesting bomb
   or a length that the bytes do not cover ends there, before memory is spent on it.
2. What types cannot say is checked next, by kind, in ``CHECKS``: numbers are finite, a tensor is as long as its dtype and shape
   say, labels fit their activations, a log page has no gap, terms stand in canonical order.
3. Whatever goes wrong is a ``CodecError`` of one line: who, what, expected, found. It never quotes the payload at length.

Hash chains and digests are not checked here: they need the log or the parameters, which their owners have.

``envelope`` is the way in and out, ``soundness`` what types cannot say, ``fragments`` the cutting and joining, ``accounting`` where the
bytes go, ``quantisation`` numbers in fewer bits, ``limits`` all bounds, ``refusal`` how a refusal reads.
"""

from hosfl_async.codec.accounting import BYTE_KINDS, TENSOR_KINDS, WHOLE_KINDS, bytes_by_kind
from hosfl_async.codec.envelope import Decoder, Envelope, decode_record, encode, encode_record
from hosfl_async.codec.fragments import FRAGMENT_COST_BYTES, FRAGMENT_HEAD_BYTES, Fragment, Reassembler, is_fragment, split
from hosfl_async.codec.limits import DEFAULT_LIMITS, CodecLimits
from hosfl_async.codec.quantisation import dequantise, quantise, words_needed

__all__ = [
    "BYTE_KINDS",
    "DEFAULT_LIMITS",
    "FRAGMENT_COST_BYTES",
    "FRAGMENT_HEAD_BYTES",
    "TENSOR_KINDS",
    "WHOLE_KINDS",
    "CodecLimits",
    "Decoder",
    "Envelope",
    "Fragment",
    "Reassembler",
    "bytes_by_kind",
    "decode_record",
    "dequantise",
    "encode",
    "encode_record",
    "is_fragment",
    "quantise",
    "split",
    "words_needed",
]
