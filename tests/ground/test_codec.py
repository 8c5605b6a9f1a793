"""The codec: every message there and back, every kind of unsound message refused in one clear line, fragments in any order."""

import random
import struct
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_messages import INBOXES, MESSAGES, chained_entries, messages, names, packed_floats, records

from hosfl_async import messages as m
from hosfl_async.codec import (
    BYTE_KINDS,
    FRAGMENT_COST_BYTES,
    CodecLimits,
    Decoder,
    Reassembler,
    bytes_by_kind,
    decode_record,
    encode,
    encode_record,
    is_fragment,
    split,
)
from hosfl_async.errors import CodecError

STEP = m.StepId("client-3", 1, 17)
DECODERS = {name: Decoder(inbox) for name, inbox in INBOXES.items()}


def readers_of(message: m.Message) -> list[str]:
    return [name for name, inbox in INBOXES.items() if type(message) in get_args(inbox)]


# -- there and back -----------------------------------------------------------------------------------


def test_every_kind_of_message_is_tested_here_and_has_a_reader() -> None:
    assert set(MESSAGES) == set(m.Message.__subclasses__())
    assert set(MESSAGES) == {kind for inbox in INBOXES.values() for kind in get_args(inbox)}


@settings(max_examples=600)
@given(names, messages)
def test_every_message_reaches_its_readers_unchanged_and_nobody_else(sender: str, message: m.Message) -> None:
    payload = encode(sender, message)
    readers = readers_of(message)
    for name, decoder in DECODERS.items():
        if name in readers:
            assert decoder.decode(payload) == (sender, message)
            decoder.check(message, len(payload))
        else:
            with pytest.raises(CodecError, match=type(message).__name__):
                decoder.check(message, len(payload))
            with pytest.raises(CodecError, match=f"from {sender}.*{type(message).__name__}"):
                decoder.decode(payload)


def test_who_looks_through_a_message_once_still_refuses_the_next_of_its_kind() -> None:
    decoder = Decoder(m.EdgeClientInbox)
    step, wrong = m.StepId("a", 1, 1), struct.pack("<f", float("inf"))
    sound = m.DualVariable(step, 1, m.Tensor("float32", (1, 1), bytes(4)))
    unsound = m.DualVariable(step, 1, m.Tensor("float32", (1, 1), wrong))
    for _ in range(2):
        decoder.check(sound, 99)
        decoder.check(sound, 99)
        with pytest.raises(CodecError, match="finite"):
            decoder.check(unsound, 99)
        with pytest.raises(CodecError, match="at most"):
            decoder.check(sound, 2**40)


@settings(max_examples=300)
@given(names, messages)
def test_the_msgpack_package_reads_our_bytes_and_we_read_its(sender: str, message: m.Message) -> None:
    payload = encode(sender, message)
    plain = msgpack.unpackb(payload, max_map_len=100)
    assert list(plain) == ["schema", "sender", "message"]
    assert (plain["schema"], plain["sender"], plain["message"]["kind"]) == (m.SCHEMA_VERSION, sender, type(message).__name__)
    for name in readers_of(message):
        assert DECODERS[name].decode(msgpack.packb(plain)) == (sender, message)
        assert DECODERS[name].decode(msgpack.packb(in_another_order(plain))) == (sender, message)


def in_another_order(value: Any) -> Any:
    """The same map with its keys the other way: MessagePack does not order them, so neither may we insist."""
    if isinstance(value, dict):
        return {key: in_another_order(value[key]) for key in reversed(value)}
    return [in_another_order(item) for item in value] if isinstance(value, list) else value


@given(messages, messages)
def test_equal_messages_give_equal_bytes(a: m.Message, b: m.Message) -> None:
    assert (encode("s", a) == encode("s", b)) == (repr(a) == repr(b))


@settings(max_examples=200)
@given(records)
def test_durable_records_come_back(record: m.DurableRecord) -> None:
    assert decode_record(encode_record(record)) == record


