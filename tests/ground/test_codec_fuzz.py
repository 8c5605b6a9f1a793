"""Arbitrary bytes: 200,000 hostile frames at every inbox and at the reassembler, from one seed.

Each frame either decodes, and then everything in it is sound and survives another round trip, or raises ``CodecError``;
nothing else. The mutations know MessagePack: besides flipped bits and torn ends they replace values by others of the wrong type,
add and remove keys, announce huge lengths, nest deeply and splice two frames together.
"""

import math
import random
import struct
from collections import Counter
from math import prod
from typing import Any

import numpy as np
import pytest
from hostile_frames import LIMITS, MUTATIONS, SEEDS
from strategies_messages import INBOXES

from hosfl_async import messages as m
from hosfl_async.codec import Decoder, Reassembler, decode_record, encode
from hosfl_async.errors import CodecError

FRAMES = 200_000


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
        batches, beyond = divmod(value.activations.shape[0], sum(rows))
        assert rows and all(rows) and batches and not beyond and len(value.labels.shape) == 1
        assert value.labels.shape[0] and len(rows) * batches % value.labels.shape[0] == 0
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
