"""Arbitrary bytes: 200,000 hostile frames at every inbox and at the reassembler, from one seed.

Each frame either decodes, and then everything in it is sound and survives another round trip, or raises ``CodecError``;
nothing else. The mutations know MessagePack: besides flipped bits and torn ends they replace values by others of the wrong type,
add and remove keys, announce huge lengths, nest deeply and splice two frames together.
"""

import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import msgpack
import numpy as np
import pytest
from strategies_messages import INBOXES, chained_entries, packed_floats

from hosfl_async import messages as m
from hosfl_async.codec import CodecLimits, Decoder, Reassembler, decode_record, encode, encode_record, split
from hosfl_async.errors import CodecError

FRAMES = 200_000
LIMITS = CodecLimits(message_bytes_max=4096, frame_bytes_max=1024, partial_messages_max=4, partial_bytes_per_sender_max=16_384)

STEP = m.StepId("client-3", 2, 17)
TERMS = (m.Term(m.StepId("a", 1, 2), 0, packed_floats([0.5, -1.0])), m.Term(m.StepId("b", 1, 2), 0, packed_floats([2.0])))
ENTRIES = tuple(chained_entries([TERMS, TERMS[:1], ()]))
TENSOR = m.Tensor("float32", (2, 3), packed_floats([0.1, -2.0, 3e38, 0.0, 1e-40, 7.0]))
LABELS = m.Tensor("int64", (2,), struct.pack("<2q", 1, -9))
DIGEST = bytes(range(32))

MESSAGES: list[m.Message] = [
    m.SmashedData(STEP, 5, TENSOR, LABELS),
    m.SmashedData(STEP, 5, m.Tensor("float32", (3, 2), TENSOR.data, b"", bytes([1, 0, 2, 0])), LABELS),
    m.DualRequest(STEP),
    m.DualVariable(STEP, 5, TENSOR),
    m.DualVariable(STEP, 5, m.Tensor("int4", (2, 3), bytes([0x97, 0x01, 0x3E]), packed_floats([0.5]))),
    m.DualVariable(STEP, 5, m.Tensor("int8", (2, 3), bytes(range(6)), packed_floats([0.5, 2.0]))),
    m.DualVariable(STEP, 5, m.Tensor("bfloat16", (2,), bytes([0x80, 0x3F, 0, 0]))),
    m.DualRefused(STEP, "busy"),
    m.Join(3, DIGEST, DIGEST),
    m.Welcome(3, 2, 40),
    m.JoinRefused(3, "old_boot"),
    m.ProjectedGradients(STEP, 5, (1.5, -2.25, 0.0, 1e300, 3.0)),
    m.Accepted(STEP, 5, 40),
    m.Refused(STEP, "stale", 40),
    m.CatchUp(5, m.Checkpoint(5, DIGEST)),
    m.LogPage(0, ENTRIES, 3, DIGEST),
    m.Snapshot(5, m.Tensor("float32", (6,), TENSOR.data), DIGEST, DIGEST, 40),
    m.DigestDiffers(5, DIGEST),
    m.HeadAnnounced(5, True),
]
ENVELOPES = [encode("client-3", message) for message in MESSAGES]
FRAGMENTS = [frame for length in (1500, 3000) for frame in split(bytes(length), 1, LIMITS)]
RECORDS = [encode_record(m.ClientJoined("a", 1, 1)), *[encode_record(m.EntryCommitted(entry)) for entry in ENTRIES]]
SEEDS = ENVELOPES * 3 + FRAGMENTS + RECORDS


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


NASTY: list[Any] = [
    *[None, True, False, 0, 1, -1, 2**31, 2**62 + 1, 2**64 - 1, -(2**63), 0.5, math.nan, math.inf, -math.inf, 1e308],
    *["", "x", "float64", "client-3", "a/b", "\n", "é", "x" * 300, "Accepted", "SmashedData", "LogPage"],
    *[b"", b"\0", bytes(31), DIGEST, bytes(33), b"\xff" * 24, packed_floats([math.nan] * 6), packed_floats([math.inf] + [0.0] * 5)],
    *[[], [0], [2, 3], [2**31] * 6, [1] * 7, [-1], [1.0] * 50, {}, {"kind": "Join"}, {1: 2}, {"a": {}}, nested(40), nested(100)],
    *[msgpack.ExtType(1, b""), msgpack.ExtType(100, bytes(9)), msgpack.Timestamp(1, 2)],
]
NASTY_PACKED = [msgpack.packb(value) for value in NASTY]
HEADS = [
    b"\xdf",
    b"\xdd",
    b"\xdb",
    b"\xc6",
    b"\xc9",
    b"\xde",
    b"\xdc",
    b"\xda",
    b"\xc5",
    b"\xd9",
    b"\xc4",
    b"\xc1",
    b"\x9f",
    b"\x8f",
    b"\xbf",
    b"\xcb",
]


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        places(inner, found)
    return found


def nasty(dice: random.Random) -> Any:
    """A new object each time, so that none is ever put inside itself."""
    return msgpack.unpackb(dice.choice(NASTY_PACKED), strict_map_key=False)


def restructured(dice: random.Random, frame: bytes) -> bytes:
    value = msgpack.unpackb(frame, strict_map_key=False)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        container, key = dice.choice(places(value, []))
        change = dice.randrange(5)
        if change <= 1:
            container[key] = nasty(dice)
        elif change == 2:
            if len(places(value, [])) > 1:
                del container[key]
        elif isinstance(container, dict):
            container[dice.choice(["extra", "kind", "step", "data", "", "é"])] = nasty(dice)
        else:
            container.append(nasty(dice))
        if not places(value, []):
            break
    return msgpack.packb(value)