@given(messages)
def test_bytes_by_kind_adds_up(message: m.Message) -> None:
    length = len(encode("client-3", message))
    kinds = bytes_by_kind(message, length)
    assert sum(kinds.values()) == length
    assert set(kinds) <= set(BYTE_KINDS)
    assert all(value >= 0 for value in kinds.values())


def test_bytes_by_kind_names_what_travels() -> None:
    smashed = m.SmashedData(STEP, 1, floats(4, 8), m.Tensor("int64", (4,), bytes(32)))
    assert bytes_by_kind(smashed, 300) == {"activations": 128, "labels": 32, "control": 140}
    assert bytes_by_kind(m.SmashedData(STEP, 1, ragged(4, 1, 3), labels(2)), 300) == {"activations": 20, "labels": 16, "control": 264}
    assert bytes_by_kind(m.DualVariable(STEP, 1, floats(4, 8)), 300) == {"duals": 128, "control": 172}
    assert bytes_by_kind(m.DualVariable(STEP, 1, m.Tensor("int4", (4, 8), bytes(16), bytes(4))), 300) == {"duals": 20, "control": 280}
    assert bytes_by_kind(m.ProjectedGradients(STEP, 1, (1.0,)), 90) == {"scalars": 90}
    assert bytes_by_kind(m.LogPage(0, (), 0), 90) == {"log": 90}
    assert bytes_by_kind(m.Snapshot(1, floats(4), bytes(32), bytes(32), 1), 90) == {"log": 90}
    assert bytes_by_kind(m.Accepted(STEP, 1, 1), 90) == {"control": 90}


def test_lengths_are_those_of_one_batch_of_several() -> None:
    """An anchor's activations and those of two perturbed forward passes."""
    sent = m.SmashedData(STEP, 0, ragged(9, 1, 2), labels(2))
    for name in readers_of(sent):
        assert DECODERS[name].decode(encode("a", sent)) == ("a", sent)
    assert readers_of(sent)


# -- what is refused ----------------------------------------------------------------------------------


def floats(*shape: int, value: float = 1.0) -> m.Tensor:
    count = 1
    for size in shape:
        count *= size
    return m.Tensor("float32", shape, packed_floats([value] * count))


def ragged(rows: int, *lengths: int) -> m.Tensor:
    return m.Tensor("float32", (rows,), bytes(4 * rows), b"", struct.pack(f"<{len(lengths)}H", *lengths))


def labels(count: int) -> m.Tensor:
    return m.Tensor("int64", (count,), bytes(8 * count))


def term(client: str, packed: bytes = b"") -> m.Term:
    return m.Term(m.StepId(client, 1, 1), 0, packed)


def page(*terms: m.Term) -> m.LogPage:
    return m.LogPage(0, (m.LogEntry(1, terms, bytes(32)),), 1)


NAN, INF = float("nan"), float("inf")
ENTRIES = tuple(chained_entries([(term("a"),)] * 4))

