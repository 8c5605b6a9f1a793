"""Files that a power cut leaves either as they were or as they were meant to be, never in between.

The order is the whole point: the new content is on disk under another name before it takes the name (rename is atomic), and the folder is
synced, else the rename itself may be forgotten. An error of ``fsync`` is an error of the write: what a later ``fsync`` says about the same
pages means nothing, so nobody tries again.
"""

from __future__ import annotations

import os
from binascii import crc32
from contextlib import suppress
from pathlib import Path

SUFFIX = ".tmp"
"""A file with this ending was being written when its writer died; it is overwritten by the next one."""


def write_durably(path: Path, content: bytes) -> None:
    """Make ``path`` hold ``content``, durably: written beside it, synced, renamed, the folder synced. Raises ``OSError``."""
    beside = path.with_name(path.name + SUFFIX)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names that were given or taken in a folder durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_count(path: Path, count: int) -> None:
    """Note ``count``, without waiting for the disk: a note that may be old, is never new before its time, and whose loss costs nothing."""
    told = count.to_bytes(8, "little")
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, told + crc32(told).to_bytes(4, "little"), 0)
        finally:
            os.close(file)


def read_count(path: Path) -> int:
    """What ``write_count`` noted; 0 if there is nothing, or what a power cut left is no such note."""
    try:
        told = path.read_bytes()
    except OSError:
        return 0
    sound = len(told) == 12 and crc32(told[:8]) == int.from_bytes(told[8:], "little")
    return int.from_bytes(told[:8], "little") if sound else 0


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
