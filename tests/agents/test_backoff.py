"""Pauses: capped exponential, spread by name, the same every time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents import RetrySettings
from hosfl_async.agents.backoff import pause_s

retries = st.builds(RetrySettings, first_s=st.floats(1e-3, 1e3), max_s=st.floats(1e-3, 1e6))


@given(retries, st.integers(0, 10**9), st.text(max_size=20))
def test_a_pause_is_within_half_again_of_the_doubled_and_capped_first(retry: RetrySettings, attempt: int, name: str) -> None:
    base = min(retry.max_s, retry.first_s * 2.0 ** min(attempt, 60))
    assert base <= pause_s(retry, attempt, name) < 1.5 * base * (1 + 1e-12)
    assert pause_s(retry, attempt, name) == pause_s(retry, attempt, name)


def test_pauses_double_until_the_cap() -> None:
    retry = RetrySettings(first_s=1.0, max_s=100.0)
    pauses = [pause_s(retry, attempt, "client-1:answer") for attempt in range(12)]
    assert all(2 ** min(attempt, 7) * (0.78 if attempt >= 7 else 1) <= pause for attempt, pause in enumerate(pauses))
    assert max(pauses) < 150.0


def test_names_spread_over_the_whole_half() -> None:
    retry = RetrySettings(first_s=1.0, max_s=1.0)
    spread = sorted(pause_s(retry, 0, f"client-{number}:dual") for number in range(200))
    assert spread[0] < 1.02 and spread[-1] > 1.48
    assert max(after - before for before, after in pairwise(spread)) < 0.03