UNSOUND: dict[str, tuple[m.Message, str]] = {
    "nan scalar": (m.ProjectedGradients(STEP, 0, (1.0, NAN)), "projected_gradients: expected finite"),
    "inf scalar": (m.ProjectedGradients(STEP, 0, (-INF,)), "projected_gradients: expected finite"),
    "too many probes": (m.ProjectedGradients(STEP, 0, (1.0,) * 4097), r"length <= 4096 - at `\$.message.projected_gradients`"),
    "nan activation": (m.SmashedData(STEP, 0, floats(2, 3, value=NAN), labels(2)), "activations: expected finite.*nan at element 0"),
    "inf dual": (m.DualVariable(STEP, 0, floats(2, 3, value=-INF)), "dual: expected finite.*-inf at element 0"),
    "nan parameter": (m.Snapshot(1, floats(3, value=NAN), bytes(32), bytes(32), 1), "parameters: expected finite"),
    "nan coefficient": (
        page(term("a", packed_floats([1.0])), term("b", packed_floats([1.0, NAN]))),
        r"entries\[0\].terms: expected finite",
    ),
    "short tensor": (m.DualVariable(STEP, 0, m.Tensor("float32", (2, 2), bytes(12))), r"expected 16 bytes for float32 \(2, 2\), found 12"),
    "long tensor": (m.DualVariable(STEP, 0, m.Tensor("float32", (2,), bytes(12))), "expected 8 bytes.*found 12"),
    "huge shape": (m.DualVariable(STEP, 0, m.Tensor("float32", (2**31,) * 6, b"")), "found 0 bytes"),
    "integer dual": (m.DualVariable(STEP, 0, labels(2)), "dual: expected bfloat16 or float32 or int4 or int8, found int64"),
    "scalar activations": (m.SmashedData(STEP, 0, floats(), labels(1)), "at least one sample"),
    "empty batch": (m.SmashedData(STEP, 0, floats(0, 3), labels(0)), "at least one sample"),
    "lengths of too few rows": (m.SmashedData(STEP, 0, ragged(4, 1, 2), labels(2)), "lengths: expected 4 rows.*found 3 rows"),
    "lengths that would wrap around": (m.SmashedData(STEP, 0, ragged(2, *[1] * 2, *[65535] * 65536), labels(65538)), "expected 2 rows"),
    "a sample without rows": (m.SmashedData(STEP, 0, ragged(2, 2, 0), labels(2)), "in samples of at least 1, found .* of 0 to 2"),
    "half a length": (m.SmashedData(STEP, 0, m.Tensor("float32", (1,), bytes(4), b"", b"\1"), labels(1)), "whole uint16"),
    "lengths of a batch and a half": (m.SmashedData(STEP, 0, ragged(5, 1, 2), labels(2)), "lengths: expected 5 rows.*found 3 rows"),
    "labels of rows": (m.SmashedData(STEP, 0, ragged(3, 1, 2), labels(3)), "2 labels, one per sample, found 3"),
    "lengths of a dual": (m.DualVariable(STEP, 0, ragged(3, 1, 2)), "dual: expected no lengths, found 4 bytes"),
    "lengths of labels": (
        m.SmashedData(STEP, 0, floats(2), m.Tensor("int64", (2,), bytes(16), b"", b"\1\0\1\0")),
        "labels: expected no lengths",
    ),
    "float labels": (m.SmashedData(STEP, 0, floats(2), floats(2)), "labels: expected int64, found float32"),
    "labels in two dimensions": (
        m.SmashedData(STEP, 0, floats(2), m.Tensor("int64", (2, 1), bytes(16))),
        r"labels: expected 1 dimension\(s\), found shape \(2, 1\)",
    ),
    "a label too many": (m.SmashedData(STEP, 0, floats(2, 3), labels(3)), "expected 2 labels.*found 3"),
    "snapshot in two dimensions": (m.Snapshot(1, floats(2, 2), bytes(32), bytes(32), 1), "parameters: expected 1 dimension"),
    "integer snapshot": (m.Snapshot(1, labels(2), bytes(32), bytes(32), 1), "parameters: expected float32"),
    "half a coefficient": (page(term("a", bytes(6))), "whole float32 coefficients, found 6 bytes for a/1"),
    "terms out of order": (page(term("b"), term("a")), "strictly increasing steps, found a/1 after b/1"),
    "a term twice": (page(term("a"), term("a")), "strictly increasing steps, found a/1 after a/1"),
    "page with a gap": (m.LogPage(0, (ENTRIES[0], ENTRIES[2]), 3), r"entries\[1\]: expected version 2, found version 3"),
    "page that starts late": (m.LogPage(0, ENTRIES[1:], 4), r"entries\[0\]: expected version 1, found version 2"),
    "page with an entry twice": (m.LogPage(0, (ENTRIES[0], ENTRIES[0]), 1), "expected version 2, found version 1"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_messages_are_refused_with_the_place(name: str) -> None:
    message, problem = UNSOUND[name]
    payload = encode("client-3", message)
    for reader in readers_of(message):
        with pytest.raises(CodecError, match=f"from client-3, {len(payload)} bytes: .*{problem}"):
            DECODERS[reader].decode(payload)


def sound() -> dict[str, Any]:
    return msgpack.unpackb(encode("client-3", m.ProjectedGradients(STEP, 5, (1.0, 2.0))))


def with_change(path: str, value: Any) -> bytes:
    """The sound envelope, packed by ``msgpack``, with one place set to ``value`` (or, for ``...``, taken away)."""
    envelope: Any = sound()
    *parents, last = path.split("/")
    place = envelope
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return msgpack.packb(envelope, unicode_errors="surrogatepass")


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "unreadable frame of 0 bytes"),
    "half an envelope": (with_change("schema", 1)[:-5], "unreadable frame.*truncated"),
    "bytes after the end": (with_change("schema", 1) + b"\x00", "trailing"),
    "a second envelope": (with_change("schema", 1) * 2, "trailing"),
    "an array": (msgpack.packb([1, 2, 3]), "Expected `object`, got `array`"),
    "another schema": (with_change("schema", 2), "from client-3.*schema: expected 1, found 2"),
    "another schema with other fields": (
        msgpack.packb({"schema": 2, "sender": "client-3", "message": {"kind": "New"}, "trace": 1}),
        "from client-3.*schema: expected 1, found 2",
    ),
    "schema true": (with_change("schema", True), r"got `bool` - at `\$.schema`"),
    "schema 1.0": (with_change("schema", 1.0), r"got `float` - at `\$.schema`"),
    "no sender": (with_change("sender", ...), "missing required field `sender`"),
    "sender with a slash": (with_change("sender", "a/b"), r"at `\$.sender`"),
    "sender with a newline": (with_change("sender", "client-3\n"), r"at `\$.sender`"),
    "sender with a wildcard": (with_change("sender", "#"), r"at `\$.sender`"),
    "sender without end": (with_change("sender", "a" * 65), r"at `\$.sender`"),
    "sender in Arabic digits": (with_change("sender", "client-٣"), r"at `\$.sender`"),
    "sender not UTF-8": (with_change("schema", 1).replace(b"client-3", b"client-\xff"), "invalid UTF-8"),
    "a lone surrogate": (with_change("message/kind", "\ud800"), "invalid UTF-8"),
    "unknown field outside": (with_change("extra", 1), "unknown field `extra`"),
    "unknown field inside": (with_change("message/extra", 1), r"unknown field `extra` - at `\$.message`"),
    "unknown field in the step": (with_change("message/step/extra", 1), r"unknown field `extra` - at `\$.message.step`"),
    "missing field": (with_change("message/base_version", ...), "missing required field `base_version`"),
    "no kind": (with_change("message/kind", ...), "missing required field `kind`"),
    "unknown kind": (with_change("message/kind", "Gossip"), "Invalid value 'Gossip'"),
    "text for a number": (with_change("message/base_version", "5"), r"Expected `int`, got `str` - at `\$.message.base_version`"),
    "null for a number": (with_change("message/base_version", None), "got `None`"),
    "a negative count": (with_change("message/base_version", -1), "Expected `int` >= 0"),
    "a count beyond 2^62": (with_change("message/base_version", 2**63), "Expected `int` <= "),
    "text for a scalar": (with_change("message/projected_gradients", ["1"]), r"got `str` - at `\$.message.projected_gradients\[0\]`"),
    "an extension type": (with_change("message/base_version", msgpack.ExtType(5, b"abc")), "got `ext`"),
    "a timestamp": (with_change("message/base_version", msgpack.Timestamp(1)), "got `ext`|got `datetime`"),
    "four GiB announced": (b"\x83\xa6schema\x01\xa6sender\xdb\xff\xff\xff\xff" + b"a" * 50, "truncated"),
    "four billion elements announced": (
        with_change("message/projected_gradients", []).replace(b"projected_gradients\x90", b"projected_gradients\xdd\xff\xff\xff\xff"),
        "length <= 4096",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_envelopes_are_refused_with_the_reason(name: str) -> None:
    payload, problem = REFUSED[name]
    with pytest.raises(CodecError, match=problem) as refusal:
        DECODERS["aggregator"].decode(payload)
    assert "\n" not in str(refusal.value)


def test_the_sound_envelope_of_these_tests_is_accepted() -> None:
    assert DECODERS["aggregator"].decode(with_change("schema", 1)) == ("client-3", m.ProjectedGradients(STEP, 5, (1.0, 2.0)))
    assert DECODERS["aggregator"].decode(with_change("message/projected_gradients", [1, 2]))[1].projected_gradients == (1.0, 2.0)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x83\xa6schema\x01\xa6sender\xa1a\xa7message\x82\xa1a"])
@pytest.mark.parametrize("nested", [b"\x91", b"\x81\xa1a"])
def test_nesting_bombs_are_refused(opening: bytes, nested: bytes) -> None:
    for decoder in DECODERS.values():
        with pytest.raises(CodecError):
            decoder.decode(opening + nested * 200_000 + b"\xc0")


@pytest.mark.parametrize("path", ["message/kind", "sender", "message/step/client"])
def test_errors_do_not_quote_the_payload(path: str) -> None:
    secret = "s3cret!" * 10_000
    for payload in (with_change(path, secret), with_change(f"{path.rpartition('/')[0]}/{secret}".lstrip("/"), 1)):
        with pytest.raises(CodecError) as refusal:
            DECODERS["aggregator"].decode(payload)
        assert len(str(refusal.value)) < 400


def test_an_oversize_envelope_is_refused_before_it_is_looked_at() -> None:
    decoder = Decoder(m.AggregatorInbox, CodecLimits(message_bytes_max=1024))
    with pytest.raises(CodecError, match="expected at most 1024 bytes, found 1025"):
        decoder.decode(b"\xc1" * 1025)
    with pytest.raises(CodecError, match="unreadable"):
        decoder.decode(b"\xc1" * 1024)


def test_unsound_records_are_refused() -> None:
    good = encode_record(m.EntryCommitted(ENTRIES[0]))
    for packed in (b"", good[:-1], good + b"\0", b"\x91" * 100_000, encode_record(m.EntryCommitted(page(term("b"), term("a")).entries[0]))):
        with pytest.raises(CodecError, match=f"durable record of {len(packed)} bytes"):
            decode_record(packed)


# -- fragments ----------------------------------------------------------------------------------------

SMALL = CodecLimits(
    message_bytes_max=20_000, frame_bytes_max=1024, partial_messages_max=3, partial_bytes_per_sender_max=30_000, partial_bytes_max=60_000
)


def payload_of(length: int, seed: int = 0) -> bytes:
    """Bytes that begin as an envelope does."""
    return b"\x83" + random.Random(seed).randbytes(length - 1)


@given(messages)
def test_an_envelope_is_never_taken_for_a_fragment(message: m.Message) -> None:
    payload = encode("a", message)
    assert not is_fragment(payload)
    assert Reassembler().offer("a", payload) is payload
    assert split(payload, 1) == [payload]


@given(st.integers(1, 20_000), st.integers(0, 2**62), st.randoms(use_true_random=False))
def test_fragments_come_together_in_any_order_and_repeated(length: int, number: int, shuffler: random.Random) -> None:
    payload = payload_of(length)
    frames = split(payload, number, SMALL)
    assert all(len(frame) <= SMALL.frame_bytes_max for frame in frames)
    assert (len(frames) == 1) == (length <= SMALL.frame_bytes_max)
    reassembler = Reassembler(SMALL)
    shuffler.shuffle(frames)
    repeats = [shuffler.choice(frames[:-1]) for _ in range(len(frames) // 2)] if len(frames) > 1 else []
    early = frames[:-1] + repeats
    shuffler.shuffle(early)
    assert [reassembler.offer("a", frame) for frame in early] == [None] * len(early)
    assert reassembler.offer("a", frames[-1]) == payload
    assert reassembler.bytes_held == 0
    assert reassembler.counts["repeated"] == len(repeats)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1100, 9000)), max_size=9), st.randoms(use_true_random=False)
)
def test_only_genuine_payloads_come_out_and_bounds_hold(sends: list[tuple[str, int, int]], shuffler: random.Random) -> None:
    """Senders that restart use a message number again for another payload; nothing is ever mixed."""
    genuine: dict[str, set[bytes]] = {"a": set(), "b": set(), "c": set()}
    frames = []
    for seed, (sender, number, length) in enumerate(sends):
        payload = payload_of(length, seed)
        genuine[sender].add(payload)
        frames += [(sender, frame) for frame in split(payload, number, SMALL)]
    shuffler.shuffle(frames)
    reassembler = Reassembler(SMALL)
    for sender, frame in frames:
        payload = reassembler.offer(sender, frame)
        assert payload is None or payload in genuine[sender]
        assert reassembler.bytes_held <= SMALL.partial_bytes_max
    assert reassembler.counts["refused"] == 0
    if reassembler.counts["evicted"] == 0:
        assert reassembler.counts["assembled"] == len(sends)
        assert reassembler.bytes_held == 0
    for sender in genuine:
        reassembler.forget(sender)
    assert reassembler.bytes_held == 0


