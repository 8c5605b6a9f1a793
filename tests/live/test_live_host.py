"""The live host's duties, one by one, with toy agents over the memory transport."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from live_toys import ListStore, ToyAgent, host_of, run_hosts

from hosfl_async.agent import (
    Effect,
    Event,
    JobDone,
    JobFailed,
    PeerGone,
    Persist,
    Received,
    Record,
    RunJob,
    Send,
    SetTimer,
    Started,
    Stopping,
    TimerFired,
)
from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.transport import Station
from hosfl_async.codec import CodecLimits, encode
from hosfl_async.errors import AgentError, LearnerError, TransportError
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.live.settings import LiveSettings
from hosfl_async.messages import CLIENTS, AggregatorInbox, CatchUp, EdgeClientInbox, HeadAnnounced, LogPage, Snapshot, Tensor
from hosfl_async.telemetry import Telemetry, decode_telemetry
from hosfl_async.trace import TraceWriter, read_trace


def ask(version: int) -> CatchUp:
    return CatchUp(from_version=version)


def head(version: int) -> HeadAnnounced:
    return HeadAnnounced(head=version)


def alone(agent: ToyAgent, **options: Any) -> LiveHost:
    return run_hosts(lambda exchange, worker: [host_of(agent, exchange, EdgeClientInbox, worker, **options)])[0]


def test_started_comes_first_with_boot_and_records_and_stopping_last() -> None:
    toy = ToyAgent("client-1", done=lambda toy: True)
    alone(toy, boot=7, store=ListStore("old", "older"))
    assert toy.events == [Started(7, ("old", "older")), Stopping()]


def test_effects_are_obeyed_in_order_and_persisted_before_sent() -> None:
    """When a message can be seen by anybody, every record persisted before it is in the store."""
    store = ListStore()
    seen: list[tuple[int, int]] = []

    def commit(event: Event, now: float) -> list[Effect]:
        match event:
            case Received(sender, CatchUp(from_version)):
                return [Persist(from_version), Send(sender, head(from_version)), Persist("after"), Record("done", {"number": 1.0})]
        return []

    def client(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [Send("aggregator", ask(version)) for version in range(100)]
            case Received(_, HeadAnnounced(version)):
                seen.append((version, version in store.kept))
        return []

    recorded: list[tuple[str, str]] = []
    run_hosts(
        lambda exchange, worker: [
            host_of(
                ToyAgent("aggregator", commit, lambda toy: len(toy.received()) == 100),
                exchange,
                AggregatorInbox,
                worker,
                store=store,
                on_record=lambda now, agent, record: recorded.append((agent, record.name)),
            ),
            host_of(ToyAgent("client-1", client, lambda toy: len(seen) == 100), exchange, EdgeClientInbox, worker),
        ]
    )
    assert sorted(seen) == [(version, True) for version in range(100)]
    assert store.kept == [word for version in range(100) for word in (version, "after")]
    assert recorded == [("aggregator", "done")] * 100


def test_a_timer_is_replaced_cancelled_and_fires_once() -> None:
    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [
                    SetTimer("never", 0.01),
                    SetTimer("never", None),
                    SetTimer("again", 0.0),
                    SetTimer("again", 0.02),
                    SetTimer("unset", None),
                    SetTimer("end", 0.1),
                ]
        return []

    toy = ToyAgent("client-1", answer, lambda toy: TimerFired("end") in toy.events)
    host = alone(toy)
    assert [event for event in toy.events if isinstance(event, TimerFired)] == [TimerFired("again"), TimerFired("end")]
    assert host.tally.counts["timers_fired"] == 2


@given(some.lists(some.tuples(some.sampled_from("abc"), some.none() | some.integers(0, 5)), max_size=12))
def test_timers_do_what_a_dictionary_says(orders: list[tuple[str, int | None]]) -> None:
    """After any orders, exactly the timers that were set last and not cancelled fire, each once."""
    expected = {name for name, delay in dict(orders).items() if delay is not None}

    def answer(event: Event, now: float) -> list[Effect]:
        return [SetTimer(name, None if delay is None else delay / 1000) for name, delay in orders] if isinstance(event, Started) else []

    fired = lambda toy: [event.name for event in toy.events if isinstance(event, TimerFired)]  # noqa: E731
    toy = ToyAgent("client-1", answer, lambda toy: len(fired(toy)) >= len(expected))
    alone(toy)
    assert sorted(fired(toy)) == sorted(expected)


def test_a_job_comes_back_as_done_or_failed() -> None:
    def refuse() -> None:
        raise LearnerError("not this one")

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [RunJob(lambda: 42)]
            case JobDone():
                return [RunJob(refuse)]
        return []

    toy = ToyAgent("client-1", answer, lambda toy: isinstance(toy.events[-1], JobFailed))
    host = alone(toy)
    assert toy.results() == [42]
    assert [event.reason for event in toy.events if isinstance(event, JobFailed)] == ["not this one"]
    assert (host.tally.counts["jobs_started"], host.tally.counts["jobs_done"], host.tally.counts["jobs_failed"]) == (2, 1, 1)


def test_a_second_job_at_a_time_is_an_agent_error() -> None:
    toy = ToyAgent("client-1", lambda event, now: [RunJob(int), RunJob(int)] if isinstance(event, Started) else [])
    with pytest.raises(AgentError, match=r"client-1 asks for .* while .* is under way"):
        alone(toy)


def test_a_learner_that_breaks_otherwise_ends_the_run_with_its_own_error() -> None:
    toy = ToyAgent("client-1", lambda event, now: [RunJob(lambda: 1 // 0)] if isinstance(event, Started) else [])
    with pytest.raises(ZeroDivisionError):
        alone(toy)


def test_an_agent_that_fails_tells_its_story() -> None:
    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [SetTimer("soon", 0.0)]
            case TimerFired():
                raise KeyError("lost")
        return []

    with pytest.raises(AgentError, match=r"(?s)client-1 failed at .* on TimerFired \(soon\).*Started"):
        alone(ToyAgent("client-1", answer))


def test_persisting_without_a_store_is_an_agent_error() -> None:
    with pytest.raises(AgentError, match="has no store"):
        alone(ToyAgent("client-1", lambda event, now: [Persist(1)]))


def test_what_is_not_for_this_agent_is_counted_and_never_fatal() -> None:
    """Noise, a foreign kind, a foreign schema and a false name: refused and counted; the good message behind them arrives."""
    frames = [
        b"",
        b"\xff" * 40,
        b"\x93\x01\x02\x03",
        encode("stranger", ask(1)),
        encode("somebody-else", head(1)),
        encode("stranger", head(5)),
    ]
    toy = ToyAgent("client-1", done=lambda toy: bool(toy.received()))

    async def story() -> LiveHost:
        exchange = MemoryExchange()
        with JobWorker() as worker:
            host = host_of(toy, exchange, EdgeClientInbox, worker)
            async with asyncio.timeout(30), exchange.transport(Station(run="toy", name="stranger")) as stranger:
                running = asyncio.create_task(host.run())
                await host.settled.wait()
                for frame in frames:
                    await stranger.send("client-1", frame)
                await running
        return host

    host = asyncio.run(story())
    assert toy.received() == [head(5)]
    assert (host.tally.counts["refused"], host.tally.counts["impostor"], host.tally.counts["delivered"]) == (4, 1, 1)


def test_a_big_message_travels_in_fragments() -> None:
    parameters = Tensor("float32", (300_000,), bytes(1_200_000))
    snapshot = Snapshot(version=3, parameters=parameters, digest=bytes(32), chain=bytes(32), head=3)
    toy = ToyAgent("client-1", done=lambda toy: bool(toy.received()))

    def answer(event: Event, now: float) -> list[Effect]:
        return [Send(event.sender, snapshot)] if isinstance(event, Received) else []

    greeter = ToyAgent("aggregator", answer, lambda toy: bool(toy.received()))

    def ask_at_start(event: Event, now: float) -> list[Effect]:
        return [Send("aggregator", ask(0))] if isinstance(event, Started) else []

    toy._answer = ask_at_start
    aggregator, _ = run_hosts(
        lambda exchange, worker: [
            host_of(greeter, exchange, AggregatorInbox, worker, limits=CodecLimits(frame_bytes_max=100_000)),
            host_of(toy, exchange, EdgeClientInbox, worker),
        ],
        BrokerSettings(payload_bytes_max=50_000),
    )
    assert toy.received() == [snapshot]
    assert aggregator.tally.messages == {"Snapshot": 1}
    assert aggregator.tally.bytes["log"] == len(encode("aggregator", snapshot))
    assert aggregator.transport.counts["sent"] == 25


def test_stopping_effects_are_obeyed_and_no_event_follows() -> None:
    heard = ToyAgent("client-2", done=lambda toy: bool(toy.received()))

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [SetTimer("later", 0.05)]
            case Stopping():
                return [Send(CLIENTS, head(9)), SetTimer("too late", 0.0), RunJob(int), Persist("last")]
        return []

    leaving = ToyAgent("aggregator", answer)
    store = ListStore()

    async def story() -> None:
        exchange = MemoryExchange()
        with JobWorker() as worker:
            stopped = host_of(leaving, exchange, AggregatorInbox, worker, store=store)
            hearing = host_of(heard, exchange, EdgeClientInbox, worker, groups=(CLIENTS,))
            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                tasks.create_task(hearing.run())
                await hearing.settled.wait()
                tasks.create_task(stopped.run())
                await stopped.settled.wait()
                stopped.request_stop()
                stopped.request_stop()

    asyncio.run(story())
    assert heard.received() == [head(9)]
    assert store.kept == ["last"]
    assert leaving.events[-1] == Stopping()


def test_a_peer_that_crashes_is_reported_and_one_that_leaves_is_not() -> None:
    toy = ToyAgent("aggregator", done=lambda toy: PeerGone("client-2") in toy.events)

    async def story() -> LiveHost:
        exchange = MemoryExchange()
        with JobWorker() as worker:
            host = host_of(toy, exchange, AggregatorInbox, worker)
            async with asyncio.timeout(30):
                running = asyncio.create_task(host.run())
                await host.settled.wait()
                async with exchange.transport(Station(run="toy", name="client-1")):
                    pass
                async with exchange.transport(Station(run="toy", name="client-2")) as crashing:
                    await crashing.abort()
                await running
        return host

    host = asyncio.run(story())
    assert [event for event in toy.events if isinstance(event, PeerGone)] == [PeerGone("client-2")]
    assert host.tally.counts["peers_gone"] == 1


def test_a_transport_that_gives_up_ends_the_run_with_its_error() -> None:
    async def story() -> None:
        exchange = MemoryExchange()
        with JobWorker() as worker:
            first = host_of(ToyAgent("client-1"), exchange, EdgeClientInbox, worker)
            second = host_of(ToyAgent("client-1"), exchange, EdgeClientInbox, worker)
            async with asyncio.timeout(30):
                losing = asyncio.create_task(first.run())
                await first.settled.wait()
                winning = asyncio.create_task(second.run())
                with pytest.raises(TransportError, match="took over the name client-1"):
                    await losing
                second.request_stop()
                await winning

    asyncio.run(story())


def test_sends_beyond_the_bound_are_dropped_and_counted() -> None:
    def answer(event: Event, now: float) -> list[Effect]:
        return [Send("nobody", ask(number)) for number in range(10)] if isinstance(event, Started) else []

    toy = ToyAgent("client-1", answer, lambda toy: True)
    host = alone(toy, settings=LiveSettings(sends_waiting_max=4))
    assert (host.tally.counts["sent"], host.tally.counts["dropped"], host.transport.counts["sent"]) == (10, 6, 4)


def test_the_loop_goes_on_while_a_job_computes() -> None:
    """A job that cannot end before the loop has done 50 turns; it would wait for ever if the loop stood still."""
    turns = 0

    async def story() -> None:
        nonlocal turns
        loop = asyncio.get_running_loop()

        def wait_for_the_loop() -> int:
            async def turn() -> None:
                nonlocal turns
                turns += 1

            for _ in range(50):
                asyncio.run_coroutine_threadsafe(turn(), loop).result(timeout=30)
            return turns

        toy = ToyAgent(
            "client-1",
            lambda event, now: [RunJob(wait_for_the_loop)] if isinstance(event, Started) else [],
            lambda toy: toy.results() != [],
        )
        with JobWorker() as worker:
            await host_of(toy, MemoryExchange(), EdgeClientInbox, worker).run()
        assert toy.results() == [50]

    asyncio.run(story())
    assert turns == 50


class SlowPace:
    """Modelled: every job takes 20 s, every message from client-1 a time that depends on its number."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def duration_s(self, agent: str, job: Any) -> float:
        return 20.0

    def delay_s(self, sender: str, recipient: str, payload_bytes: int) -> float:
        self.asked.append((sender, recipient, payload_bytes))
        return 30.0 - 10.0 * len(self.asked)


