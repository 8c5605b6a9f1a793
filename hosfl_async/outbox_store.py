"""Where a client's unanswered contributions live: a SQLite file that holds a handful of rows.

A contribution is on disk when ``append`` returns, so it may be sent; once it is answered its row goes. That it went need not be durable at
once: a contribution that comes back after a power cut is sent again and gets the answer it had. So a step costs one wait for the disk.
"""

from __future__ import annotations

import sqlite3
from binascii import crc32
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hosfl_async.codec import decode_record, encode_record
from hosfl_async.errors import CodecError, DiskFullError, LogError
from hosfl_async.messages import ContributionMade, ContributionSettled, OutboxRecord, StepId

OUTBOX_SCHEMA_VERSION = 1
_TABLE = (
    "CREATE TABLE IF NOT EXISTS contributions (client TEXT, incarnation INTEGER, number INTEGER, check_crc32 INTEGER NOT NULL,"
    " packed BLOB NOT NULL, PRIMARY KEY (client, incarnation, number)) WITHOUT ROWID"
)


class MemoryOutbox:
    """The same without a disk, for simulated devices."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[StepId, ContributionMade] = {}

    def append(self, record: OutboxRecord) -> None:
        if isinstance(record, ContributionMade):
            self._made[record.message.step] = record
        else:
            self._made.pop(record.step, None)

    def records(self) -> tuple[ContributionMade, ...]:
        return tuple(self._made.values())


class OutboxStore:
    """A context manager. Raises ``LogError`` naming the file if it cannot be read, written or believed, or belongs to another run.

    The caller sees to it that no other process uses the file. ``run`` names what the contributions belong to.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._waiting = False
        with self._named_errors("opened"):
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._named_errors("opened"):
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute(_TABLE)
                self._settle_meta(f"{OUTBOX_SCHEMA_VERSION} {run}")
        except BaseException:
            self._database.close()
            raise

    def append(self, record: OutboxRecord) -> None:
        """Durable when this returns, if it is a ``ContributionMade``."""
        with self._named_errors("written"):
            if not self._waiting:
                self._database.execute("BEGIN IMMEDIATE")
                self._waiting = True
            if isinstance(record, ContributionSettled):
                self._database.execute("DELETE FROM contributions WHERE client = ? AND incarnation = ? AND number = ?", _key(record.step))
                return
            packed = encode_record(record)
            row = (*_key(record.message.step), crc32(packed), packed)
            self._database.execute("INSERT OR REPLACE INTO contributions VALUES (?, ?, ?, ?, ?)", row)
            self._commit()

    def records(self) -> tuple[ContributionMade, ...]:
        """What is unanswered, oldest first."""
        with self._named_errors("read"):
            rows = self._database.execute("SELECT * FROM contributions ORDER BY client, incarnation, number").fetchall()
        return tuple(self._checked(*row) for row in rows)

    def close(self) -> None:
        try:
            with self._named_errors("written"):
                self._commit()
        finally:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _commit(self) -> None:
        if self._waiting:
            self._database.execute("COMMIT")
            self._waiting = False

    def _settle_meta(self, wanted: str) -> None:
        self._database.execute("CREATE TABLE IF NOT EXISTS meta (belongs_to TEXT NOT NULL)")
        found = self._database.execute("SELECT belongs_to FROM meta").fetchone()
        if found is None:
            self._database.execute("INSERT INTO meta VALUES (?)", (wanted,))
        elif found[0] != wanted:
            raise LogError(f"{self.path}: the outbox of another run; expected {wanted}, found {found[0]}")

    def _checked(self, client: str, incarnation: int, number: int, check: int, packed: bytes) -> ContributionMade:
        where = f"{self.path}: contribution {StepId(client, incarnation, number)}"
        if not isinstance(packed, bytes) or crc32(packed) != check:
            raise LogError(f"{where}: damaged, its CRC-32 differs")
        try:
            record = decode_record(packed)
        except CodecError as error:
            raise LogError(f"{where}: {error}") from error
        if not isinstance(record, ContributionMade) or record.message.step != StepId(client, incarnation, number):
            raise LogError(f"{where}: holds something else")
        return record

    @contextmanager
    def _named_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            problem = f"{self.path}: the outbox could not be {what} ({error})"
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._taken_back():
                raise DiskFullError(problem) from error
            raise LogError(problem) from error

    def _taken_back(self) -> bool:
        """What was answered meanwhile may come back with it, is sent again, and gets the answer it had."""
        with suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._waiting = False
            return True
        return False


def _key(step: StepId) -> tuple[str, int, int]:
    return step.client, step.incarnation, step.number
