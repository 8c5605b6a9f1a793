"""Log entries for the tests of this room: well formed and chained, with coefficients that hypothesis may choose."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from hypothesis import strategies as st

from hosfl_async.messages import EMPTY_CHAIN, LogEntry, StepId, Term, chain_hash

Content = Sequence[tuple[StepId, bytes]]


def run_of_entries(contents: Sequence[Content], start: int = 0, chain: bytes = EMPTY_CHAIN) -> tuple[LogEntry, ...]:
    """Entries ``start + 1 ...`` with these terms, sorted and chained."""
    entries = []
    for version, content in enumerate(contents, start=start + 1):
        terms = tuple(Term(step=step, base_version=version - 1, coefficients=packed) for step, packed in sorted(content))
        chain = chain_hash(chain, version, terms)
        entries.append(LogEntry(version=version, terms=terms, chain=chain))
    return tuple(entries)


_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
_PACKED = st.lists(_FLOATS, min_size=1, max_size=3).map(lambda values: pack(f"<{len(values)}f", *values))
_STEPS = st.builds(StepId, st.sampled_from(["a", "client-3", "client-30"]), st.integers(1, 2), st.integers(1, 99))
_CONTENTS = st.dictionaries(_STEPS, _PACKED, min_size=1, max_size=3).map(lambda terms: list(terms.items()))


def entries_of(most: int) -> st.SearchStrategy[tuple[LogEntry, ...]]:
    """Up to ``most`` entries from version 1."""
    return st.lists(_CONTENTS, max_size=most).map(run_of_entries)
