"""The state folder of one agent process: what must outlive it, one process at a time, and a boot number that only grows.

The lock is advisory and dies with its holder, so ``kill -9`` leaves nothing to clean up. The boot number follows the clock, but never goes
back, not even when the clock does: it is durable before anybody hears of it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hosfl_async.durable_files import write_durably
from hosfl_async.errors import LogError, SettingsError

LOCK, BOOT, FLEET = "lock", "boot", "fleet.json"


class StateFolder:
    """A folder that this process holds. Made by ``hold_state``."""

    def __init__(self, path: Path, boot: int) -> None:
        self.path, self.boot = path, boot

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@contextmanager
def hold_state(path: Path) -> Iterator[StateFolder]:
    """Make the folder if need be, lock it, begin the next boot. Raises ``LogError`` or ``SettingsError`` naming the folder."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"state: {path}", "cannot be used", found=str(error), mend="choose a folder that can be written") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogError(f"{path}: another process has this state open") from None
        yield StateFolder(path, _next_boot(path / BOOT))
    finally:
        os.close(lock)


def _next_boot(path: Path) -> int:
    try:
        before = int(path.read_text()) if path.exists() else 0
        boot = max(time.time_ns(), before + 1)
        write_durably(path, b"%d\n" % boot)
    except ValueError:
        raise LogError(f"{path}: expected a number; found something else") from None
    except OSError as error:
        raise LogError(f"{path}: cannot be read or written ({error})") from error
    return boot