def test_modelled_time_is_waited_in_the_scale_and_agents_live_in_it() -> None:
    """At 1000 modelled seconds per wall second: a job is not done before its modelled 20 s, messages leave in the order of their delays."""

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [RunJob(lambda: "job"), SetTimer("early", 5.0), *(Send("aggregator", ask(number)) for number in range(3))]
        return []

    toy = ToyAgent("client-1", answer, lambda toy: toy.results() != [])
    hearing = ToyAgent("aggregator", done=lambda toy: len(toy.received()) == 3)
    pace = SlowPace()
    run_hosts(
        lambda exchange, worker: [
            host_of(hearing, exchange, AggregatorInbox, worker),
            host_of(toy, exchange, EdgeClientInbox, worker, settings=LiveSettings(time_scale=0.001), pace=pace),
        ]
    )
    assert [type(event) for event in toy.events] == [Started, TimerFired, JobDone, Stopping]
    assert toy.times[1] - toy.times[0] >= 5.0
    assert toy.times[2] - toy.times[0] >= 20.0
    assert hearing.received() == [ask(2), ask(1), ask(0)]
    assert [asked[:2] for asked in pace.asked] == [("client-1", "aggregator")] * 3


def test_the_trace_tells_what_happened(tmp_path: Path) -> None:
    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [Persist("kept"), Send("nobody", ask(1)), RunJob(int), Record("loss", {"loss": 0.5}, step="client-1/3")]
        return []

    with TraceWriter(tmp_path / "trace") as trace:
        alone(ToyAgent("client-1", answer, lambda toy: toy.results() != []), trace=trace, store=ListStore())
    noted = [(record.what, record.kind, record.step) for record in read_trace(tmp_path / "trace")]
    assert noted == [
        ("started", "", ""),
        ("persisted", "str", ""),
        ("sent", "CatchUp", ""),
        ("job_started", "type", ""),
        ("recorded", "loss", "client-1/3"),
        ("job_done", "type", ""),
        ("stopped", "", ""),
    ]


