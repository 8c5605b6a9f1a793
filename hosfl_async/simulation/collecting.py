"""Python's collector of cyclic garbage during a run.

Agents, messages and entries hold no cycles, but each collection of the young ones meets what is under way, and each full one the whole
fleet. So it runs more rarely while a simulation does: never at all would let whatever cycles a learner leaves pile up. What it
was set to is put back afterwards.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 20_000
"""Net new objects after which the young ones are looked through; Python's own 700 is meant for smaller programs."""


@contextmanager
def collecting_rarely() -> Iterator[None]:
    before = gc.get_threshold()
    if 0 < before[0] < NEW_OBJECTS:  # 0 is off, and somebody's own will
        gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
