"""Frames as an enemy or a broken machine would send them, made of sound ones. The mutations know MessagePack."""

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack
from strategies_messages import chained_entries, packed_floats

from hosfl_async import messages as m
from hosfl_async.codec import CodecLimits, encode, encode_record, split

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


def longest(size: int) -> list[bytes]:
    """Frames of ``size`` bytes, made to take long: noise, many and deep things, a sound message with too much in it or with a tail."""
    scalars = (size - 200) // 9
    sound = encode("client-3", m.ProjectedGradients(STEP, 5, (1.5,) * scalars))
    foreign = msgpack.unpackb(sound)
    foreign["message"]["projected_gradients"] += [b"x" * (size - len(sound) - 5)]
    return [
        random.Random(size).randbytes(size),
        b"\xdd" + (size - 5).to_bytes(4, "big") + b"\x90" * (size - 5),
        b"\x91" * (size - 1) + b"\xc0",
        b"\xdf" + ((size - 5) // 2).to_bytes(4, "big") + b"\xa0\xc0" * ((size - 5) // 2),
        msgpack.packb(foreign),
        sound + b"\xc0" * (size - len(sound)),
    ]


def full_page(size: int) -> bytes:
    """A sound page of the log with as many terms as go into a frame of ``size`` bytes."""
    one, two = (len(encode("aggregator", m.LogPage(0, tuple(chained_entries([TERMS] * count)), 3, DIGEST))) for count in (1, 2))
    return encode("aggregator", m.LogPage(0, tuple(chained_entries([TERMS] * (1 + (size - 64 - one) // (two - one + 8)))), 3, DIGEST))


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


def hostile(dice: random.Random) -> bytes:
    """One more frame."""
    change = dice.choices([function for function, _ in MUTATIONS], [weight for _, weight in MUTATIONS])[0]
    return change(dice, dice.choice(SEEDS))
