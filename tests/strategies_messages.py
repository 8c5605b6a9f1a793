"""Hypothesis strategies for everything that messages.py declares: each value is one that the codec must accept."""

import struct
from math import prod
from typing import Literal

from hypothesis import strategies as st

from hosfl_async import messages as m

names = st.text(alphabet="abcXYZ019_.-", min_size=1, max_size=64)
counts = st.integers(0, 2**62)
digests = st.binary(min_size=32, max_size=32)
floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
scale_floats = st.floats(0, width=32, allow_infinity=False)
floats64 = st.floats(allow_nan=False, allow_infinity=False)
flags = st.booleans()
steps = st.builds(m.StepId, names, counts, counts)
few_steps = st.builds(m.StepId, st.sampled_from(["a", "b", "client-3", "client-30"]), st.integers(1, 3), st.integers(0, 4))


def packed_floats(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def float_tensors(shape: tuple[int, ...]) -> st.SearchStrategy[m.Tensor]:
    size = prod(shape)
    data = st.one_of(
        st.lists(floats32, min_size=size, max_size=size).map(packed_floats),
        floats32.map(lambda value: packed_floats([value] * size)),
    )
    return data.map(lambda packed: m.Tensor("float32", shape, packed))


def scaled_tensors(dtype: Literal["int8", "int4"], shape: tuple[int, ...]) -> st.SearchStrategy[m.Tensor]:
    size = m.Tensor(dtype, shape, b"").bytes_expected
    scales = st.sampled_from((1, shape[0])).flatmap(lambda count: st.lists(scale_floats, min_size=count, max_size=count))
    return st.builds(lambda data, some: m.Tensor(dtype, shape, data, packed_floats(some)), st.binary(min_size=size, max_size=size), scales)


def cut_tensors(shape: tuple[int, ...]) -> st.SearchStrategy[m.Tensor]:
    """Activations and duals in every dtype; a bfloat16 is the upper half of a float32."""
    upper = float_tensors(shape).map(
        lambda tensor: m.Tensor("bfloat16", shape, b"".join(tensor.data[at + 2 : at + 4] for at in range(0, len(tensor.data), 4)))
    )
    return st.one_of(float_tensors(shape), upper, scaled_tensors("int8", shape), scaled_tensors("int4", shape))


def label_tensors(batch: int) -> st.SearchStrategy[m.Tensor]:
    labels = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=batch, max_size=batch)
    return labels.map(lambda values: m.Tensor("int64", (batch,), struct.pack(f"<{batch}q", *values)))


batch_shapes = st.builds(lambda batch, rest: (batch, *rest), st.integers(1, 4), st.lists(st.integers(0, 3), max_size=3))
activations = batch_shapes.flatmap(cut_tensors)
parameters = st.integers(0, 12).flatmap(lambda size: float_tensors((size,)))
whole_batches = batch_shapes.flatmap(
    lambda shape: st.builds(m.SmashedData, steps, counts, cut_tensors(shape), label_tensors(shape[0]), flags)
)


@st.composite
def sequence_batches(draw: st.DrawFn) -> m.SmashedData:
    """Samples of several rows each, with the lengths beside them."""
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    rows = draw(cut_tensors((sum(lengths), draw(st.integers(0, 2)))))
    ragged = m.Tensor(rows.dtype, rows.shape, rows.data, rows.scales, struct.pack(f"<{len(lengths)}H", *lengths))
    return m.SmashedData(draw(steps), draw(counts), ragged, draw(label_tensors(len(lengths))), draw(flags))


smashed_data = st.one_of(whole_batches, sequence_batches())

coefficients = st.lists(floats32, max_size=5).map(packed_floats)
scaled = st.one_of(st.tuples(coefficients, st.just(b"")), st.tuples(st.just(b""), coefficients))
"""Coefficients and gradient of a term: one of them is empty."""


@st.composite
def term_lists(draw: st.DrawFn, named: st.SearchStrategy[m.StepId] = few_steps) -> tuple[m.Term, ...]:
    """Terms of one entry in canonical order; steps are near each other, so that order matters in every field."""
    chosen = sorted(draw(st.sets(named, max_size=5)))
    return tuple(m.Term(step, draw(counts), *draw(scaled)) for step in chosen)


