"""A disk between SQLite and the operating system: it writes down every operation, fails on order, and can forget what was not synced.

SQLite asks its "VFS" for files. Here the usual one is wrapped, in the very library that Python's own ``sqlite3`` uses, so the store
under test is not changed in any way. ``States`` then makes what a power cut may leave at any operation: every file as it was at its
last sync, or with any part of what was written since.
"""

from __future__ import annotations

import ctypes as c
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, FULL, WRITE_ERROR, SYNC_ERROR = 0, 13, 10 | 3 << 8, 10 | 4 << 8
"""SQLITE_OK, SQLITE_FULL (what the unix VFS makes of ENOSPC), and what it makes of EIO from write and from fsync."""
SECTOR_BYTES = 512

_METHODS = (
    "Close", "Read", "Write", "Truncate", "Sync", "FileSize", "Lock", "Unlock", "CheckReservedLock", "FileControl", "SectorSize",
    "DeviceCharacteristics", "ShmMap", "ShmLock", "ShmBarrier", "ShmUnmap", "Fetch", "Unfetch",
)  # fmt: skip
_CALLS = (
    "Open", "Delete", "Access", "FullPathname", "DlOpen", "DlError", "DlSym", "DlClose", "Randomness", "Sleep", "CurrentTime",
    "GetLastError", "CurrentTimeInt64", "SetSystemCall", "GetSystemCall", "NextSystemCall",
)  # fmt: skip


class _Methods(c.Structure):
    _fields_ = [("iVersion", c.c_int), *((name, c.c_void_p) for name in _METHODS)]


class _File(c.Structure):
    _fields_ = [("methods", c.POINTER(_Methods))]


class _Vfs(c.Structure):
    _fields_ = [("iVersion", c.c_int), ("szOsFile", c.c_int), ("mxPathname", c.c_int), ("pNext", c.c_void_p), ("zName", c.c_char_p),
                ("pAppData", c.c_void_p), *((name, c.c_void_p) for name in _CALLS)]  # fmt: skip


_OPEN = c.CFUNCTYPE(c.c_int, c.POINTER(_Vfs), c.c_void_p, c.POINTER(_File), c.c_int, c.c_void_p)
_DELETE = c.CFUNCTYPE(c.c_int, c.POINTER(_Vfs), c.c_void_p, c.c_int)
_WRITE = c.CFUNCTYPE(c.c_int, c.POINTER(_File), c.c_void_p, c.c_int, c.c_int64)
_TRUNCATE = c.CFUNCTYPE(c.c_int, c.POINTER(_File), c.c_int64)
_SYNC = c.CFUNCTYPE(c.c_int, c.POINTER(_File), c.c_int)


@dataclass(frozen=True)
class Operation:
    """One thing done to a file: ``write`` (at, data), ``truncate`` (at), ``sync``, ``delete``; or ``told``, a note of the test."""

    what: str
    name: str
    at: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """``fails``: asked before every write and sync, with how many there were before; a code other than OK is the answer."""

    folder: Path
    operations: list[Operation] = field(default_factory=list)
    fails: Callable[[str, int], int] = lambda what, number: OK
    asked: int = 0

    def tell(self, what: str, at: int) -> None:
        self.operations.append(Operation("told", what, at))

    def _asked(self, what: str) -> int:
        self.asked += 1
        return self.fails(what, self.asked - 1)


def library() -> Any:
    """The SQLite library that Python's ``sqlite3`` uses, or None if it is built in."""
    for name in ("libsqlite3.so.0", "libsqlite3.dylib"):
        try:
            found = c.CDLL(name)
        except OSError:
            continue
        found.sqlite3_libversion.restype = c.c_char_p
        found.sqlite3_vfs_find.restype = c.POINTER(_Vfs)
        if found.sqlite3_libversion().decode() == sqlite3.sqlite_version:
            return found
    return None


@contextmanager
def wrapped(folder: Path) -> Iterator[Disk]:
    """Whatever SQLite does below ``folder`` passes through the ``Disk``."""
    sqlite = library()
    real = sqlite.sqlite3_vfs_find(None)
    disk = Disk(folder)
    ours = _Wrapping(disk, real)
    assert sqlite.sqlite3_vfs_register(c.byref(ours.vfs), 1) == OK
    try:
        yield disk
    finally:
        sqlite.sqlite3_vfs_unregister(c.byref(ours.vfs))
        sqlite.sqlite3_vfs_register(real, 1)


