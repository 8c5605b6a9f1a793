"""The log from both ends: what is appended is what is served, and a follower replays exactly that, whatever pages come in what order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from toy import numbers

from hosfl_async.agents.update_log import LogFollower, UpdateLog, check_follows, digest_marks
from hosfl_async.errors import LogError
from hosfl_async.jobs import InstallSnapshot, Replay, Replayed
from hosfl_async.messages import EMPTY_CHAIN, CatchUp, Checkpoint, LogEntry, LogPage, Snapshot, StepId, Term

THETA = numbers("theta", shape=(4,))


def terms(number: int) -> tuple[Term, ...]:
    return (Term(StepId("a", 1, number), number - 1, bytes([number % 256] * 8)),)


def log_of(count: int) -> UpdateLog:
    log = UpdateLog()
    for number in range(1, count + 1):
        log.append(terms(number))
    return log


def page(log: UpdateLog, version: int, count: int, **changes: object) -> LogPage:
    return replace(LogPage(version, log.after(version, count), log.head), **changes)


def snapshot(log: UpdateLog, version: int) -> Snapshot:
    return Snapshot(version, THETA, b"s" * 32, log.chain_at(version), log.head)


# -- the aggregator's end -----------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_what_is_served_is_what_was_appended(count: int, version: int, page_max: int) -> None:
    log = log_of(count)
    served = log.after(version, page_max)
    assert [entry.version for entry in served] == list(range(version + 1, min(count, version + page_max) + 1))
    assert all(entry.terms == terms(entry.version) for entry in served)
    assert log.head == count and log.chain_at(count) == log.chain


@given(st.integers(0, 10))
def test_a_restored_log_is_the_same_log(count: int) -> None:
    log, again = log_of(count), UpdateLog()
    for entry in log.after(0, count):
        again.restore(entry)
    assert (again.head, again.chain, again.after(0, 99)) == (log.head, log.chain, log.after(0, 99))
    assert again.append(terms(count + 1)) == log.append(terms(count + 1))


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 100), st.integers(0, 12))
def test_what_is_forgotten_is_covered_and_what_is_kept_leads_to_the_head(count: int, keep_max: int, bytes_max: int, covered: int) -> None:
    log, whole = log_of(count), log_of(count)
    log.forget(keep_max=keep_max, bytes_max=bytes_max, covered=covered)
    kept = log.after(log.oldest_base, 99)
    assert kept == whole.after(log.oldest_base, 99) and log.head == count and log.bytes == 8 * len(kept)
    fits, fitted_before = (len(kept) + more <= keep_max and log.bytes + 8 * more <= bytes_max for more in (0, 1))
    assert log.oldest_base <= max(covered - 1, 0) and (fits or log.oldest_base == min(max(covered - 1, 0), count))
    assert not (log.oldest_base and fitted_before), "nothing is forgotten without need"
    if 0 < covered <= count:
        assert log.chain_at(covered) == whole.chain_at(covered), "the snapshot's place in the chain stays known"
    if log.oldest_base:
        with pytest.raises(LogError, match="forgotten"):
            log.after(log.oldest_base - 1, 1)


def test_the_empty_log_has_the_empty_chain() -> None:
    assert (UpdateLog().head, UpdateLog().chain, UpdateLog().chain_at(0), UpdateLog().after(0, 5)) == (0, EMPTY_CHAIN, EMPTY_CHAIN, ())


def test_an_entry_out_of_line_is_not_restored() -> None:
    first, second, third = log_of(3).after(0, 3)
    log = UpdateLog()
    log.restore(first)
    for wrong, reason in [(first, "expected entry 2"), (third, "expected entry 2"), (replace(second, terms=terms(9)), "hash chain")]:
        with pytest.raises(LogError, match=reason):
            log.restore(wrong)
    assert log.head == 1


@given(st.integers(2, 8), st.data())
def test_the_chain_notices_any_change(count: int, data: st.DataObject) -> None:
    """Change one entry anywhere, even with its chain value recomputed: the next one does not follow."""
    entries = list(log_of(count).after(0, count))
    index = data.draw(st.integers(0, count - 2))
    forged = UpdateLog()
    for entry in entries[:index]:
        forged.restore(entry)
    entries[index] = forged.append(terms(200))
    version, chain = 0, EMPTY_CHAIN
    with pytest.raises(LogError, match=f"entry {index + 2} breaks"):
        for entry in entries:
            check_follows(entry, version, chain)
            version, chain = entry.version, entry.chain


@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 80)))
def test_digests_fall_on_multiples_and_on_the_end(version: int, count: int, every: int, final: int | None) -> None:
    last = version + count
    expected = [at for at in range(version + 1, last + 1) if at % every == 0 or at == final]
    assert digest_marks(version, last, every, final) == tuple(expected)


# -- a follower's end ---------------------------------------------------------------------------------


@dataclass
class Following:
    """A follower, and the versions that its learner has replayed or installed."""

    follower: LogFollower = field(default_factory=lambda: LogFollower(3))
    version: int = 0
    chain: bytes = EMPTY_CHAIN

    def work(self, log: UpdateLog) -> None:
        """Run the job that is ready, if any, as a learner would: only entries of the true log, in order, none twice."""
        job = self.follower.job()
        if isinstance(job, Replay):
            for entry in job.entries:
                check_follows(entry, self.version, self.chain)
                assert entry == log.after(entry.version - 1, 1)[0]
                self.version, self.chain = entry.version, entry.chain
            self.follower.replayed(Replayed(self.version, tuple(Checkpoint(at, at.to_bytes(32, "big")) for at in job.digest_at)))
        elif isinstance(job, InstallSnapshot):
            assert job.version > self.version
            self.version, self.chain = job.version, log.chain_at(job.version)
            self.follower.replayed(Replayed(self.version))
        self.follower.validate()


@given(
    st.integers(1, 10),
    st.lists(
        st.one_of(
            st.tuples(st.just("page"), st.integers(0, 10), st.integers(0, 4), st.booleans()),
            st.tuples(st.just("snapshot"), st.integers(1, 10)),
            st.tuples(st.just("work")),
        ),
        max_size=40,
    ),
)
def test_pages_and_snapshots_in_any_order_with_repetitions_and_gaps_replay_the_log_and_nothing_else(count: int, events: list) -> None:
    log, following = log_of(count), Following()
    for kind, *where in events:
        offered = following.follower.offered
        if kind == "page":
            version, size, old = min(where[0], count), where[1], where[2]
            entries = log.after(version, size)
            head = version + len(entries) if old else count  # a late page knows an older head
            following.follower.offer_page(LogPage(version, entries, head))
        elif kind == "snapshot":
            version = min(where[0], count)
            assert following.follower.offer_snapshot(snapshot(log, version)) == (version > offered)
        else:
            following.work(log)
        following.follower.validate()
        assert following.follower.offered >= offered
    while following.follower.job() is not None:
        following.work(log)
    while following.version < count:
        asked = following.follower.request()
        assert asked.from_version == following.version
        following.follower.offer_page(page(log, asked.from_version, 3))
        following.work(log)
    assert following.version == count and following.chain == log.chain and not following.follower.behind


def test_a_gap_is_not_crossed() -> None:
    log, follower = log_of(5), LogFollower(3)
    assert follower.offer_page(page(log, 2, 2)) == 0
    assert follower.job() is None and follower.behind and follower.request() == CatchUp(0)
    assert follower.offer_page(page(log, 0, 2)) == 2
    assert follower.offer_page(page(log, 3, 2)) == 0
    assert follower.offer_page(page(log, 1, 2)) == 1, "an overlapping page gives what is new on it"
    assert follower.offered == 3


@pytest.mark.parametrize("wrong", ["term", "chain", "order", "first missing"])
def test_tampered_entries_are_refused_before_anything_is_replayed(wrong: str) -> None:
    first, second, third = log_of(3).after(0, 3)
    entries: dict[str, tuple[LogEntry, ...]] = {
        "term": (replace(first, terms=terms(7)),),
        "chain": (replace(first, chain=bytes(32)),),
        "order": (second, first),
        "first missing": (second, third),
    }
    follower = LogFollower(3)
    with pytest.raises(LogError):
        follower.offer_page(LogPage(0, entries[wrong], 3))
    assert follower.job() is None


def test_entries_after_a_snapshot_must_continue_its_chain() -> None:
    log, follower = log_of(5), LogFollower(3)
    follower.offer_snapshot(replace(snapshot(log, 3), chain=bytes(32)))
    follower.replayed(Replayed(3))
    with pytest.raises(LogError, match="chain"):
        follower.offer_page(page(log, 3, 2))


def test_a_log_that_went_backwards_is_noticed_and_a_late_page_is_not_one() -> None:
    log, follower = log_of(5), LogFollower(3)
    follower.offer_page(page(log, 0, 5))
    assert follower.offer_page(LogPage(0, log.after(0, 2), 2)) == 0
    with pytest.raises(LogError, match="backwards"):
        follower.offer_page(LogPage(5, (), 3))


def test_a_page_that_comes_while_a_snapshot_waits_is_asked_for_again() -> None:
    log, follower = log_of(6), LogFollower(3)
    follower.offer_snapshot(snapshot(log, 4))
    assert follower.offer_page(page(log, 4, 2)) == 0
    assert isinstance(follower.job(), InstallSnapshot)
    follower.replayed(Replayed(4))
    assert follower.behind and follower.request() == CatchUp(4)


def test_a_newer_snapshot_that_comes_during_the_installation_stays() -> None:
    log, follower = log_of(6), LogFollower(3)
    follower.offer_snapshot(snapshot(log, 3))
    job = follower.job()
    follower.offer_snapshot(snapshot(log, 5))
    follower.replayed(Replayed(job.version))
    assert follower.job().version == 5 and follower.version == 3
    follower.validate()


def test_entries_offered_during_a_replay_stay() -> None:
    log, follower = log_of(4), LogFollower(3)
    follower.offer_page(page(log, 0, 2))
    job = follower.job()
    follower.offer_page(page(log, 2, 2))
    follower.replayed(Replayed(job.entries[-1].version))
    assert [entry.version for entry in follower.job().entries] == [3, 4]


def test_the_end_is_digested_and_confirmed_once() -> None:
    log, follower = log_of(4), LogFollower(3)
    follower.offer_page(page(log, 0, 4))
    assert follower.job().digest_at == (3,)
    follower.replayed(Replayed(4, (Checkpoint(3, b"3" * 32),)))
    assert follower.job() is None
    follower.hear(4, True)
    assert follower.job() == Replay((), (4,)), "the end became known after the last entry was replayed"
    follower.replayed(Replayed(4, (Checkpoint(4, b"4" * 32),)))
    assert follower.job() is None and not follower.confirmed
    assert follower.request() == CatchUp(4, Checkpoint(4, b"4" * 32))
    follower.offer_page(page(log, 4, 1, finished=True))
    assert not follower.confirmed, "the aggregator does not know its own digest yet"
    follower.offer_page(page(log, 4, 1, finished=True, digest=b"4" * 32))
    assert follower.confirmed


@pytest.mark.parametrize("at", [3, 4])
def test_other_parameters_than_the_aggregators_are_noticed(at: int) -> None:
    log, follower = log_of(4), LogFollower(1)
    follower.offer_page(page(log, 0, at))
    follower.replayed(Replayed(at, (Checkpoint(at, b"m" * 32),)))
    follower.offer_page(page(log, at - 1, 1, digest=b"x" * 32))  # of a version that we have no digest of
    with pytest.raises(LogError, match=f"version {at} differ"):
        follower.offer_page(page(log, at, 1, digest=b"x" * 32))


def test_validate_notices_a_follower_that_does_not_line_up() -> None:
    follower = LogFollower(3)
    follower.replayed(Replayed(2))
    with pytest.raises(LogError, match="follower at 2"):
        follower.validate()
