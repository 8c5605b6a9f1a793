"""Every agent as a process of its own, over a real broker."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from deployment import Deployment, Mosquitto, Zygote, until

from hosfl_async.checks import log_problems
from hosfl_async.log_store import LogStore
from hosfl_async.process import exits

SMALL = Path(__file__).with_name("small.toml")
CLIENTS = [f"client-{number}" for number in range(1, 5)]
pytestmark = pytest.mark.mosquitto


@pytest.fixture
def broker(tmp_path: Path):
    made = Mosquitto(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def deployed(forks: Zygote, tmp_path: Path, broker: Mosquitto):
    made = Deployment(forks, tmp_path, SMALL, broker.url, common="linger_s = 60")
    yield made
    made.close()


def test_six_processes_train_and_end_with_equal_parameters(forks: Zygote, broker: Mosquitto, tmp_path: Path) -> None:
    """Long enough to tell training from a frozen client half in whatever order things arrive: after 120 steps one run ended at 0.37."""
    steps = 240
    common = f'linger_s = 60\noverrides = ["aggregator.client_steps={steps}"]'
    with closing(Deployment(forks, tmp_path, SMALL, broker.url, common=common)) as deployed:
        for name in (*CLIENTS, "split_server", "aggregator"):  # in the worst order: those who ask first find nobody
            deployed.start(name)
        assert {deployed.wait(name) for name in CLIENTS} == {exits.FINISHED}
        until(lambda: deployed.health("aggregator").get("finished"), "the aggregator's last confirmation")
        assert deployed.signal("aggregator", signal.SIGTERM) == deployed.signal("split_server", signal.SIGTERM) == exits.FINISHED
        health, evaluations = deployed.health("aggregator"), deployed.events("split_server", "evaluation")
    assert health["client_steps"] == steps and health["agent_counts"]["digests_differ"] == 0
    assert evaluations[-1]["last"] == 1.0 and evaluations[-1]["accuracy"] > 0.48  # a frozen client half: 0.39
    entries = LogStore.read(tmp_path / "state-aggregator" / "log.sqlite").entries
    assert not log_problems(entries) and sum(len(entry.terms) for entry in entries) == steps


def test_signals_end_in_good_order_with_codes_of_their_own(deployed: Deployment) -> None:
    deployed.start("client-1")
    deployed.start("client-2")
    until(lambda: deployed.health("client-1") and deployed.health("client-2"), "two clients to run")
    assert deployed.signal("client-1", signal.SIGTERM) == exits.TERMINATED
    assert deployed.signal("client-2", signal.SIGINT) == exits.INTERRUPTED
    assert deployed.events("client-1", "ended")[0]["phase"] == "joining"


def test_one_process_at_a_time_holds_the_state(deployed: Deployment) -> None:
    deployed.start("aggregator")
    until(lambda: deployed.health("aggregator"), "the aggregator")
    first = deployed.pids.pop("aggregator")
    deployed.start("aggregator")
    assert deployed.wait("aggregator") == exits.STORAGE
    assert "another process has this state open" in deployed.events("aggregator", "failed")[0]["problem"]
    deployed.pids["aggregator"] = first


def test_a_client_that_was_joined_by_another_machine_is_stopped_for_good(deployed: Deployment) -> None:
    """The same name from another state folder takes over; the former process says so and exits with a code of its own."""
    for name in ("aggregator", "client-1"):
        deployed.start(name)
    until(lambda: deployed.health("client-1").get("phase") == "awaiting dual", "the first to join")
    first = deployed.pids.pop("client-1")
    deployed.start("client-1", HOSFL_STATE="elsewhere", HOSFL_HEALTH__FILE="twin.health")
    until(lambda: deployed.health("twin").get("phase") == "awaiting dual", "its twin to join")
    assert deployed._zygote.code(first) == exits.NO_BROKER
    assert "took over the name client-1" in deployed.events("client-1", "failed")[0]["problem"]


def test_health_is_told_on_a_port(deployed: Deployment) -> None:
    deployed.start("client-1", HOSFL_HEALTH__PORT="0")
    until(lambda: deployed.log("client-1").exists() and deployed.events("client-1", "health"), "the port")
    port = deployed.events("client-1", "health")[0]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        told = json.loads(answer.read())
    assert answer.status == 200 and told["well"] and told["agent"] == "client-1"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as rude:
        rude.sendall(b"x" * 100_000)
        rude.settimeout(30)
        assert b"200 OK" not in rude.recv(1000)


def scraped(deployed: Deployment, name: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample that the process answers with: name -> labels -> value. Whatever the parser refuses is an error."""
    from prometheus_client.parser import text_string_to_metric_families

    until(lambda: deployed.log(name).exists() and deployed.events(name, "metrics"), "the port")
    port = deployed.events(name, "metrics")[0]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.type != "unknown", family.name
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in series, "a series twice"
            series[labels] = sample.value
    return found


