"""Half a million hostile frames on every topic of a live deployment: refused in words and counted, and none of them reaches an agent.

Real agents in the midst of a run, each behind its live host. An agent's state changes in ``handle`` alone, so what the host keeps from it
changes nothing. What decodes after all is a sound message, under the name that the transport proves; it reaches the agent, which must keep
its own invariants whatever it says.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from hostile_frames import full_page, hostile, longest
from test_protocol_faults import StruckWorld

from hosfl_async.agent import Effect, Event
from hosfl_async.broker.memory import MemoryExchange
from hosfl_async.broker.transport import Station
from hosfl_async.codec import DEFAULT_LIMITS, encode, split
from hosfl_async.live.host import LiveHost
from hosfl_async.live.job_worker import JobWorker
from hosfl_async.messages import (
    AGGREGATOR,
    SPLIT_SERVER,
    AggregatorInbox,
    EdgeClientInbox,
    Snapshot,
    SplitServerInbox,
    Tensor,
)

FRAMES = 500_000
MESSAGE_BYTES = 60 * 2**20
"""Of the long message that somebody sends in the aggregator's name, below the most that is taken."""
INBOXES: dict[str, Any] = {AGGREGATOR: AggregatorInbox, SPLIT_SERVER: SplitServerInbox, "client-1": EdgeClientInbox}
SENDERS = (AGGREGATOR, SPLIT_SERVER, "client-1", "client-3", "a", "stranger")


class Costs:
    """Processor time of this thread for each frame: what others do on the machine is not in it, as it is in a time on the wall."""

    def __init__(self) -> None:
        self.frames, self.all_s, self.longest_s, self.longest_wall_s = 0, 0.0, 0.0, 0.0

    def offer(self, host: LiveHost, sender: str, frame: bytes) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        host._on_frame(sender, frame)
        cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
        self.frames += 1
        self.all_s += cpu_s
        self.longest_s, self.longest_wall_s = max(self.longest_s, cpu_s), max(self.longest_wall_s, wall_s)

    def __str__(self) -> str:
        mean_us, longest = 1e6 * self.all_s / self.frames, f"{1e3 * self.longest_s:.2f} ms the longest"
        return f"{mean_us:.1f} us of processor time each, {longest} ({1e3 * self.longest_wall_s:.1f} ms on the wall)"


class Watched:
    """The agent itself; counts what it is fed, and lets it check itself each time. Nobody obeys its effects."""

    def __init__(self, agent: Any, now: float) -> None:
        self.name, self.counts, self.fed = agent.name, agent.counts, 0
        self._agent, self._now = agent, now

    @property
    def finished(self) -> bool:
        return False

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.fed += 1
        self._agent.handle(event, self._now)
        self._agent.validate()
        return []

    def validate(self) -> None:
        return


def test_a_full_page_and_a_long_message_in_the_aggregators_name_are_dropped() -> None:
    """They are sound, so all of it is decoded before it is known whose they are not: the price is printed."""
    world = StruckWorld(places=False)
    world.start_all()
    transport = MemoryExchange().transport(Station(run="hostile", name="client-1"))
    tensor = Tensor("float32", (MESSAGE_BYTES // 4,), bytes(MESSAGE_BYTES))
    message = encode(AGGREGATOR, Snapshot(5, tensor, bytes(32), bytes(32), 40))
    with JobWorker() as worker:
        host = LiveHost(Watched(world.agent("client-1"), world.now), None, transport, EdgeClientInbox, worker, boot=1)  # type: ignore[arg-type]
        page, pieces = Costs(), Costs()
        for _ in range(20):
            page.offer(host, "client-3", full_page(DEFAULT_LIMITS.frame_bytes_max))
        for piece in split(message, 1, DEFAULT_LIMITS):
            pieces.offer(host, "client-3", piece)
    print(f"a page that fills a frame: {page}; {len(message)} bytes in {pieces.frames} pieces: {pieces}")
    assert host.tally.counts["impostor"] == 21 and host.agent.fed == 0  # type: ignore[attr-defined]
    assert host._reassembler.bytes_held == 0


def test_half_a_million_hostile_frames_are_refused_and_counted() -> None:
    world = StruckWorld(places=False)
    world.start_all()
    for _ in range(120):
        world.step()
    dice, costs, costs_of_longest = random.Random(20261126), Costs(), Costs()
    frames = [hostile(dice) for _ in range(FRAMES // 20)]
    exchange = MemoryExchange()
    with JobWorker() as worker:
        hosts = {}
        for name, inbox in INBOXES.items():
            transport = exchange.transport(Station(run="hostile", name=name))
            hosts[name] = LiveHost(Watched(world.agent(name), world.now), None, transport, inbox, worker, boot=1)  # type: ignore[arg-type]
        topics = [(name, sender) for name in INBOXES for sender in SENDERS if sender != name]
        sent = 0
        while sent < FRAMES:
            recipient, sender = topics[sent // len(frames) % len(topics)]
            host = hosts[recipient]
            for frame in frames:
                costs.offer(host, sender, frame)
            sent += len(frames)
        for recipient, sender in topics:
            before = hosts[recipient].tally.counts["refused"]
            for number, frame in enumerate(longest(DEFAULT_LIMITS.frame_bytes_max), 1):
                costs_of_longest.offer(hosts[recipient], sender, frame)
                assert hosts[recipient].tally.counts["refused"] == before + number
    counts = sum((host.tally.counts for host in hosts.values()), Counter())
    refused, impostors, delivered = counts["refused"], counts["impostor"], counts["delivered"]
    pieces = [host._reassembler.counts for host in hosts.values()]
    print(
        f"{sent} frames on {len(topics)} topics: {refused} refused, {impostors} impostors, {delivered} sound after all; "
        f"{costs}; {costs_of_longest.frames} as long as a frame may be: {costs_of_longest}; pieces of messages: {pieces}"
    )
    assert all(not host.failed for host in hosts.values()), [host._failure for host in hosts.values()]
    assert delivered == sum(host.agent.fed for host in hosts.values())  # type: ignore[attr-defined]
    refused -= costs_of_longest.frames
    assert refused > 0.8 * sent and impostors > 0.001 * sent and sent - refused - impostors - delivered < 0.1 * sent
    assert delivered > 100, "the frames are so wrong that only the codec was tested"
    assert all(host._reassembler.bytes_held <= DEFAULT_LIMITS.partial_bytes_max for host in hosts.values())