def test_bytes_and_messages_are_counted_by_kind() -> None:
    page = LogPage(from_version=0, entries=(), head=0)
    toy = ToyAgent(
        "aggregator", lambda event, now: [Send("x", page), Send("x", head(1))] if isinstance(event, Started) else [], lambda toy: True
    )
    host = alone(toy)
    assert host.tally.messages == {"LogPage": 1, "HeadAnnounced": 1}
    assert host.tally.bytes == {"log": len(encode("aggregator", page)), "control": len(encode("aggregator", head(1)))}


def test_what_a_host_tells_of_its_agent() -> None:
    """Whole records of one process, in their order, within the rate; the last one says that this was it."""
    heard: list[Telemetry] = []
    every_s = 0.05

    def answer(event: Event, now: float) -> list[Effect]:
        match event:
            case Started():
                return [Send("nobody", ask(1)), SetTimer("end", 12 * every_s)]
        return []

    def build(exchange: MemoryExchange, worker: JobWorker) -> list[LiveHost]:
        exchange.on_telemetry = lambda run, agent, record: heard.append(decode_telemetry(agent, record))
        toy = ToyAgent("client-1", answer, lambda toy: TimerFired("end") in toy.events)
        return [host_of(toy, exchange, AggregatorInbox, worker, boot=7, settings=LiveSettings(telemetry_every_s=every_s))]

    [host] = run_hosts(build)
    assert [record.serial for record in heard] == list(range(1, len(heard) + 1))
    assert 2 <= len(heard) <= 14 and {(record.agent, record.boot, record.every_s) for record in heard} == {("client-1", 7, every_s)}
    assert [record.state for record in heard] == ["catching up"] * (len(heard) - 1) + ["offline"]
    assert [record.finished for record in heard] == [False] * (len(heard) - 1) + [True]
    assert host.transport.counts["telemetry_told"] == len(heard)


def test_a_host_that_is_to_say_nothing_says_nothing() -> None:
    def build(exchange: MemoryExchange, worker: JobWorker) -> list[LiveHost]:
        toy = ToyAgent("client-1", lambda event, now: [], lambda toy: True)
        return [host_of(toy, exchange, AggregatorInbox, worker, settings=LiveSettings(telemetry_every_s=0))]

    [host] = run_hosts(build)
    assert not host.transport.counts
