"""docs/protocol-wire.md speaks the truth: its worked examples are what the codec writes and reads."""

import re
import struct
from hashlib import blake2b
from pathlib import Path

from hosfl_async import messages as m
from hosfl_async.codec import CodecLimits, Decoder, Reassembler, encode, split

PAGE = (Path(__file__).parents[2] / "docs" / "protocol-wire.md").read_text(encoding="utf-8")


def example(name: str) -> list[bytes]:
    """The lines of one ``hex`` block, without their comments."""
    block = re.search(rf"```hex {name}\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return [bytes.fromhex(line.partition("#")[0]) for line in block[1].splitlines()]


def test_the_envelope_of_the_page_is_ours() -> None:
    step = m.StepId("client-3", 2, 17)
    activations = m.Tensor("float32", (2, 1), struct.pack("<2f", 0.5, -1.0))
    message = m.SmashedData(step, 300, activations, m.Tensor("int64", (2,), struct.pack("<2q", 1, 7)))
    payload = b"".join(example("envelope"))
    assert payload == encode("client-3", message)
    assert Decoder(m.SplitServerInbox).decode(payload) == ("client-3", message)
    assert f"{len(payload)} bytes." in PAGE


def test_the_fragments_of_the_page_are_ours() -> None:
    frames = [head + bytes(length) for head, length in zip(example("fragments"), (984, 516), strict=True)]
    assert frames == split(bytes(1500), 3, CodecLimits(frame_bytes_max=1024))
    reassembler = Reassembler()
    assert [reassembler.offer("a", frame) for frame in reversed(frames)] == [None, bytes(1500)]


def test_the_chain_value_of_the_page_is_ours() -> None:
    terms = (
        m.Term(m.StepId("client-0", 1, 7), 0, struct.pack("<2f", 0.5, -0.25)),
        m.Term(m.StepId("client-3", 2, 17), 1, b""),
    )
    (value,) = example("chain-value")
    assert blake2b(b"".join(example("chain")), digest_size=32).digest() == value
    assert m.chain_hash(m.EMPTY_CHAIN, 1, terms) == value


def test_every_bound_named_on_the_page_is_a_setting() -> None:
    assert set(re.findall(r"`(\w+_max)`", PAGE)) <= set(CodecLimits.__dataclass_fields__)
    limits = CodecLimits()
    assert (limits.message_bytes_max, limits.frame_bytes_max, limits.fragments_max) == (64 * 2**20, 256 * 2**10, 4096)
    assert m.PROBES_MAX == 4096
