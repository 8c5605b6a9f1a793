"""Several hosts for real: broker, services and clients each with a network of its own, behind links that the kernel slows and cuts."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from deployment import Deployment, Zygote, until
from namespaces import Machines, why_not

from hosfl_async import simulate
from hosfl_async.assembly.building import Parts
from hosfl_async.broker.embedded import find_mosquitto
from hosfl_async.checks import log_problems
from hosfl_async.jobs import Replay
from hosfl_async.log_store import LogContents, LogStore
from hosfl_async.process import exits
from hosfl_async.scenario import load_scenario

FAR_APART = Path(__file__).with_name("far_apart.toml")
PORT = 1883
CONFIG = f"listener {PORT}\nallow_anonymous true\nuser root\npersistence false\nset_tcp_nodelay true\nmax_queued_messages 0\n"
SERVICES = ("aggregator", "split_server")
CLIENTS = ("client-1", "client-2", "client-3", "client-4")
NOTHING_MODELLED = ["network.latency_s=0", "network.service_latency_s=0", "network.uplink_bytes_per_s=0", "network.downlink_bytes_per_s=0"]
"""What the kernel does here, the agents must not model a second time. What a job takes is modelled, as in the simulator."""
pytestmark = [pytest.mark.soak, pytest.mark.mosquitto, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def run_far_apart(
    forks: Zygote, machines: Machines, folder: Path, trouble: Callable[[int], None] = lambda steps: None
) -> tuple[LogContents, Deployment]:
    """Train to the end. ``trouble`` is called all along with the steps in the log."""
    scenario = load_scenario(FAR_APART)
    config, words = folder / "mosquitto.conf", folder / "mosquitto.log"
    config.write_text(CONFIG)
    machines.start("broker", find_mosquitto() or "mosquitto", "-c", str(config), log=words)
    until(lambda: "running" in words.read_text(), "mosquitto to run")
    common = f'linger_s = 600\npace = "modelled"\noverrides = {NOTHING_MODELLED}'.replace("'", '"')
    deployed = Deployment(forks, folder, FAR_APART, f"mqtt://{machines.address['broker']}:{PORT}", common=common)
    network = scenario.network
    try:
        for name in SERVICES:
            deployed.start(name, machines.namespace(name))
        deployed.health_once("aggregator", "well")
        for name in CLIENTS:
            machines.limit(name, up_bytes_per_s=int(network.uplink_bytes_per_s), down_bytes_per_s=int(network.downlink_bytes_per_s))
            near = machines.delay(name, network.latency_s, machines.address["broker"], PORT, folder / f"proxy-{name}.log")
            deployed.start(name, machines.namespace(name), HOSFL_BROKER__URL=f"mqtt://{near}:{PORT}")
        while not deployed.health("aggregator").get("finished"):
            trouble(deployed.health("aggregator").get("client_steps", 0))
            time.sleep(0.05)
        codes = {name: deployed.wait(name) for name in CLIENTS}
        codes |= {name: deployed.signal(name, signal.SIGTERM) for name in SERVICES}
        assert set(codes.values()) == {exits.FINISHED}, codes
    finally:
        deployed.close()
    return LogStore.read(folder / "state-aggregator" / "log.sqlite"), deployed


def held(log: LogContents, deployed: Deployment) -> None:
    """Every step once, the chain whole, and every client's digest that of a replay of the log."""
    scenario = load_scenario(FAR_APART)
    steps = [term.step for entry in log.entries for term in entry.terms]
    assert not log_problems(log.entries) and len(steps) == len(set(steps)) >= scenario.aggregator.client_steps
    digest = Parts(scenario).aggregator_learner().run(Replay(log.entries, (log.head,))).checkpoints[-1].digest.hex()
    assert deployed.health("aggregator")["digest"] == digest
    assert deployed.health("aggregator")["agent_counts"]["digests_differ"] == 0


def hundred_steps_s(deployed: Deployment) -> float:
    """Seconds between the evaluations after 50 and after 150 server steps, on the wall."""
    told = [datetime.fromisoformat(each["time"]) for each in deployed.events("split_server", "evaluation")]
    return (told[3] - told[1]).total_seconds()


def test_a_fleet_on_machines_of_its_own_and_what_the_simulator_says_of_it(forks: Zygote, tmp_path: Path) -> None:
    """The kernel's links against the modelled ones: printed, for the wall clock of a busy machine proves nothing."""
    with Machines(("broker", *SERVICES, *CLIENTS)) as machines:
        log, deployed = run_far_apart(forks, machines, tmp_path)
    held(log, deployed)
    assert len({term.step.client for entry in log.entries for term in entry.terms}) == len(CLIENTS)
    simulated = simulate(FAR_APART, control=False, folder=tmp_path / "simulated")
    modelled_s, real_s = simulated.evaluations[3].time_s - simulated.evaluations[1].time_s, hundred_steps_s(deployed)
    print(f"a hundred steps: real {real_s:.2f} s, simulated {modelled_s:.2f} s, ratio {real_s / modelled_s:.2f}")


def test_a_partition_heals_and_lost_packets_cost_time_only(forks: Zygote, tmp_path: Path) -> None:
    """Half of the fleet is cut off for a while, nobody is told; the others go on, and afterwards everybody does."""
    seen: dict[str, int] = {}
    with Machines(("broker", *SERVICES, *CLIENTS)) as machines:

        def trouble(steps: int) -> None:
            if steps >= 40 and "cut" not in seen:
                seen["cut"] = steps
                machines.cut(CLIENTS[:2])
            elif steps >= 80 and "mended" not in seen:
                seen["mended"] = steps
                machines.lose(1)

        log, deployed = run_far_apart(forks, machines, tmp_path, trouble)
    held(log, deployed)
    assert seen["cut"] < seen["mended"]
    late = [term.step.client for entry in log.entries for term in entry.terms][-40:]
    assert set(late) & set(CLIENTS[:2]), "those who were cut off contribute again"
