"""A live host whose disk is full: nothing is said that is not durable, and everything goes on when there is space."""

from __future__ import annotations

from typing import Any

import pytest
from live_toys import ListStore, ToyAgent, host_of, run_hosts

from hosfl_async.agent import Effect, Event, Persist, Received, Record, Send, SetTimer, Started, Stopping, TimerFired
from hosfl_async.errors import DiskFullError, LogError
from hosfl_async.live.settings import LiveSettings
from hosfl_async.messages import AggregatorInbox, CatchUp, EdgeClientInbox, HeadAnnounced


class FullFor(ListStore):
    """Has no space for so many attempts to keep anything."""

    def __init__(self, attempts: int, problem: type[LogError] = DiskFullError) -> None:
        super().__init__()
        self.left, self._problem = attempts, problem

    def append(self, record: Any) -> None:
        if self.left:
            self.left -= 1
            raise self._problem("no space left")
        super().append(record)


def pair(store: FullFor) -> tuple[list[Any], list[tuple[str, str]]]:
    """An aggregator that keeps each question before it answers, and a client that asks until it is answered twice."""
    heard: list[Any] = []
    told: list[tuple[str, str]] = []

    def aggregator(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [SetTimer("tick", 0.02)]
            case TimerFired():
                return [Record("tick", {})]
            case Received(sender, CatchUp(version)):
                return [Persist(version), Send(sender, HeadAnnounced(version))]
        return []

    def client(event: Event, now: float) -> list[Effect]:
        if isinstance(event, Received):
            heard.append(tuple(store.kept))
        return [] if isinstance(event, Stopping) else [Send("aggregator", CatchUp(1)), SetTimer("again", 0.01)]

    run_hosts(
        lambda exchange, worker: [
            host_of(
                ToyAgent("aggregator", aggregator, lambda toy: len(heard) >= 2),
                exchange,
                AggregatorInbox,
                worker,
                store=store,
                settings=LiveSettings(disk_full_retry_s=0.05),
                on_record=lambda now, agent, record: told.append((agent, record.name)),
            ),
            host_of(ToyAgent("client-1", client, lambda toy: len(heard) >= 2), exchange, EdgeClientInbox, worker),
        ]
    )
    return heard, told


def test_what_follows_a_record_waits_for_it_and_late_timers_fire() -> None:
    store = FullFor(3)
    heard, told = pair(store)
    assert store.left == 0 and all(heard)
    names = [name for _, name in told]
    assert names.count("disk_full") == names.count("disk_has_space") == names.count("tick") == 1
    assert names.index("disk_full") < names.index("disk_has_space") < names.index("tick"), "the timer fired while the disk was full"


def test_any_other_failure_to_write_ends_the_host_and_answers_nobody() -> None:
    with pytest.raises(LogError, match="no space left"):
        pair(FullFor(1, LogError))
