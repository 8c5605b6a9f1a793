"""Following a live run over a broker: a thousand clients, a broker that goes and comes back, and what is said when there is nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from typer.testing import CliRunner

from hosfl_async.assembly.dashboard import Dashboard
from hosfl_async.assembly.listening import TelemetryWatch, runs_heard, the_run
from hosfl_async.broker.embedded import RunningBroker, start_broker
from hosfl_async.cli import app
from hosfl_async.errors import SettingsError, TransportError
from hosfl_async.telemetry import TELEMETRY_BYTES_MAX, TELEMETRY_VERSION, Checked, Evaluated, LogTold, RunTold, Telemetry, encode_telemetry

CLIENTS = 1000
LOOK_BYTES_PER_CLIENT = 200


def until(true: Callable[[], Any], most_s: float = 30.0) -> None:
    give_up_at = time.monotonic() + most_s
    while not true():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(0.02)


class Fleet:
    """Says what agents would say, over one connection: an embedded broker has no access list."""

    def __init__(self, port: int, run: str = "big") -> None:
        self._run = run
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.max_queued_messages_set(0)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def say(self, serial: int, clients: int = CLIENTS) -> None:
        for number in range(1, clients + 1):
            self._say(f"client-{number}", serial, state="computing", step=f"client-{number}/{serial}", version=serial, accepted=serial,
                      checked=Checked(serial, "a" * 64))  # fmt: skip
        told = LogTold(head=serial, client_steps=serial * clients, run=RunTold("big", 3, clients, 10 * clients))
        self._say("aggregator", serial, state="waiting otherwise", version=serial, log=told)
        curve = (Evaluated(serial, serial, 0.5, 1.0, float(serial)),)
        self._say("split_server", serial, state="computing", version=serial, server_steps=serial, curve=curve)

    def _say(self, agent: str, serial: int, **more: Any) -> None:
        record = Telemetry(schema=TELEMETRY_VERSION, agent=agent, boot=1, serial=serial, time_s=float(serial), every_s=2.0, **more)
        self.client.publish(f"hosfl/{self._run}/telemetry/{agent}", encode_telemetry(record), 0)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Broker:
    """An embedded broker for code that has no event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._running: RunningBroker | None = None
        self.port: int | None = None

    def start(self) -> str:
        self._running = self._loop.run_until_complete(start_broker("iotcore", port=self.port))
        self.port = self._running.port
        return self._running.url

    def kill(self) -> None:
        if self._running is not None:
            self._loop.run_until_complete(self._running.kill())
            self._running = None

    def close(self) -> None:
        self.kill()
        self._loop.close()


@pytest.fixture
def broker() -> Any:
    made = Broker()
    yield made
    made.close()


def test_a_thousand_clients_cost_a_look_what_there_are_clients_and_a_broker_may_die(broker: Broker) -> None:
    with TelemetryWatch(broker.start(), "big") as watch:
        fleet = Fleet(broker.port or 0)
        seen = watch.look()
        assert seen.connection.endswith("nothing heard yet") and seen.scenario == "big" and not seen.look.clients
        rounds = 5
        for serial in range(1, rounds + 1):
            fleet.say(serial)
        until(lambda: watch.counts.get("heard", 0) >= rounds * (CLIENTS + 2))
        seen = watch.look()
        counts = watch.counts
        assert counts["overtaken"] >= (rounds - 2) * (CLIENTS + 2), "one record of each agent is read, not five"
        assert (seen.look.version, seen.look.client_steps, seen.client_steps_wanted) == (rounds, rounds * CLIENTS, 10 * CLIENTS)
        assert seen.look.states["computing"] == len(seen.look.clients) == CLIENTS
        assert seen.look.digests_compared == CLIENTS - 1 and seen.look.digests_differ == 0
        dashboard = Dashboard(watch)
        try:
            assert len(dashboard.look()) < LOOK_BYTES_PER_CLIENT * CLIENTS
            assert json.loads(dashboard.look())["look"]["clients"][9]["name"] == "client-10"
        finally:
            dashboard.server_close()

        roll = watch.fleet()
        assert (roll["head"], roll["client_steps"], len(roll["devices"])) == (rounds, rounds * CLIENTS, CLIENTS)
        row = roll["devices"]["client-7"]
        assert (row["present"], row["version"], row["lag"], row["incarnation"], row["refused"]) == (True, rounds, 0, 1, {})
        assert 0 <= roll["time_s"] - row["heard_s"] < 60

        broker.kill()
        until(lambda: "no broker" in watch.look().connection)
        assert watch.look().look.states["computing"] == CLIENTS, "their silence means nothing now"
        fleet.close()
        broker.start()
        until(lambda: watch.counts["connected"] == 2)
        fleet = Fleet(broker.port or 0)
        fleet.say(rounds + 1)
        until(lambda: watch.look().look.version == rounds + 1)
        assert "heard over" in watch.look().connection
        fleet.close()


def test_what_is_no_telemetry_is_counted_and_harmless(broker: Broker) -> None:
    with TelemetryWatch(broker.start(), "big") as watch:
        fleet = Fleet(broker.port or 0)
        for number, payload in enumerate((b"", b"\xff", b"{}", b"x" * (TELEMETRY_BYTES_MAX + 1)), 1):
            fleet.client.publish("hosfl/big/telemetry/client-1", payload)
            until(lambda number=number: watch.look() and watch.counts.get("unreadable") == number)
        fleet.say(1, clients=2)
        until(lambda: len(watch.look().look.clients) == 2)  # the version is already known from the first client alone
        assert [client.name for client in watch.look().look.clients] == ["client-1", "client-2"]
        fleet.close()


def test_the_only_run_is_found_and_of_two_one_must_be_named(broker: Broker) -> None:
    url = broker.start()
    with pytest.raises(SettingsError, match="none within"):
        the_run(url, None, 0.1)
    first, second = Fleet(broker.port or 0, "spring"), Fleet(broker.port or 0, "winter")

    async def talk(*fleets: Fleet) -> list[str]:
        """Somebody speaks while somebody listens."""
        listening = asyncio.get_running_loop().run_in_executor(None, runs_heard, url, None, 0.6)
        serial = 0
        while not listening.done():
            serial += 1
            for fleet in fleets:
                fleet.say(serial, clients=1)
            await asyncio.sleep(0.05)
        return await listening

    assert asyncio.run(talk(first)) == ["spring"]
    assert asyncio.run(talk(first, second)) == ["spring", "winter"]
    first.close()
    second.close()


def test_no_broker_and_wrong_options_are_one_line(broker: Broker) -> None:
    broker.start()
    broker.kill()
    url = f"mqtt://127.0.0.1:{broker.port}"
    with pytest.raises(TransportError, match="cannot connect"), TelemetryWatch(url, "big"):
        pass
    for words in (["watch"], ["dashboard"], ["fleet"], ["watch", "run", "--broker", url], ["watch", "run", "--run-id", "big"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, SettingsError), words
