"""StepId's order and spelling, and the hash chain's golden values: other languages must compute the same."""

import struct
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st
from strategies_messages import few_steps, names, steps, term_lists

from hosfl_async.messages import EMPTY_CHAIN, StepId, Tensor, Term, chain_hash

TERMS = (
    Term(StepId("client-0", 1, 7), 0, struct.pack("<2f", 0.5, -0.25)),
    Term(StepId("client-3", 2, 17), 1, b""),
)


def test_chain_hash_golden_values() -> None:
    first = chain_hash(EMPTY_CHAIN, 1, TERMS)
    assert first.hex() == "57833ab6b40fe7a304ac862bec8c09f28b5ca60d8f784bcfd86957e9944b7d06"
    assert chain_hash(first, 2, ()).hex() == "e5e732bcb0ea6e9baf2d2ec1dbec2af04b3a2783828ea5339cf3c47a984621b7"


def packed_by_the_document(previous: bytes, version: int, terms: tuple[Term, ...]) -> bytes:
    """docs/protocol-wire.md, spelled out anew."""
    out = bytearray(previous) + version.to_bytes(8, "little") + len(terms).to_bytes(4, "little")
    for term in terms:
        client = term.step.client.encode("ascii")
        out += len(client).to_bytes(2, "little")
        for number in (term.step.incarnation, term.step.number, term.base_version):
            out += number.to_bytes(8, "little")
        if term.gradient:
            lengths = len(term.coefficients).to_bytes(4, "little") + len(term.gradient).to_bytes(8, "little")
            out += b"\xff\xff\xff\xff" + client + lengths + term.coefficients + term.gradient
        else:
            out += len(term.coefficients).to_bytes(4, "little") + client + term.coefficients
    return blake2b(bytes(out), digest_size=32).digest()


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**62), term_lists())
def test_chain_hash_is_what_the_document_says(previous: bytes, version: int, terms: tuple[Term, ...]) -> None:
    assert chain_hash(previous, version, terms) == packed_by_the_document(previous, version, terms)


@given(term_lists(), term_lists())
def test_chain_hash_tells_entries_apart(a: tuple[Term, ...], b: tuple[Term, ...]) -> None:
    assert (chain_hash(EMPTY_CHAIN, 1, a) == chain_hash(EMPTY_CHAIN, 1, b)) == (a == b)
    assert chain_hash(EMPTY_CHAIN, 1, a) != chain_hash(EMPTY_CHAIN, 2, a)


def test_a_step_is_spelled_with_its_incarnation_unless_that_is_the_first() -> None:
    assert str(StepId("client-3", 1, 17)) == "client-3/17"
    assert str(StepId("client-3", 2, 17)) == "client-3#2/17"
    assert str(StepId("client-3", 0, 17)) == "client-3#0/17"


@given(steps, steps)
def test_different_steps_are_spelled_differently(a: StepId, b: StepId) -> None:
    assert (str(a) == str(b)) == (a == b)


@given(few_steps, few_steps)
def test_canonical_order_is_client_then_incarnation_then_number(a: StepId, b: StepId) -> None:
    def key(step: StepId) -> tuple[str, int, int]:
        return step.client, step.incarnation, step.number

    assert (a < b) == (key(a) < key(b))
    assert (a == b) == (key(a) == key(b))


@given(names, names)
def test_clients_sort_by_their_bytes(a: str, b: str) -> None:
    assert (StepId(a, 1, 1) < StepId(b, 1, 1)) == (a.encode() < b.encode())


def test_tensor_length() -> None:
    assert Tensor("float32", (2, 3), b"").bytes_expected == 24
    assert Tensor("int64", (), b"").bytes_expected == 8
    assert [Tensor("int4", (3, size), b"").bytes_expected for size in (0, 1, 2, 3)] == [0, 2, 3, 5]
    assert Tensor("bfloat16", (3,), b"").bytes_expected == 6
    assert Tensor("int8", (2, 3), bytes(6), bytes(8)).bytes_sent == 14
    assert Tensor("float32", (2**31,) * 6, b"").bytes_expected == 4 * 2**186