def test_the_oldest_incomplete_message_of_a_sender_gives_way() -> None:
    reassembler = Reassembler(SMALL)
    frames = [split(payload_of(3000, seed), seed, SMALL) for seed in range(5)]
    for first, *_ in frames[:3]:
        reassembler.offer("a", first)
    reassembler.offer("b", frames[4][0])
    assert reassembler.counts["evicted"] == 0
    reassembler.offer("a", frames[3][0])
    assert reassembler.counts["evicted"] == 1
    for index in (1, 2, 3):
        assert [reassembler.offer("a", frame) for frame in frames[index][1:]][-1] == payload_of(3000, index)
    assert [reassembler.offer("b", frame) for frame in frames[4][1:]][-1] == payload_of(3000, 4)
    assert [reassembler.offer("a", frame) for frame in frames[0][1:]][-1] is None


def test_bytes_per_sender_are_bounded() -> None:
    limits = CodecLimits(message_bytes_max=20_000, frame_bytes_max=1024, partial_messages_max=100, partial_bytes_per_sender_max=20_480)
    reassembler = Reassembler(limits)
    for number in range(30):
        for frame in split(payload_of(5000, number), number, limits)[:-1]:
            reassembler.offer("a", frame)
            assert reassembler.bytes_held <= 20_480
    assert reassembler.counts["evicted"] > 20