def test_prometheus_reads_what_the_health_file_says(deployed: Deployment, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra prometheus")
    names = ("aggregator", "split_server", *CLIENTS)
    for name in names:
        deployed.start(name, HOSFL_METRICS__PORT="0", HOSFL_LOG__LEVEL="debug")
    until(lambda: deployed.health("aggregator").get("client_steps", 0) > 0, "the first steps")
    early = {name: scraped(deployed, name) for name in ("aggregator", "split_server", "client-1")}
    assert {deployed.wait(name) for name in CLIENTS} == {exits.FINISHED}
    until(lambda: deployed.health("aggregator").get("finished"), "the aggregator's last confirmation")
    found, health = scraped(deployed, "aggregator"), deployed.health("aggregator")
    assert found["hosfl_client_steps"][()] == health["client_steps"] == 120
    assert found["hosfl_version"][()] == health["version"]
    assert (found["hosfl_well"][()], found["hosfl_finished"][()], found["hosfl_disk_full"][()]) == (1, 1, 0)
    events = {dict(labels)["event"]: value for labels, value in found["hosfl_agent_events_total"].items()}
    assert events["accepted"] == 120 and events.keys() == health["agent_counts"].keys()
    assert {dict(labels)["kind"] for labels in found["hosfl_sent_bytes_total"]} == health["bytes"].keys()
    stale = found["hosfl_staleness_versions_bucket"]
    counts = [stale[(("le", bound),)] for bound in sorted((dict(labels)["le"] for labels in stale), key=float)]
    assert counts == sorted(counts) and counts[-1] == found["hosfl_staleness_versions_count"][()] == 120
    admitted = [each["staleness_versions"] for each in deployed.events("aggregator", "admitted")]
    assert (len(admitted), sum(admitted)) == (120, found["hosfl_staleness_versions_sum"][()])
    assert [
        sum(each <= float(bound) for each in admitted) for bound in sorted((dict(labels)["le"] for labels in stale), key=float)
    ] == counts
    assert found["hosfl_waiting"][(("queue", "contributions"),)] == 0
    assert sum(found["hosfl_devices"].values()) == len(CLIENTS) + 1
    server = scraped(deployed, "split_server")
    steps = server["hosfl_server_steps"][()]
    assert steps >= 120
    until(lambda: deployed.health("split_server")["server_steps"] == steps, "a health file as new as the metrics")
    assert server["hosfl_waiting"].keys() == {(("queue", "frames to send"),), (("queue", "activations"),)}
    for name, before in early.items():
        for metric, series in before.items():
            texts = [value for labels in series for key, value in labels if key not in ("agent", "run", "software")]
            assert not any("client-" in text for text in texts), f"{name}: {metric} has a series for a device"
    for metric in (metric for metric in found if metric.endswith("_total") and metric.startswith("hosfl_")):
        for labels, value in early["aggregator"].get(metric, {}).items():
            assert value <= found[metric][labels], "a counter goes back"


@pytest.mark.parametrize("table", ["HEALTH", "METRICS"])
def test_a_port_in_use_ends_the_process_and_says_so(deployed: Deployment, table: str, broker: Mosquitto) -> None:
    deployed.start("client-1", **{f"HOSFL_{table}__PORT": str(broker.port)})
    assert deployed.wait("client-1") == exits.WRONG_SETTINGS
    assert f"port {broker.port} of 127.0.0.1: cannot be listened on" in deployed.events("client-1", "failed")[0]["problem"]


def test_without_a_broker_the_process_gives_up_after_its_patience(forks: Zygote, tmp_path: Path) -> None:
    alone = Deployment(forks, tmp_path, SMALL, "mqtt://127.0.0.1:1", tables="patience_s = 0.3")
    alone.start("client-1")
    assert alone.wait("client-1") == exits.NO_BROKER
    assert "127.0.0.1:1" in alone.events("client-1", "failed")[0]["problem"]
