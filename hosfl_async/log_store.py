"""Where the update log lives: an append-only table of durable records in one SQLite file.

The update log is the only truth about the client half, so the store keeps four promises:

1. *Durable*: with ``durable=True`` a record is on disk when ``append`` returns (write-ahead log, ``synchronous=FULL``). Without it,
   records are committed in groups of at most ``GROUP_RECORDS_MAX`` and the disk is not waited for; a killed process loses at
   most the last group, a power cut perhaps more.
2. *Whole*: entries have no gap and every one continues the hash chain (``messages.chain_hash``). This holds for each append and is
   verified again, record by record, whenever a file is opened or read. A process killed at any instant leaves such a file.
3. *Nothing silently less*: beside a durable log stands ``.committed``, how many records were on disk at the latest commit. SQLite takes a
   damaged page of its write-ahead log for the log's end, which would forget everything after it; a log with fewer records is refused.
4. *One writer*: a second writer is refused, since two would fork the log. Readers are welcome at any time: ``LogStore.read``
   takes one consistent look, also while a writer is at work.

``MemoryStore`` keeps the same promises except the disk; it can forget what was not yet synced, as a crash would.
"""

from __future__ import annotations

import sqlite3
from binascii import crc32
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from hosfl_async.codec import decode_record, encode_record
from hosfl_async.durable_files import read_count, write_count
from hosfl_async.errors import CodecError, DiskFullError, LogError
from hosfl_async.messages import EMPTY_CHAIN, DurableRecord, EntryCommitted, LogEntry, chain_hash

LOG_SCHEMA_VERSION = 1
"""Version of the tables below and of the records' own encoding; kept in the file."""

GROUP_RECORDS_MAX = 64
"""Records of one commit when the store is not durable (23,000 records/s in such groups, 870 singly)."""

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (number INTEGER PRIMARY KEY, check_crc32 INTEGER NOT NULL, packed BLOB NOT NULL)",
)


class Store(Protocol):
    """What hosts need: everything that an agent persisted, in order. Not safe for two callers at once."""

    @property
    def head(self) -> int:
        """Version of the last entry, 0 if there is none."""

    @property
    def chain(self) -> bytes:
        """The hash chain's value at ``head``."""

    def append(self, record: DurableRecord) -> None:
        """Keep ``record``. Raises ``LogError`` if it does not continue the log, or cannot be written."""

    def sync(self) -> None:
        """Commit a group that is still open."""

    def records(self) -> tuple[DurableRecord, ...]:
        """All records, oldest first: the ``records`` of ``agent.Started``."""

    def entries(self) -> tuple[LogEntry, ...]:
        """The update log itself: entries 1, 2, ... ``head``."""

    def close(self) -> None:
        """Sync and let go of the file. Closing twice is fine."""


class _LogEnd(NamedTuple):
    """The end of a log: its version and chain value, and the rule by which it grows."""

    version: int = 0
    chain: bytes = EMPTY_CHAIN

    def after(self, record: DurableRecord, where: str) -> _LogEnd:
        """The end once ``record`` is in; ``LogError`` if it cannot be."""
        if not isinstance(record, DurableRecord):
            raise LogError(f"{where}: expected a durable record, found {type(record).__name__}")
        if not isinstance(record, EntryCommitted):
            return self
        entry = record.entry
        if entry.version != self.version + 1:
            raise LogError(f"{where}: expected log entry {self.version + 1}, found {entry.version}")
        if chain_hash(self.chain, entry.version, entry.terms) != entry.chain:
            raise LogError(f"{where}: log entry {entry.version} does not continue the hash chain of entry {self.version}")
        return _LogEnd(entry.version, entry.chain)


def _entries_of(records: Iterable[DurableRecord]) -> tuple[LogEntry, ...]:
    return tuple(record.entry for record in records if isinstance(record, EntryCommitted))


class MemoryStore:
    """A store without a disk. ``group_records_max`` above 1 lets ``forget_unsynced`` lose records as a crash would."""

    __slots__ = ("_end", "_group_records_max", "_records", "_synced")

    def __init__(self, group_records_max: int = 1) -> None:
        self._records: list[DurableRecord] = []
        self._end = _LogEnd()
        self._synced = 0
        self._group_records_max = group_records_max

    @property
    def head(self) -> int:
        return self._end.version

    @property
    def chain(self) -> bytes:
        return self._end.chain

    def append(self, record: DurableRecord) -> None:
        self._end = self._end.after(record, f"record {len(self._records) + 1}")
        self._records.append(record)
        if len(self._records) - self._synced >= self._group_records_max:
            self.sync()

    def sync(self) -> None:
        self._synced = len(self._records)

    def forget_unsynced(self) -> int:
        """Lose what no ``sync`` has covered, as a crash of the machine would; returns how many records that was."""
        kept, lost = self._records[: self._synced], len(self._records) - self._synced
        self._records, self._end = kept, _LogEnd()
        for number, record in enumerate(kept, start=1):
            self._end = self._end.after(record, f"record {number}")
        return lost

    def records(self) -> tuple[DurableRecord, ...]:
        return tuple(self._records)

    def entries(self) -> tuple[LogEntry, ...]:
        return _entries_of(self._records)

    def close(self) -> None:
        self.sync()