def test_a_flood_of_senders_meets_the_bound_of_all() -> None:
    reassembler = Reassembler(SMALL)
    first, second = split(payload_of(1900), 1, SMALL)
    for number in range(200):
        assert reassembler.offer(f"client-{number}", first) is None
        assert reassembler.bytes_held <= SMALL.partial_bytes_max
    assert reassembler.offer("client-199", second) == payload_of(1900)
    assert reassembler.offer("client-0", second) is None


def fragment(number: int, index: int, count: int, total: int, check: int, data: bytes) -> bytes:
    return msgpack.packb([number, index, count, total, check, data])


BAD_FRAGMENTS = {
    "index beyond count": (fragment(1, 2, 2, 10, 0, b"a"), "index: expected below count 2, found 2"),
    "no pieces": (fragment(1, 0, 0, 10, 0, b"a"), "Expected `int` >= 1"),
    "too many pieces": (fragment(1, 0, 5000, 10_000, 0, b"a"), "count: expected at most 4096"),
    "fewer bytes than pieces": (fragment(1, 0, 5, 4, 0, b"a"), "payload_bytes"),
    "oversize message": (fragment(1, 0, 20, 20_001, 0, b"a"), "payload_bytes: expected 20 to 20000, found 20001"),
    "oversize frame": (fragment(1, 0, 2, 2000, 0, bytes(1020)), "frame: expected at most 1024 bytes"),
    "an empty piece": (fragment(1, 0, 2, 10, 0, b""), "length >= 1"),
    "a field too many": (msgpack.packb([1, 0, 2, 10, 0, b"a", 1]), "length"),
    "a field too few": (msgpack.packb([1, 0, 2, 10, 0]), "length"),
    "text": (msgpack.packb([1, 0, 2, 10, 0, "a"]), "Expected `bytes`"),
    "torn": (fragment(1, 0, 2, 10, 0, b"abcdef")[:-3], "truncated"),
    "more bytes than announced": (fragment(1, 0, 2, 3, 0, b"abcdef"), "expected 3 bytes in all, found more"),
    "a wrong check": (fragment(1, 0, 1, 3, 77, b"abc"), "CRC-32 0000004d"),
    "fewer bytes than announced": (fragment(1, 0, 1, 4, 77, b"abc"), "payload put together: expected 4 bytes"),
}


