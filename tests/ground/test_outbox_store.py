"""The outbox: what it was given and nobody answered comes back byte for byte, after any end of the process."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from hosfl_async.codec import encode
from hosfl_async.errors import LogError
from hosfl_async.messages import ClientGradient, ContributionMade, ContributionSettled, ProjectedGradients, StepId, Tensor
from hosfl_async.outbox_store import MemoryOutbox, OutboxStore

steps = some.builds(StepId, some.just("client-1"), some.integers(1, 3), some.integers(1, 6))
finite = some.floats(allow_nan=False, allow_infinity=False)
scalars = some.lists(finite, max_size=5).map(tuple)
gradients = some.binary(min_size=2, max_size=2).map(lambda raw: Tensor("float32", (2,), b"\0\0" + raw[:1] + b"\x3f" + b"\0\0\0\0"))
messages = some.builds(ProjectedGradients, steps, some.integers(0, 2**40), scalars) | some.builds(
    ClientGradient, steps, some.integers(0, 9), gradients
)
histories = some.lists(some.builds(ContributionMade, messages) | some.builds(ContributionSettled, steps) | some.just("reopen"), max_size=20)


@given(history=histories)
def test_both_outboxes_keep_what_is_unanswered(history: list[object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("outbox") / "o.sqlite"
    store, memory = OutboxStore(path, "r"), MemoryOutbox()
    kept: dict[StepId, ContributionMade] = {}
    for event in history:
        match event:
            case "reopen":
                store.close()
                store = OutboxStore(path, "r")
            case ContributionMade(message):
                kept[message.step] = event
                store.append(event)
                memory.append(event)
            case ContributionSettled(step):
                kept.pop(step, None)
                store.append(event)
                memory.append(event)
    expected = [kept[step] for step in sorted(kept)]
    assert list(store.records()) == expected and sorted(memory.records(), key=lambda one: one.message.step) == expected
    assert [encode("client-1", one.message) for one in store.records()] == [encode("client-1", one.message) for one in expected]
    store.close()


def contribution(number: int) -> ContributionMade:
    return ContributionMade(ProjectedGradients(StepId("client-1", 1, number), 0, (1.5, -2.5)))


def test_a_killed_process_leaves_what_append_returned_for(tmp_path: Path) -> None:
    """The child tells us each contribution that is durable, and is killed amid its work, with a deletion still open."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        store = OutboxStore(tmp_path / "o", "r")
        for number in range(1, 10_000):
            store.append(contribution(number))
            os.write(tell, b"%d\n" % number)
            if number % 3 == 0:
                store.append(ContributionSettled(StepId("client-1", 1, number)))
        os._exit(0)
    os.close(tell)
    seen = b""
    while seen.count(b"\n") < 40:
        seen += os.read(told, 100)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(told, 10_000):
        seen += more
    durable = int(seen.split()[-1])
    with OutboxStore(tmp_path / "o", "r") as store:
        numbers = {one.message.step.number for one in store.records()}
    assert {number for number in range(1, durable + 1) if number % 3} <= numbers
    assert not {number for number in range(1, durable - 1) if number % 3 == 0} & numbers, "settled before a later append"


def test_damage_and_strangers_are_told(tmp_path: Path) -> None:
    path = tmp_path / "o"
    with OutboxStore(path, "r") as store:
        store.append(contribution(1))
    with pytest.raises(LogError, match="another run"):
        OutboxStore(path, "other")
    for damage in ("packed = x'00'", "check_crc32 = 1", "number = 2"):
        with sqlite3.connect(path) as database:
            before = database.execute("SELECT * FROM contributions").fetchone()
            database.execute(f"UPDATE contributions SET {damage}")
        database.close()
        with OutboxStore(path, "r") as store, pytest.raises(LogError, match=r"o: contribution client-1/\d"):
            store.records()
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM contributions")
            database.execute("INSERT INTO contributions VALUES (?, ?, ?, ?, ?)", before)
        database.close()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LogError, match="could not be opened"):
        OutboxStore(path, "r")
