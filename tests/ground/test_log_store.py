"""The log store: what is appended is there, in order and whole, also after SIGKILL; everything else is a clear LogError."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from binascii import crc32
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_messages import chained_entries, histories

from hosfl_async import messages as m
from hosfl_async.codec import encode_record
from hosfl_async.errors import LogError
from hosfl_async.log_store import GROUP_RECORDS_MAX, LogStore, MemoryStore, Store


def history(versions: int) -> list[m.DurableRecord]:
    """One join, then a sound log of so many entries."""
    terms = [tuple(m.Term(m.StepId(f"client-{i}", 1, v), v, b"\0\0\x80\x3f" * i) for i in range(3)) for v in range(versions)]
    return [m.ClientJoined("client-0", 1, 1), *[m.EntryCommitted(entry) for entry in chained_entries(terms)]]


def entries_of(records: list[m.DurableRecord]) -> tuple[m.LogEntry, ...]:
    return tuple(record.entry for record in records if isinstance(record, m.EntryCommitted))


def check_holds(store: Store, records: list[m.DurableRecord]) -> None:
    entries = entries_of(records)
    assert store.records() == tuple(records)
    assert store.entries() == entries
    assert (store.head, store.chain) == (len(entries), entries[-1].chain if entries else m.EMPTY_CHAIN)


@settings(max_examples=30)
@given(histories(), st.booleans(), st.data())
def test_a_history_is_kept_over_any_number_of_openings(
    tmp_path_factory: pytest.TempPathFactory, records: list[m.DurableRecord], durable: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.sqlite"
    cut = data.draw(st.integers(0, len(records)))
    for part, before in ((records[:cut], []), (records[cut:], records[:cut])):
        with LogStore(path, durable=durable, meta={"run": "a"}) as store:
            check_holds(store, before)
            for record in part:
                store.append(record)
            check_holds(store, before + part)
    contents = LogStore.read(path)
    assert (contents.records, contents.entries) == (tuple(records), entries_of(records))
    assert (contents.head, contents.meta["run"]) == (len(entries_of(records)), "a")


@given(histories())
def test_the_store_in_memory_keeps_the_same_promises(records: list[m.DurableRecord]) -> None:
    store = MemoryStore()
    for record in records:
        store.append(record)
    check_holds(store, records)
    assert store.forget_unsynced() == 0
    check_holds(store, records)


@given(histories(), st.integers(1, 5), st.data())
def test_a_crash_forgets_what_was_not_synced_and_the_log_goes_on(records: list[m.DurableRecord], group: int, data: st.DataObject) -> None:
    store, expected = MemoryStore(group), []
    for record in records:
        store.append(record)
        expected.append(record)
        if data.draw(st.booleans()):
            if data.draw(st.booleans()):
                store.sync()
            kept = len(store.records()) - store.forget_unsynced()
            assert len(expected) - kept < group
            check_holds(store, expected[:kept])
            for again in expected[kept:]:
                store.append(again)
    check_holds(store, expected)


WRONG_NEXT = {
    "the same entry again": lambda records: records[2],
    "an entry of the future": lambda records: records[4],
    "an entry out of the chain": lambda records: m.EntryCommitted(
        m.LogEntry(3, entries_of(records)[2].terms, m.chain_hash(bytes(32), 3, entries_of(records)[2].terms))
    ),
    "an entry with other terms": lambda records: m.EntryCommitted(m.LogEntry(3, (), entries_of(records)[2].chain)),
    "something else": lambda records: m.StepId("a", 1, 1),
}


@pytest.mark.parametrize("name", WRONG_NEXT)
@pytest.mark.parametrize("durable", [True, False, None])
def test_what_does_not_continue_the_log_is_refused_and_the_log_stays(name: str, durable: bool | None, tmp_path: Path) -> None:
    records = history(4)
    store: Store = MemoryStore() if durable is None else LogStore(tmp_path / "log.sqlite", durable=durable)
    for record in records[:3]:
        store.append(record)
    with pytest.raises(LogError, match="record 4: "):
        store.append(WRONG_NEXT[name](records))
    check_holds(store, records[:3])
    store.append(records[3])
    check_holds(store, records[:4])
    store.close()


# -- readers and writers ------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with LogStore(path) as store:
        store.append(history(1)[0])
        with pytest.raises(LogError, match="another writer has it open"):
            LogStore(path)
        opener = f"from hosfl_async.log_store import LogStore; LogStore({str(path)!r})"
        refused = subprocess.run([sys.executable, "-c", opener], capture_output=True, text=True, check=False)
        assert "another writer has it open" in refused.stderr
        store.append(history(1)[1])
    with LogStore(path) as store:
        assert store.head == 1


def test_readers_see_what_is_committed_while_a_writer_is_at_work(tmp_path: Path) -> None:
    path, records = tmp_path / "log.sqlite", history(3)
    with LogStore(path, durable=True) as store:
        for number, record in enumerate(records, start=1):
            store.append(record)
            assert LogStore.read(path).records == tuple(records[:number])
            assert store.records() == tuple(records[:number])


def test_without_durability_records_are_committed_in_bounded_groups(tmp_path: Path) -> None:
    path, records = tmp_path / "log.sqlite", history(2 * GROUP_RECORDS_MAX)
    with LogStore(path, durable=False) as store:
        for number, record in enumerate(records, start=1):
            store.append(record)
            assert number - len(LogStore.read(path).records) == number % GROUP_RECORDS_MAX
        store.sync()
        assert LogStore.read(path).records == tuple(records)


def test_a_closed_log_is_one_file_and_the_empty_mark(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with LogStore(path) as store:
        store.append(history(1)[0])
        store.close()
    LogStore.read(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.sqlite", "log.sqlite.committed", "log.sqlite.lock"]
    assert (tmp_path / "log.sqlite.lock").stat().st_size == 0


def test_after_a_failed_write_nothing_is_appended_until_opened_anew(tmp_path: Path) -> None:
    path, records = tmp_path / "log.sqlite", history(3)
    store = LogStore(path)
    store.append(records[0])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store._database.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(LogError, match="record 2 could not be written"):
        store.append(records[1])
    blocker.close()
    with pytest.raises(LogError, match="closed by an earlier failure"):
        store.append(records[1])
    assert store.head == 0
    store.close()
    with LogStore(path) as store:
        check_holds(store, records[:1])
        store.append(records[1])


# -- what does not hold together ----------------------------------------------------------------------


def test_a_log_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    LogStore(path, meta={"run": "a", "seed": "1"}).close()
    with pytest.raises(LogError, match="the log of another run; seed: expected 2, found 1"):
        LogStore(path, meta={"run": "a", "seed": "2"})
    with pytest.raises(LogError, match="scenario: expected x, found None"):
        LogStore(path, meta={"scenario": "x"})
    with LogStore(path, meta={"run": "a"}) as store:
        assert store.meta == {"run": "a", "seed": "1", "schema": "1"}


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere/log.sqlite: cannot be opened for writing"):
        LogStore(tmp_path / "nowhere" / "log.sqlite")
    with pytest.raises(LogError, match="no such log"):
        LogStore.read(tmp_path / "log.sqlite")
    text = tmp_path / "text"
    text.write_bytes(b"hello " * 200)
    other = tmp_path / "other"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE accounts (a)")
    database.close()
    for path, problem in ((text, "not a database"), (other, "not an update log; found tables accounts")):
        for opening in (LogStore, LogStore.read):
            with pytest.raises(LogError, match=f"{path.name}: .*{problem}"):
                opening(path)


def test_an_empty_file_is_an_empty_log(tmp_path: Path) -> None:
    """A run can be cut off between the making of the file and its first commit."""
    path = tmp_path / "log.sqlite"
    path.touch()
    assert LogStore.read(path).records == ()
    with LogStore(path) as store:
        check_holds(store, [])


def put(path: Path, number: int, record: m.DurableRecord) -> str:
    packed = encode_record(record)
    return change(path, "UPDATE records SET packed = ?, check_crc32 = ? WHERE number = ?", packed, crc32(packed), number)


def change(path: Path, statement: str, *values: object) -> str:
    with sqlite3.connect(path) as database:
        database.execute(statement, values)
    database.close()
    return ""


DAMAGE = {
    "a record is gone": (lambda path: change(path, "DELETE FROM records WHERE number = 3"), "record 3: missing; the next is 4"),
    "the first is gone": (lambda path: change(path, "DELETE FROM records WHERE number = 1"), "record 1: missing; the next is 2"),
    "a record is torn": (
        lambda path: change(path, "UPDATE records SET packed = substr(packed, 1, 20) WHERE number = 3"),
        "record 3: damaged, its CRC-32 differs",
    ),
    "a record is text": (lambda path: change(path, "UPDATE records SET packed = 'x' WHERE number = 3"), "record 3: damaged"),
    "a record is nonsense": (
        lambda path: change(path, "UPDATE records SET packed = x'c1', check_crc32 = ? WHERE number = 3", crc32(b"\xc1")),
        "record 3: durable record of 1 bytes: ",
    ),
    "an entry was forged": (
        lambda path: put(path, 3, m.EntryCommitted(m.LogEntry(2, (), entries_of(history(4))[1].chain))),
        "record 3: log entry 2 does not continue the hash chain of entry 1",
    ),
    "an entry was forged with its chain": (
        lambda path: put(path, 3, m.EntryCommitted(m.LogEntry(2, (), m.chain_hash(entries_of(history(1))[0].chain, 2, ())))),
        "record 4: log entry 3 does not continue",
    ),
    "entries are exchanged": (lambda path: put(path, 3, history(4)[3]), "record 3: expected log entry 2, found 3"),
    "another schema": (lambda path: change(path, "UPDATE meta SET value = '9' WHERE key = 'schema'"), "expected log schema 1, found 9"),
    "no schema": (lambda path: change(path, "DELETE FROM meta"), "expected log schema 1, found None"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named_on_opening_and_reading(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with LogStore(path) as store:
        for record in history(4):
            store.append(record)
    damage, problem = DAMAGE[name]
    damage(path)
    for opening in (LogStore, LogStore.read, LogStore):
        with pytest.raises(LogError, match=f"log.sqlite: {problem}"):
            opening(path)


def test_flipped_bits_are_found_or_harmless(tmp_path: Path) -> None:
    """Whatever byte of the file changes: LogError, or records that are a beginning of the true ones."""
    path, records = tmp_path / "log.sqlite", history(30)
    with LogStore(path, durable=False) as store:
        for record in records:
            store.append(record)
    sound = path.read_bytes()
    dice, found = random.Random(5), 0
    for _ in range(400):
        damaged = bytearray(sound)
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            contents = LogStore.read(path)
        except LogError:
            found += 1
            continue
        assert list(contents.records) == records[: len(contents.records)]
    assert found > 100


# -- killed -------------------------------------------------------------------------------------------

WRITER = """
import sys
from hosfl_async import messages as m
from hosfl_async.log_store import LogStore
store = LogStore(sys.argv[1], durable=sys.argv[2] == "durable", meta={"run": "killed"})
print(store.head, flush=True)
while True:
    version = store.head + 1
    terms = tuple(m.Term(m.StepId(f"client-{i}", 1, version), version - 1, bytes(20)) for i in range(5))
    store.append(m.EntryCommitted(m.LogEntry(version, terms, m.chain_hash(store.chain, version, terms))))
    print(version, flush=True)
