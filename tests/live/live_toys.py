"""Toy agents for the live host: they say what they were told and do what they are asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from hosfl_async.agent import Effect, Event, JobDone, Received, Started, Stopping
from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Station
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker

Answer = Callable[[Event, float], list[Effect]]


class ToyAgent:
    """Remembers its events and answers each with what ``answer`` says; finished when ``done`` says so."""

    def __init__(self, name: str, answer: Answer = lambda event, now: [], done: Callable[[ToyAgent], bool] = lambda toy: False) -> None:
        self.name = name
        self.counts: dict[str, int] = Counter()
        self.events: list[Event] = []
        self.times: list[float] = []
        self._answer, self._done = answer, done

    @property
    def finished(self) -> bool:
        return self._done(self)

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        self.times.append(now)
        return self._answer(event, now)

    def validate(self) -> None:
        assert self.times == sorted(self.times)
        assert isinstance(self.events[0], Started)
        assert not any(isinstance(event, Stopping) for event in self.events[:-1])

    def received(self) -> list[Any]:
        return [event.message for event in self.events if isinstance(event, Received)]

    def results(self) -> list[Any]:
        return [event.result for event in self.events if isinstance(event, JobDone)]


class ToyLearner:
    """Calls the job, which is a plain function here."""

    def run(self, job: Any) -> Any:
        return job()


class ListStore:
    def __init__(self, *records: Any) -> None:
        self.kept = list(records)

    def append(self, record: Any) -> None:
        self.kept.append(record)

    def records(self) -> tuple[Any, ...]:
        return tuple(self.kept)


def host_of(agent: ToyAgent, exchange: MemoryExchange, inbox: Any, worker: JobWorker, **options: Any) -> LiveHost:
    station = Station(run="toy", name=agent.name, groups=options.pop("groups", ()), watches=("+",))
    options.setdefault("boot", 1)
    return LiveHost(agent, ToyLearner(), exchange.transport(station), inbox, worker, validate=True, **options)


def run_hosts(build: Callable[[MemoryExchange, JobWorker], list[LiveHost]], settings: BrokerSettings | None = None) -> list[LiveHost]:
    """Run the hosts to their end and return them."""

    async def story() -> list[LiveHost]:
        with JobWorker() as worker:
            hosts = build(MemoryExchange(settings), worker)
            async with asyncio.timeout(30):
                await asyncio.gather(*(host.run() for host in hosts))
            return hosts

    return asyncio.run(story())
