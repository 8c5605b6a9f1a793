"""Many hosts in one process: over real brokers, to a common end, to a common stop, and through Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from live_toys import ListStore, ToyAgent, ToyLearner

from hosfl_async.agent import Effect, Event, JobDone, Received, RunJob, Send, SetTimer, Started, Stopping, TimerFired
from hosfl_async.broker.embedded import embedded_broker
from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.broker.mqtt import MqttTransport
from hosfl_async.broker.transport import Station, Transport
from hosfl_async.errors import AgentError
from hosfl_async.live.fleet import run_fleet
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.settings import LiveSettings
from hosfl_async.live.tally import total
from hosfl_async.messages import AGGREGATOR, CLIENTS, AggregatorInbox, CatchUp, EdgeClientInbox, HeadAnnounced

STEPS = 40
CLIENT_COUNT = 6


def counting_client(name: str) -> ToyAgent:
    """Asks, computes a job on the answer, asks again; finished when the answers to all its questions are computed."""

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [Send(AGGREGATOR, CatchUp(from_version=1))]
            case Received(_, HeadAnnounced(head)):
                return [RunJob(lambda: head)]
            case JobDone(_, head) if head < STEPS:
                return [Send(AGGREGATOR, CatchUp(from_version=head + 1))]
        return []

    return ToyAgent(name, answer, lambda toy: len(toy.results()) == STEPS)


def counting_aggregator() -> ToyAgent:
    """Answers every question with its number; finished when all have been asked."""

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Received(sender, CatchUp(number)):
                return [Send(sender, HeadAnnounced(head=number))]
        return []

    return ToyAgent(AGGREGATOR, answer, lambda toy: len(toy.received()) == STEPS * CLIENT_COUNT)


def fleet_over(make: Callable[[Station], Transport], worker: JobWorker) -> tuple[list[LiveHost], list[LiveHost]]:
    def host(agent: ToyAgent, groups: tuple[str, ...], inbox: object) -> LiveHost:
        transport = make(Station(run="fleet", name=agent.name, groups=groups))
        return LiveHost(agent, ToyLearner(), transport, inbox, worker, boot=1, store=ListStore(), validate=True)

    services = [host(counting_aggregator(), (), AggregatorInbox)]
    return services, [host(counting_client(f"client-{number}"), (CLIENTS,), EdgeClientInbox) for number in range(CLIENT_COUNT)]


@pytest.mark.parametrize("kind", ["memory", "iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_a_fleet_runs_to_its_common_end_and_loses_nothing(kind: str) -> None:
    async def story() -> None:
        with JobWorker() as worker:
            if kind == "memory":
                await check(*fleet_over(MemoryExchange().transport, worker))
            else:
                async with embedded_broker("mosquitto" if kind == "mosquitto" else "iotcore") as url:
                    await check(*fleet_over(lambda station: MqttTransport(url, station), worker))

    async def check(services: list[LiveHost], clients: list[LiveHost]) -> None:
        async with asyncio.timeout(60):
            assert await run_fleet(services, clients)
        assert all(host.agent.finished for host in services + clients)
        counts = total(host.tally for host in services + clients).counts
        assert counts["sent"] == counts["delivered"] == 2 * STEPS * CLIENT_COUNT
        assert counts["jobs_started"] == counts["jobs_done"] == STEPS * CLIENT_COUNT
        assert [host.agent.results() for host in clients if isinstance(host.agent, ToyAgent)] == [list(range(1, STEPS + 1))] * CLIENT_COUNT
        assert not any(counts[what] for what in ("refused", "impostor", "dropped", "oversize", "jobs_failed"))

    asyncio.run(story())


def idle_fleet(agents: list[ToyAgent], worker: JobWorker, **options: object) -> list[LiveHost]:
    exchange = MemoryExchange()
    return [
        LiveHost(agent, ToyLearner(), exchange.transport(Station(run="idle", name=agent.name)), EdgeClientInbox, worker, boot=1, **options)  # type: ignore[arg-type]
        for agent in agents
    ]


def test_one_failure_stops_the_others_in_good_order() -> None:
    def fail(event: Event, now: float) -> list[Effect]:
        if isinstance(event, TimerFired):
            raise ValueError("no more")
        return [SetTimer("soon", 0.01)]

    agents = [ToyAgent("service"), ToyAgent("client-1"), ToyAgent("client-2", fail)]

    async def story() -> None:
        with JobWorker() as worker:
            hosts = idle_fleet(agents, worker)
            async with asyncio.timeout(30):
                with pytest.raises(AgentError, match=r"client-2 failed .*: no more"):
                    await run_fleet(hosts[:1], hosts[1:])

    asyncio.run(story())
    assert agents[0].events == [Started(1, ()), Stopping()]
    assert agents[1].events == [Started(1, ()), Stopping()]


def test_a_client_that_never_hears_of_the_end_is_stopped() -> None:
    agents = [ToyAgent("service", done=lambda toy: True), ToyAgent("client-1")]

    async def story() -> None:
        with JobWorker() as worker:
            hosts = idle_fleet(agents, worker, settings=LiveSettings(stop_s=0.05))
            async with asyncio.timeout(30):
                assert await run_fleet(hosts[:1], hosts[1:])

    asyncio.run(story())
    assert agents[1].events == [Started(1, ()), Stopping()]


def test_a_lingering_service_repeats_its_last_word() -> None:
    """It is finished at the first question; its answer gets lost, and the client asks again."""

    def serve(event: Event, now: float) -> list[Effect]:
        match event:
            case Received(sender, CatchUp(2)):
                return [Send(sender, HeadAnnounced(head=2))]
        return []

    def ask(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [Send(AGGREGATOR, CatchUp(from_version=1)), SetTimer("again", 0.02)]
            case TimerFired():
                return [Send(AGGREGATOR, CatchUp(from_version=2))]
        return []

    service = ToyAgent(AGGREGATOR, serve, lambda toy: bool(toy.received()))
    client = ToyAgent("client-1", ask, lambda toy: bool(toy.received()))

    async def story() -> None:
        exchange = MemoryExchange()
        with JobWorker() as worker:

            def host(agent: ToyAgent, inbox: object, lingers: bool) -> LiveHost:
                transport = exchange.transport(Station(run="lingers", name=agent.name))
                return LiveHost(agent, ToyLearner(), transport, inbox, worker, boot=1, lingers=lingers)

            async with asyncio.timeout(30):
                assert await run_fleet([host(service, AggregatorInbox, True)], [host(client, EdgeClientInbox, False)])

    asyncio.run(story())
    assert client.received() == [HeadAnnounced(head=2)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_in_good_order(number: signal.Signals) -> None:
    def interrupt(event: Event, now: float) -> list[Effect]:
        if isinstance(event, TimerFired):
            os.kill(os.getpid(), number)
        return [SetTimer("soon", 0.01)] if isinstance(event, Started) else []

    agents = [ToyAgent("service"), ToyAgent("client-1", interrupt)]

    async def story() -> bool:
        with JobWorker() as worker:
            hosts = idle_fleet(agents, worker)
            async with asyncio.timeout(30):
                return await run_fleet(hosts[:1], hosts[1:])

    assert asyncio.run(story()) is False
    assert [agent.events[-1] for agent in agents] == [Stopping(), Stopping()]