"""


@pytest.mark.parametrize("mode", ["durable", "grouped"])
def test_a_killed_writer_leaves_a_log_that_opens_and_verifies(mode: str, tmp_path: Path) -> None:
    """SIGKILL at chosen counts; the reader takes over before, during and after recovery. What was acknowledged is there."""
    path, acknowledged, dice = tmp_path / "log.sqlite", 0, random.Random(11)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), mode], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        begun = int(writer.stdout.readline())
        assert begun >= acknowledged
        acknowledged = begun
        for _ in range(dice.randrange(0, 300)):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        contents = LogStore.read(path)
        assert acknowledged <= contents.head + (0 if mode == "durable" else GROUP_RECORDS_MAX - 1)
        assert contents.head <= acknowledged + 1
        acknowledged = contents.head
    with LogStore(path, meta={"run": "killed"}) as store:
        assert store.head == acknowledged
    assert acknowledged > 0


OPENER = """
import sys
from itertools import count
from hosfl_async.log_store import LogStore
for number in count():
    LogStore(f"{sys.argv[1]}/{number}.sqlite", durable=False).close()
"""


@pytest.mark.parametrize("openings", [3, 10, 31])
def test_a_writer_killed_while_it_opens_leaves_nothing_broken(openings: int, tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", OPENER, str(tmp_path)])
    while not (tmp_path / f"{openings}.sqlite").exists():
        assert writer.poll() is None
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    for path in tmp_path.glob("*.sqlite"):
        assert LogStore.read(path).records == ()
        with LogStore(path) as store:
            check_holds(store, [])