@st.composite
def entry_runs(draw: st.DrawFn, first: int, length: int) -> tuple[m.LogEntry, ...]:
    """Entries ``first``, ``first + 1`` ... with arbitrary chain values: the codec does not follow the chain."""
    return tuple(m.LogEntry(first + i, draw(term_lists()), draw(digests)) for i in range(length))


@st.composite
def log_pages(draw: st.DrawFn) -> m.LogPage:
    from_version = draw(st.integers(0, 2**61))
    entries = draw(entry_runs(from_version + 1, draw(st.integers(0, 3))))
    return m.LogPage(from_version, entries, draw(counts), draw(st.none() | digests), draw(flags))


def chained_entries(term_tuples: list[tuple[m.Term, ...]]) -> list[m.LogEntry]:
    """A sound update log: entry i holds ``term_tuples[i - 1]`` and continues the hash chain."""
    chain, entries = m.EMPTY_CHAIN, []
    for version, terms in enumerate(term_tuples, start=1):
        chain = m.chain_hash(chain, version, terms)
        entries.append(m.LogEntry(version, terms, chain))
    return entries


shares = st.floats(0.0, 1.0)
joined = st.builds(m.ClientJoined, names, counts, counts)
met = st.builds(m.TargetMet, counts, shares)


@st.composite
def histories(draw: st.DrawFn, entries_max: int = 6) -> list[m.DurableRecord]:
    """What an aggregator persists: a sound log with joins in between."""
    entries = chained_entries(draw(st.lists(term_lists(), max_size=entries_max)))
    records: list[m.DurableRecord] = []
    for entry in entries:
        records += [*draw(st.lists(joined | met, max_size=2)), m.EntryCommitted(entry)]
    return records


MESSAGES: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    m.SmashedData: smashed_data,
    m.DualRequest: st.builds(m.DualRequest, steps),
    m.DualVariable: st.builds(m.DualVariable, steps, counts, activations),
    m.DualRefused: st.builds(m.DualRefused, steps, st.sampled_from(["busy", "forgotten", "malformed", "finished"])),
    m.Join: st.builds(m.Join, counts, digests, digests),
    m.Welcome: st.builds(m.Welcome, counts, counts, counts, flags),
    m.JoinRefused: st.builds(m.JoinRefused, counts, st.sampled_from(["golden_differs", "initial_differs", "old_boot", "fleet_full"])),
    m.ProjectedGradients: st.builds(m.ProjectedGradients, steps, counts, st.lists(floats64, max_size=20).map(tuple)),
    m.ClientGradient: st.builds(m.ClientGradient, steps, counts, parameters),
    m.Accepted: st.builds(m.Accepted, steps, counts, counts, flags),
    m.Refused: st.builds(m.Refused, steps, st.sampled_from(["stale", "fenced", "superseded", "malformed", "finished"]), counts, flags),
    m.StepWanted: st.builds(m.StepWanted, steps, counts, st.none() | st.builds(m.Checkpoint, counts, digests)),
    m.Granted: st.builds(m.Granted, steps, counts),
    m.CatchUp: st.builds(m.CatchUp, counts, st.none() | st.builds(m.Checkpoint, counts, digests)),
    m.LogPage: log_pages(),
    m.Snapshot: st.builds(m.Snapshot, counts, parameters, digests, digests, counts, flags),
    m.DigestDiffers: st.builds(m.DigestDiffers, counts, digests),
    m.HeadAnnounced: st.builds(m.HeadAnnounced, counts, flags),
    m.TargetReached: st.builds(m.TargetReached, counts, shares),
}
"""One strategy per kind of message; tests/ground/test_codec.py sees to it that none is missing."""

messages = st.one_of(*MESSAGES.values())
records = st.one_of(joined, met, entry_runs(1, 1).map(lambda entries: m.EntryCommitted(entries[0])))

INBOXES = {"edge client": m.EdgeClientInbox, "split server": m.SplitServerInbox, "aggregator": m.AggregatorInbox}