def transplanted(dice: random.Random, frame: bytes) -> bytes:
    """A value of another frame in place of one of ours: right somewhere, wrong here."""
    value, other = msgpack.unpackb(frame), msgpack.unpackb(dice.choice(SEEDS))
    (container, key), (donor, donor_key) = dice.choice(places(value, [])), dice.choice(places(other, []))
    container[key] = donor[donor_key]
    return msgpack.packb(value)


def flipped(dice: random.Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(dice.choice((1, 1, 2, 8))):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def torn(dice: random.Random, frame: bytes) -> bytes:
    return frame[: dice.randrange(len(frame))]


def spliced(dice: random.Random, frame: bytes) -> bytes:
    other = dice.choice(SEEDS)
    return frame[: dice.randrange(len(frame))] + other[dice.randrange(len(other)) :]


def announced(dice: random.Random, frame: bytes) -> bytes:
    """Somewhere inside, the head of a container that is longer than the world."""
    place = dice.randrange(len(frame))
    length = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff"))
    return frame[:place] + dice.choice(HEADS) + length + frame[place + dice.randrange(6) :]


def noise(dice: random.Random, frame: bytes) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 2, 5, 20, 100)))


def headed_noise(dice: random.Random, frame: bytes) -> bytes:
    return frame[: dice.choice((1, 8, 9, 20, 40))] + dice.randbytes(dice.randrange(60))


def oversize(dice: random.Random, frame: bytes) -> bytes:
    return frame + bytes(dice.choice((1, 2000, 5000)))


def nesting_bomb(dice: random.Random, frame: bytes) -> bytes:
    return frame[: dice.randrange(len(frame))] + dice.choice((b"\x91", b"\x81\xa1a", b"\x81\xa4kind")) * dice.choice((50, 1200))


MUTATIONS: list[tuple[Callable[[random.Random, bytes], bytes], int]] = [
    (restructured, 40),
    (transplanted, 15),
    (flipped, 20),
    (torn, 5),
    (spliced, 5),
    (announced, 8),
    (noise, 2),
    (headed_noise, 3),
    (oversize, 1),
    (nesting_bomb, 1),
]


def assert_whole(tensor: m.Tensor) -> None:
    """As many bytes as dtype and shape say, and finite numbers only."""
    stored = {"float32": "<f4", "int64": "<i8", "bfloat16": "<u2", "int8": "i1", "int4": "u1"}[tensor.dtype]
    items = np.frombuffer(tensor.data, stored)
    if tensor.dtype == "int4":
        assert items.size == (prod(tensor.shape) + 1) // 2
    else:
        items = items.reshape(tensor.shape)
    if tensor.dtype == "bfloat16":
        items = (items.astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(items).all()
    scales = np.frombuffer(tensor.scales, "<f4")
    assert np.isfinite(scales).all()
    assert scales.size in ((1, tensor.shape[0]) if tensor.dtype in ("int8", "int4") else (0,))


def assert_sound(value: Any) -> None:
    """Independent of the codec: numbers finite, tensors whole, terms ordered, page without a gap."""
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, m.Tensor):
        assert_whole(value)
    elif isinstance(value, m.SmashedData):
        assert value.labels.dtype == "int64"
        rows = [number for (number,) in struct.iter_unpack("<H", value.activations.lengths)] or [1] * value.activations.shape[0]
        assert value.labels.shape == (len(rows),) and rows and all(rows) and value.activations.shape[0] == sum(rows)
    elif isinstance(value, m.LogEntry):
        keys = [(term.step.client, term.step.incarnation, term.step.number) for term in value.terms]
        assert keys == sorted(set(keys))
        assert all(np.isfinite(np.frombuffer(term.coefficients, "<f4")).all() for term in value.terms)
    elif isinstance(value, m.LogPage):
        assert [entry.version for entry in value.entries] == [value.from_version + 1 + i for i in range(len(value.entries))]
    if isinstance(value, tuple):
        for item in value:
            assert_sound(item)
    elif hasattr(value, "__struct_fields__"):
        for field in value.__struct_fields__:
            assert_sound(getattr(value, field))


@pytest.mark.parametrize("part", range(4))
def test_hostile_frames_decode_or_raise_codec_error(part: int) -> None:
    dice = random.Random(20260400 + part)
    decoders = [Decoder(inbox, LIMITS) for inbox in INBOXES.values()]
    reassembler = Reassembler(LIMITS)
    mutations, weights = [mutation for mutation, _ in MUTATIONS], [weight for _, weight in MUTATIONS]
    outcomes: Counter[str] = Counter()
    for _ in range(FRAMES // 4):
        frame = dice.choices(mutations, weights)[0](dice, dice.choice(SEEDS))
        for decoder in decoders:
            try:
                sender, message = decoder.decode(frame)
            except CodecError as error:
                assert len(str(error)) < 400
                outcomes["refused"] += 1
                continue
            outcomes["decoded"] += 1
            assert_sound(message)
            assert decoder.decode(encode(sender, message)) == (sender, message)
        try:
            assert_sound(decode_record(frame))
            outcomes["records"] += 1
        except CodecError:
            outcomes["records refused"] += 1
        try:
            outcomes["payloads"] += reassembler.offer(dice.choice("abc"), frame) is not None
        except CodecError:
            outcomes["fragments refused"] += 1
        assert reassembler.bytes_held <= 3 * LIMITS.partial_bytes_per_sender_max
    for outcome, share in {"refused": 0.5, "decoded": 0.01, "records": 0.001, "payloads": 0.1, "fragments refused": 0.01}.items():
        assert outcomes[outcome] >= share * FRAMES / 4, f"the fuzz has gone blind: {outcomes}"