@dataclass(frozen=True, slots=True)
class LogContents:
    """A verified look into a log file at one instant."""

    meta: dict[str, str]
    records: tuple[DurableRecord, ...]
    head: int
    chain: bytes

    @property
    def entries(self) -> tuple[LogEntry, ...]:
        return _entries_of(self.records)


class LogStore:
    """The update log in a SQLite file; a context manager. See the module's text for what it promises.

    Parameters
    ----------
    path: the file; made if it is not there. Beside it stand ``.lock``, the writer's mark, ``.committed``, and, until it is closed,
        SQLite's own ``-wal`` and ``-shm``: a log cut short needs its ``-wal``.
    durable: wait for the disk at every append.
    meta: what the log belongs to (run name, seed, scenario digest). Written into a new file; an existing file must agree.

    Raises ``LogError``, naming file and record, if another writer holds the file, if it belongs to another run, or if its
    contents do not hold together.
    """

    def __init__(self, path: Path | str, *, durable: bool = True, meta: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self._durable = durable
        self._end = _LogEnd()
        self._count = 0
        self._pending = 0
        self._broken = ""
        expected = read_count(_count_path(self.path))
        with ExitStack() as opened, _named_errors(self.path):
            self._writer_mark = opened.enter_context(closing(_claim(self.path)))
            self._database = opened.enter_context(closing(_connect(self.path, durable)))
            self.meta = _settle_meta(self._database, self.path, dict(meta or {}))
            for _, end in _verified(self._database, self.path):
                self._end, self._count = end, self._count + 1
            _check_nothing_lost(self.path, expected, self._count)
            opened.pop_all()

    @classmethod
    def read(cls, path: Path | str) -> LogContents:
        """The verified contents, whether or not a writer is at work. A file cut off before its first commit reads as empty."""
        path = Path(path)
        if not path.is_file():
            raise LogError(f"{path}: no such log")
        with _named_errors(path):
            try:
                return _look(path, "ro")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                    raise
            return _look(path, "rw")  # a killed writer left something that SQLite must first roll back: that takes the right to write

    @property
    def head(self) -> int:
        return self._end.version

    @property
    def chain(self) -> bytes:
        return self._end.chain

    def append(self, record: DurableRecord) -> None:
        if self._broken:
            raise LogError(f"{self.path}: closed by an earlier failure to write ({self._broken})")
        number = self._count + 1
        end = self._end.after(record, f"{self.path}: record {number}")
        packed = encode_record(record)
        with self._breaking_on_failure():
            if self._pending == 0:
                self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO records VALUES (?, ?, ?)", (number, crc32(packed), packed))
            if self._durable:
                self._database.execute("COMMIT")
        self._count, self._end = number, end
        if self._durable:
            write_count(_count_path(self.path), number)
            return
        self._pending += 1
        if self._pending >= GROUP_RECORDS_MAX:
            self.sync()

    def sync(self) -> None:
        if self._pending and not self._broken:
            with self._breaking_on_failure():
                self._database.execute("COMMIT")
            self._pending = 0

    def records(self) -> tuple[DurableRecord, ...]:
        with _named_errors(self.path):
            return tuple(record for record, _ in _verified(self._database, self.path))

    def entries(self) -> tuple[LogEntry, ...]:
        return _entries_of(self.records())

    def close(self) -> None:
        try:
            self.sync()
            _make_plain(self._database)
        finally:
            self._database.close()
            self._writer_mark.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _breaking_on_failure(self) -> Iterator[None]:
        """A full disk is taken back and may be tried again. After any other failed write, file and memory may differ (what a second fsync
        says of pages whose first one failed means nothing): nothing more is appended until the file is opened, and verified, anew."""
        try:
            yield
        except sqlite3.Error as error:
            where = f"{self.path}: record {self._count + 1} could not be written ({error})"
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._durable and self._taken_back():
                raise DiskFullError(f"{where}; it can be tried again when there is space") from error
            self._broken = str(error)
            raise LogError(where) from error

    def _taken_back(self) -> bool:
        with suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            return True
        return False


# -- the file -----------------------------------------------------------------------------------------


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LogError(f"{path}: cannot be used as an update log ({error})") from error


def _claim(path: Path) -> sqlite3.Connection:
    """Hold the writer's mark until the connection is closed or the process dies.

    It is a lock on a file of its own: SQLite's exclusive mode would shut out readers as well.
    """
    try:
        mark = sqlite3.connect(f"{path}.lock", timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise LogError(f"{path}: cannot be opened for writing ({error})") from error
    try:
        mark.execute("PRAGMA journal_mode = OFF")
        mark.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        mark.close()
        why = "another writer has it open" if "locked" in str(error) else str(error)
        raise LogError(f"{path}: cannot be opened for writing ({why})") from error
    return mark


def _connect(path: Path, durable: bool) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    return database


def _look(path: Path, mode: Literal["ro", "rw"]) -> LogContents:
    """One consistent and verified look. ``sqlite3.Error`` as it comes."""
    expected = read_count(_count_path(path))
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as database:
        database.execute("BEGIN")
        if not _has_tables(database, path):
            _check_nothing_lost(path, expected, 0)
            return LogContents({}, (), 0, EMPTY_CHAIN)
        meta, steps = _read_meta(database, path), tuple(_verified(database, path))
    _check_nothing_lost(path, expected, len(steps))
    end = steps[-1][1] if steps else _LogEnd()
    return LogContents(meta, tuple(record for record, _ in steps), end.version, end.chain)


def _make_plain(database: sqlite3.Connection) -> None:
    """Leave one self-contained file that can be read from a read-only folder, unless a reader is at it just now."""
    with suppress(sqlite3.Error):
        database.execute("PRAGMA busy_timeout = 0")
        database.execute("PRAGMA journal_mode = DELETE")


def _has_tables(database: sqlite3.Connection, path: Path) -> bool:
    """True for an update log, False for an empty file; ``LogError`` for another kind of database."""
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if names and not names >= {"meta", "records"}:
        raise LogError(f"{path}: a database, but not an update log; found tables {', '.join(sorted(names))[:100]}")
    return bool(names)


def _read_meta(database: sqlite3.Connection, path: Path) -> dict[str, str]:
    meta = dict(database.execute("SELECT key, value FROM meta"))
    if meta.get("schema") != str(LOG_SCHEMA_VERSION):
        raise LogError(f"{path}: expected log schema {LOG_SCHEMA_VERSION}, found {meta.get('schema')}")
    return meta


def _settle_meta(database: sqlite3.Connection, path: Path, wanted: dict[str, str]) -> dict[str, str]:
    """Make the tables, in one transaction, or see that an existing log belongs to the run that ``wanted`` describes."""
    if not _has_tables(database, path):
        meta = wanted | {"schema": str(LOG_SCHEMA_VERSION)}
        database.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            database.execute(statement)
        database.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
        database.execute("COMMIT")
        return meta
    meta = _read_meta(database, path)
    for key, value in sorted(wanted.items()):
        if meta.get(key) != value:
            raise LogError(f"{path}: the log of another run; {key}: expected {value}, found {meta.get(key)}")
    return meta


def _count_path(path: Path) -> Path:
    return Path(f"{path}.committed")


def _check_nothing_lost(path: Path, expected: int, found: int) -> None:
    """Raise ``LogError`` if the log has fewer records than it had."""
    if found < expected:
        raise LogError(
            f"{path}: record {found + 1} and those after it are gone or damaged; expected {expected} records, found {found}; "
            f"restore the log and its -wal from a copy, or remove {_count_path(path).name} to go on without them"
        )


def _verified(database: sqlite3.Connection, path: Path) -> Iterator[tuple[DurableRecord, _LogEnd]]:
    """Every record with the log's end after it; ``LogError`` at the first that is damaged, missing or out of the chain."""
    end = _LogEnd()
    rows = database.execute("SELECT number, check_crc32, packed FROM records ORDER BY number")
    for expected, (number, check, packed) in enumerate(rows, start=1):
        where = f"{path}: record {expected}"
        if number != expected:
            raise LogError(f"{where}: missing; the next is {number}")
        if not isinstance(packed, bytes) or crc32(packed) != check:
            raise LogError(f"{where}: damaged, its CRC-32 differs")
        try:
            record = decode_record(packed)
        except CodecError as error:
            raise LogError(f"{where}: {error}") from error
        if not isinstance(record, DurableRecord):
            raise LogError(f"{where}: expected a record of the log, found {type(record).__name__}")
        end = end.after(record, where)
        yield record, end