@pytest.mark.parametrize("name", BAD_FRAGMENTS)
def test_bad_fragments_are_refused_counted_and_keep_nothing(name: str) -> None:
    frame, problem = BAD_FRAGMENTS[name]
    reassembler = Reassembler(SMALL)
    with pytest.raises(CodecError, match=f"from client-3, fragment of {len(frame)} bytes: .*{problem}"):
        reassembler.offer("client-3", frame)
    assert reassembler.counts["refused"] == 1
    assert reassembler.bytes_held == 0


def test_a_fragment_that_contradicts_earlier_ones_is_refused_and_they_stay() -> None:
    reassembler = Reassembler(SMALL)
    payload = payload_of(3000)
    frames = split(payload, 7, SMALL)
    reassembler.offer("a", frames[0])
    number, index, count, total, check, data = msgpack.unpackb(frames[1])
    for changed in ([number, index, count + 1, total, check, data], [number, index, count, total + 1, check, data]):
        with pytest.raises(CodecError, match="as before"):
            reassembler.offer("a", msgpack.packb(changed))
    assert [reassembler.offer("a", frame) for frame in frames[1:]][-1] == payload
    assert reassembler.counts == {"assembled": 1, "repeated": 0, "refused": 2, "evicted": 0}


def test_tiny_fragments_are_charged_for_what_they_cost() -> None:
    reassembler = Reassembler(SMALL)
    for index in range(10):
        reassembler.offer("a", fragment(1, index, 20, 20, 0, b"x"))
    assert reassembler.bytes_held == 10 * (1 + FRAGMENT_COST_BYTES)


def test_what_is_too_big_is_not_cut() -> None:
    with pytest.raises(CodecError, match="at most 20000 bytes, found 20001"):
        split(bytes(20_001), 1, SMALL)
    with pytest.raises(CodecError, match="at most 3 fragments, found 6"):
        split(bytes(5000), 1, CodecLimits(frame_bytes_max=1024, fragments_max=3))


def test_the_largest_fragment_head_fits() -> None:
    for length in (1025, 10_000, 20_000):
        for frame in split(payload_of(length), 2**62, SMALL):
            assert len(frame) <= 1024


def test_golden_fragments() -> None:
    frames = split(bytes(1500), 3, SMALL)
    assert [frame[: len(frame) - len(msgpack.unpackb(frame)[5])].hex() for frame in frames] == [
        "96030002cd05dcce6f246cbfc503d8",
        "96030102cd05dcce6f246cbfc50204",
    ]


def test_numbers_are_little_endian_in_tensors() -> None:
    assert struct.unpack("<2f", floats(2, value=0.5).data) == (0.5, 0.5)