class _Wrapping:
    def __init__(self, disk: Disk, real: Any) -> None:
        self._disk, self._real = disk, real
        self._names: dict[int, str] = {}
        self._copies: dict[int, tuple[_Methods, _Methods]] = {}
        self.vfs = _Vfs.from_buffer_copy(bytes(real.contents))
        self.vfs.pNext, self.vfs.zName = None, b"disk-under-test"
        self._kept = (_OPEN(self._open), _DELETE(self._delete), _WRITE(self._write), _TRUNCATE(self._truncate), _SYNC(self._sync))
        self.vfs.Open, self.vfs.Delete = (c.cast(each, c.c_void_p).value for each in self._kept[:2])
        self._real_open = _OPEN(real.contents.Open)
        self._real_delete = _DELETE(real.contents.Delete)

    def _inside(self, path: int | None) -> str | None:
        """``path`` is SQLite's own pointer, and is handed on as such: it keeps it, and reads on behind its end."""
        found = Path(c.string_at(path).decode() if path else "")
        return found.name if found.parent == self._disk.folder else None

    def _open(self, _vfs: Any, path: int | None, file: Any, flags: int, out: Any) -> int:
        code = self._real_open(self._real, path, file, flags, out)
        name = self._inside(path)
        if code == OK and name is not None and file.contents.methods:
            self._names[c.addressof(file.contents)] = name
            file.contents.methods = c.pointer(self._copy(file.contents.methods))
        return code

    def _copy(self, methods: Any) -> _Methods:
        address = c.addressof(methods.contents)
        if address not in self._copies:
            copy = _Methods.from_buffer_copy(bytes(methods.contents))
            copy.Write, copy.Truncate, copy.Sync = (c.cast(each, c.c_void_p).value for each in self._kept[2:])
            self._copies[address] = (copy, methods.contents)
        return self._copies[address][0]

    def _original(self, file: Any) -> _Methods:
        ours = c.addressof(file.contents.methods.contents)
        return next(real for copy, real in self._copies.values() if c.addressof(copy) == ours)

    def _write(self, file: Any, data: int, length: int, at: int) -> int:
        if code := self._disk._asked("write"):
            return code
        content = c.string_at(data, length)
        self._note(file, "write", at, content)
        return _WRITE(self._original(file).Write)(file, data, length, at)

    def _truncate(self, file: Any, length: int) -> int:
        self._note(file, "truncate", length)
        return _TRUNCATE(self._original(file).Truncate)(file, length)

    def _sync(self, file: Any, flags: int) -> int:
        if code := self._disk._asked("sync"):
            return code
        self._note(file, "sync")
        return _SYNC(self._original(file).Sync)(file, flags)

    def _delete(self, _vfs: Any, path: int, sync: int) -> int:
        if (name := self._inside(path)) is not None:
            self._disk.operations.append(Operation("delete", name))
        return self._real_delete(self._real, path, sync)

    def _note(self, file: Any, what: str, at: int = 0, data: bytes = b"") -> None:
        self._disk.operations.append(Operation(what, self._names[c.addressof(file.contents)], at, data))


class States:
    """Goes through a disk's operations; at each point it knows what a dying process and what a power cut would leave."""

    def __init__(self) -> None:
        self.now: dict[str, bytearray] = {}
        """What every process sees: what SIGKILL leaves."""
        self.synced: dict[str, bytes] = {}
        """What a disk that forgets everything unsynced would have."""
        self._since: dict[str, list[Operation]] = {}
        self.told: dict[str, int] = {}

    def do(self, operation: Operation) -> None:
        name = operation.name
        match operation.what:
            case "told":
                self.told[name] = operation.at
            case "write" | "truncate":
                _apply(self.now.setdefault(name, bytearray()), operation)
                self._since.setdefault(name, []).append(operation)
            case "sync":
                self.synced[name] = bytes(self.now.get(name, b""))
                self._since.pop(name, None)
            case "delete":
                for state in (self.now, self.synced, self._since):
                    state.pop(name, None)

    def torn(self, dice: random.Random) -> dict[str, bytes]:
        """What a power cut may leave: of everything since the last sync any part, in sectors."""
        left = {}
        for name in self.now:
            content = bytearray(self.synced.get(name, b""))
            for operation in self._since.get(name, ()):
                if operation.what == "truncate":
                    if dice.random() < 0.5:
                        _apply(content, operation)
                    continue
                for start in range(0, len(operation.data), SECTOR_BYTES):
                    if dice.random() < 0.5:
                        piece = operation.data[start : start + SECTOR_BYTES]
                        _apply(content, Operation("write", name, operation.at + start, piece))
            if name in self.synced or content:
                left[name] = bytes(content)
        return left


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.what == "truncate":
        del content[operation.at :]
        return
    end = operation.at + len(operation.data)
    content.extend(bytes(max(0, operation.at - len(content))))
    content[operation.at : end] = operation.data
