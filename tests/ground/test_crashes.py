"""The update log on a disk that forgets, tears, flips, fills up and fails: what was acknowledged is there, or the log refuses to open.

A client's outbox on the same disk: what may have been sent is there.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from disk import FULL, OK, SYNC_ERROR, WRITE_ERROR, Disk, States, library, wrapped

from hosfl_async import messages as m
from hosfl_async.durable_files import write_count
from hosfl_async.errors import DiskFullError, LogError
from hosfl_async.log_store import LogStore
from hosfl_async.outbox_store import OutboxStore

pytestmark = pytest.mark.skipif(library() is None, reason="this Python has SQLite built in; the disk needs the shared library")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the machine has such a place: what is tested is the order of things, and the disk is imitated anyway."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def history(records: int) -> list[m.DurableRecord]:
    """A join, then entries of three contributions of twenty probes."""
    chain, made = m.EMPTY_CHAIN, [m.ClientJoined("client-0", 1, 1)]
    for version in range(1, records):
        terms = tuple(m.Term(m.StepId(f"client-{i}", 1, version), version - 1, bytes([version % 256, i]) * 40) for i in range(3))
        chain = m.chain_hash(chain, version, terms)
        made.append(m.EntryCommitted(m.LogEntry(version, terms, chain)))
    return made


def lay(folder: Path, files: Mapping[str, bytes | bytearray]) -> Path:
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / "log.sqlite"


def found(path: Path, records: list[m.DurableRecord], at_least: int) -> int:
    """How many records a log has, which must be a beginning of ``records`` no shorter than what was acknowledged."""
    contents = LogStore.read(path).records if path.exists() else ()
    assert list(contents) == records[: len(contents)]
    assert at_least <= len(contents) <= at_least + 1, f"{at_least} acknowledged, {len(contents)} found"
    return len(contents)


def written(run: Path, records: list[m.DurableRecord]) -> Disk:
    """Append all records to a new log, and write down what that does to the disk."""
    run.mkdir()
    with wrapped(run) as disk, LogStore(run / "log.sqlite") as store:
        for number, record in enumerate(records, start=1):
            store.append(record)
            disk.tell("acknowledged", number)
    return disk


def test_a_crash_at_every_operation_of_300_records_loses_nothing_acknowledged(folder: Path) -> None:
    """After each write, sync, truncation, deletion: what SIGKILL leaves, what a disk that forgets the unsynced leaves, and a torn mix."""
    records, dice, states = history(300), random.Random(3), States()
    disk = written(folder / "run", records)
    crash = folder / "crash"
    crash.mkdir()
    looked = {"killed": 0, "forgotten": 0, "torn": 0}
    seen: dict[str, dict[str, bytes]] = {}
    for operation in disk.operations:
        states.do(operation)
        acknowledged = states.told.get("acknowledged", 0)
        killed = {name: bytes(content) for name, content in states.now.items()}
        for kind, left in (("killed", killed), ("forgotten", dict(states.synced)), ("torn", states.torn(dice))):
            if seen.get(kind) == left:
                continue
            seen[kind] = left
            path = lay(crash, left)
            if acknowledged:
                write_count(crash / "log.sqlite.committed", acknowledged)
            found(path, records, acknowledged)
            looked[kind] += 1
    print(f"{len(disk.operations)} operations, crashes looked at: {looked}")
    assert looked["killed"] > 600 and looked["forgotten"] > 250 and looked["torn"] > 600


def test_after_any_crash_the_log_goes_on(folder: Path) -> None:
    records, dice, states = history(40), random.Random(4), States()
    disk = written(folder / "run", records)
    crash = folder / "crash"
    crash.mkdir()
    for operation in disk.operations:
        states.do(operation)
        path = lay(crash, states.torn(dice))
        with LogStore(path) as store:
            for record in records[len(store.records()) :]:
                store.append(record)
        assert list(LogStore.read(path).records) == records


def cut_short(folder: Path, records: list[m.DurableRecord]) -> tuple[dict[str, bytes], list[int]]:
    """The files of a killed writer, and the length of its write-ahead log after each record."""
    states, lengths = States(), []
    for operation in written(folder / "run", records).operations:
        if operation.what == "told":
            lengths.append(len(states.now.get("log.sqlite-wal", b"")))
            files = {name: bytes(content) for name, content in states.now.items()}
        states.do(operation)
    return files, lengths


def test_a_tail_torn_at_any_byte_of_the_last_three_records(folder: Path) -> None:
    """Unacknowledged, it is as if it had never been; acknowledged, the log refuses to open and names the first record that is gone.

    The refusal says at every byte what was kept. At every 61st (a prime: every offset within a page is met) the rest is looked at, too.
    """
    records = history(12)
    files, lengths = cut_short(folder, records)
    crash, whole = folder / "crash", files["log.sqlite-wal"]
    crash.mkdir()
    for length in range(lengths[-4], len(whole)):
        path = lay(crash, files | {"log.sqlite-wal": whole[:length]})
        kept = sum(each <= length for each in lengths)
        if not length % 61:
            assert list(LogStore.read(path).records) == records[:kept]
        write_count(crash / "log.sqlite.committed", len(records))
        for opening in (LogStore.read, LogStore) if not length % 61 else (LogStore.read,):
            with pytest.raises(LogError, match=rf"log\.sqlite: record {kept + 1} and those after it are gone or damaged"):
                opening(path)


def test_flipped_bits_in_the_middle_are_named_and_nothing_is_silently_shorter(folder: Path) -> None:
    """In the write-ahead log SQLite takes a damaged page for the end of the log: the count of committed records tells."""
    records, dice = history(60), random.Random(7)
    files, lengths = cut_short(folder, records)
    crash, named = folder / "crash", 0
    crash.mkdir()
    for _ in range(400):
        damaged = bytearray(files["log.sqlite-wal"])
        place = dice.randrange(lengths[5], lengths[-2])
        damaged[place] ^= 1 << dice.randrange(8)
        path = lay(crash, files | {"log.sqlite-wal": bytes(damaged)})
        write_count(crash / "log.sqlite.committed", len(records))
        try:
            assert list(LogStore.read(path).records) == records  # a bit that means nothing, or of a page written again later
        except LogError as problem:
            assert "log.sqlite: " in str(problem) and "record " in str(problem)
            named += 1
    assert named > 300


# -- a disk that fails ----------------------------------------------------------------------------------


def failing_once(number: int, what: str, code: int):
    return lambda kind, asked: code if asked == number and kind == what else OK


@pytest.mark.parametrize("code", [FULL, WRITE_ERROR, SYNC_ERROR], ids=["ENOSPC", "EIO of a write", "EIO of a sync"])
def test_any_write_that_fails_is_never_acknowledged(code: int, folder: Path) -> None:
    """At every n-th write or sync. No space is told as such and passes; anything else closes the store until it is opened anew."""
    records, what = history(25), "sync" if code == SYNC_ERROR else "write"
    met = 0
    for number in range(400):
        here = folder / str(number)
        here.mkdir()
        acknowledged, refused = 0, 0
        with wrapped(here) as disk:
            disk.fails = failing_once(number, what, code)
            try:
                with LogStore(here / "log.sqlite") as store:
                    for record in records:
                        try:
                            store.append(record)
                        except DiskFullError:
                            assert code == FULL
                            refused += 1
                            store.append(record)  # there is space again
                        acknowledged += 1
            except LogError as problem:
                assert "log.sqlite" in str(problem) and (code != FULL or not refused)
                refused += 1
            asked = disk.asked
        met += refused
        kept = LogStore.read(here / "log.sqlite").records if (here / "log.sqlite").exists() else ()
        assert list(kept) == records[: len(kept)] and acknowledged <= len(kept) <= acknowledged + 1
        if code == FULL and acknowledged:
            assert acknowledged == len(records)
        with LogStore(here / "log.sqlite") as store:
            for record in records[len(store.records()) :]:
                store.append(record)
        if number > asked:
            break
    assert met >= 25


def test_a_full_disk_refuses_as_long_as_it_is_full_and_then_goes_on(folder: Path) -> None:
    records = history(4)
    with wrapped(folder) as disk, LogStore(folder / "log.sqlite") as store:
        store.append(records[0])
        disk.fails = lambda kind, asked: FULL if kind == "write" else OK
        for _ in range(5):
            with pytest.raises(DiskFullError, match=r"record 2 could not be written \(database or disk is full\); it can be tried again"):
                store.append(records[1])
        assert store.records() == tuple(records[:1]) and store.head == 0
        disk.fails = lambda kind, asked: OK
        for record in records[1:]:
            store.append(record)
    assert list(LogStore.read(folder / "log.sqlite").records) == records


# -- the outbox -----------------------------------------------------------------------------------------


def outbox_history(steps: int) -> list[m.OutboxRecord]:
    """Contributions of three lives, each settled two steps later, but every fifth never."""
    made: list[m.OutboxRecord] = []
    for number in range(1, steps + 1):
        made.append(m.ContributionMade(m.ProjectedGradients(_step(number), number, (1.0, -float(number)))))
        if number > 2 and (number - 2) % 5:
            made.append(m.ContributionSettled(_step(number - 2)))
    return made


def _step(number: int) -> m.StepId:
    return m.StepId("client-1", 1 + number // 20, number)


def unanswered(records: list[m.OutboxRecord]) -> dict[m.StepId, m.ContributionMade]:
    kept: dict[m.StepId, m.ContributionMade] = {}
    for record in records:
        if isinstance(record, m.ContributionMade):
            kept[record.message.step] = record
        else:
            kept.pop(record.step, None)
    return kept


def owed(path: Path, records: list[m.OutboxRecord], done: int) -> None:
    """What ``append`` returned for and nobody answered is there, unchanged; what is there besides was made once, and can be sent again."""
    with OutboxStore(path, "run") as store:
        left = {one.message.step: one for one in store.records()}
    assert unanswered(records[:done]).items() <= left.items()
    ever = {one.message.step: one for one in records[: done + 1] if isinstance(one, m.ContributionMade)}
    assert left.items() <= ever.items()


def test_a_crash_at_every_operation_of_an_outbox_loses_nothing_that_may_have_been_sent(folder: Path) -> None:
    records, dice, states = outbox_history(60), random.Random(5), States()
    run, crash = folder / "run", folder / "crash"
    run.mkdir()
    crash.mkdir()
    with wrapped(run) as disk, OutboxStore(run / "log.sqlite", "run") as store:
        for number, record in enumerate(records, start=1):
            store.append(record)
            disk.tell("done", number)
    looked = 0
    for operation in disk.operations:
        states.do(operation)
        for left in ({name: bytes(content) for name, content in states.now.items()}, dict(states.synced), states.torn(dice)):
            owed(lay(crash, left), records, states.told.get("done", 0))
            looked += 1
    print(f"{len(disk.operations)} operations, {looked} crashes looked at")
    assert looked > 600


@pytest.mark.parametrize("code", [FULL, WRITE_ERROR, SYNC_ERROR], ids=["ENOSPC", "EIO of a write", "EIO of a sync"])
def test_what_an_outbox_could_not_write_is_not_sent(code: int, folder: Path) -> None:
    """At every n-th write or sync. No space is told as such and may be tried again; after anything else the process ends."""
    records, what = outbox_history(12), "sync" if code == SYNC_ERROR else "write"
    met = 0
    for number in range(400):
        here = folder / str(number)
        here.mkdir()
        done, full = 0, 0
        with wrapped(here) as disk:
            disk.fails = failing_once(number, what, code)
            try:
                with OutboxStore(here / "o", "run") as store:
                    for record in records:
                        try:
                            store.append(record)
                        except DiskFullError:
                            assert code == FULL
                            full += 1
                            store.append(record)
                        done += 1
            except LogError as problem:
                assert "the outbox could not be" in str(problem) and (code != FULL or not full)
                met += 1
            asked = disk.asked
        met += full
        if (here / "o").exists():
            owed(here / "o", records, done)
        if number > asked:
            break
    assert met >= 12
