"""A whole deployment in which processes and the broker are killed while it trains, and what must hold afterwards.

The kills are spread over the training by its own progress, not by a clock: number i of n falls when the share i/n of nine tenths of
the client steps has been acknowledged, after a random moment more, so a slow machine meets the same campaign. One in four is followed
by another that hits the process that has only just been started again.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployment import Deployment, Mosquitto, Zygote, until
from eavesdropper import Eavesdropper

from hosfl_async.assembly.building import Parts
from hosfl_async.checks import log_problems
from hosfl_async.jobs import Replay
from hosfl_async.log_store import LogContents, LogStore
from hosfl_async.process import exits
from hosfl_async.scenario import load_scenario

KEEPING = (
    "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\nmax_queued_messages 0\n"
    "persistence true\npersistence_location FOLDER/\nautosave_interval 1\nautosave_on_changes true\n"
)
"""A mosquitto that keeps its state over a kill, unless somebody removes the file."""
SERVICES = ("aggregator", "split_server")


@dataclass
class Campaign:
    """How many of what, and by which dice."""

    agent_kills: int = 0
    broker_kills: int = 0
    seed: int = 0
    steps: int = 720
    patience_s: float = 240.0


@dataclass
class Outcome:
    """What a finished campaign left."""

    kills: Counter[str]
    wiped: int
    accuracy: float
    """Mean of the last three evaluations: a single one swings by 0.013."""
    log: LogContents
    heard: Eavesdropper
    exits: dict[str, int]
    digest: str
    told_digest: str
    differing: int
    wall_s: float
    problems: list[str] = field(default_factory=list)


def run_campaign(forks: Zygote, folder: Path, scenario: Path, plan: Campaign) -> Outcome:
    """Train to the end under the plan's kills; every process is started again at once."""
    broker = Mosquitto(folder, KEEPING.replace("FOLDER", str(folder)))
    broker.start()
    common = f'linger_s = 600\noverrides = ["aggregator.client_steps={plan.steps}"]'
    deployed = Deployment(forks, folder, scenario, broker.url, common=common)
    clients = [name for name, _ in load_scenario(scenario).devices()]
    try:
        with Eavesdropper(broker.port, "test") as heard:
            began_s = time.monotonic()
            for name in (*SERVICES, *clients):
                deployed.start(name)
            killer = _Killer(plan, deployed, broker, heard, clients)
            killer.kill_them_all()
            codes = {name: deployed.wait(name, plan.patience_s) for name in clients}
            health = deployed.health_once("aggregator", "finished", plan.patience_s)
            deployed.health_once("split_server", "finished", plan.patience_s)
            codes |= {name: deployed.signal(name, signal.SIGTERM) for name in SERVICES}
            return _outcome(plan, deployed, killer, heard, codes, health, time.monotonic() - began_s)
    finally:
        deployed.close()
        broker.kill()


class _Killer:
    def __init__(self, plan: Campaign, deployed: Deployment, broker: Mosquitto, heard: Eavesdropper, clients: list[str]) -> None:
        self.kills: Counter[str] = Counter()
        self.wiped = 0
        self._plan, self._deployed, self._broker, self._heard, self._clients = plan, deployed, broker, heard, clients
        self._dice = random.Random(plan.seed)

    def kill_them_all(self) -> None:
        """One agent in four is killed once more while it begins anew: so four fifths of the kills are drawn, the rest follow."""
        plan, dice = self._plan, self._dice
        victims = ["broker"] * plan.broker_kills + [self._victim(number) for number in range(plan.agent_kills * 4 // 5)]
        dice.shuffle(victims)
        agents_hit = 0
        for number, victim in enumerate(victims):
            due = 0.9 * plan.steps * number / len(victims)
            until(lambda due=due: self._progress() >= due, f"{due:.0f} acknowledged steps", plan.patience_s)
            time.sleep(dice.random() * 0.06)
            if victim == "broker":
                self._kill_broker()
                continue
            self._kill(victim)
            agents_hit += 1
            if agents_hit % 4 == 0:
                time.sleep(dice.random() * 0.5)
                self._kill(victim)

    def _progress(self) -> int:
        """Steps in the log, as far as anybody has told."""
        return max(len(self._heard.accepted), self._deployed.health("aggregator").get("client_steps", 0))

    def _victim(self, number: int) -> str:
        """Every kind its share: two of five the aggregator or the server each, the rest the clients in turn."""
        return ("aggregator", "split_server", "aggregator", "split_server", self._clients[number // 5 % len(self._clients)])[number % 5]

    def _kill(self, name: str) -> None:
        code = self._deployed.kill(name)
        assert code == -signal.SIGKILL, f"{name} had ended by itself with {code}"
        self.kills[name] += 1
        self._deployed.start(name)

    def _kill_broker(self) -> None:
        """Every second time it forgets all it knew."""
        self._heard.disconnect()
        self._broker.kill()
        self.kills["broker"] += 1
        if self.kills["broker"] % 2:
            (self._deployed.folder / "mosquitto.db").unlink(missing_ok=True)
            self.wiped += 1
        time.sleep(self._dice.random() * 0.3)
        self._broker.start()
        self._heard.connect()


def _outcome(
    plan: Campaign,
    deployed: Deployment,
    killer: _Killer,
    heard: Eavesdropper,
    codes: dict[str, int],
    health: dict[str, Any],
    wall_s: float,
) -> Outcome:
    log = LogStore.read(deployed.folder / "state-aggregator" / "log.sqlite")
    scenario = load_scenario(deployed.scenario, [f"aggregator.client_steps={plan.steps}"])
    digest = Parts(scenario).aggregator_learner().run(Replay(log.entries, (log.head,))).checkpoints[-1].digest.hex()
    accuracies = [each["accuracy"] for each in deployed.events("split_server", "evaluation")]
    outcome = Outcome(
        killer.kills,
        killer.wiped,
        sum(accuracies[-3:]) / 3,
        log,
        heard,
        codes,
        digest,
        health["digest"],
        health["agent_counts"]["digests_differ"],
        wall_s,
    )
    outcome.problems = problems_of(outcome, plan.steps)
    return outcome


def problems_of(outcome: Outcome, steps: int) -> list[str]:
    """What is wrong with a finished campaign, in words."""
    entries, heard = outcome.log.entries, outcome.heard
    logged = {term.step: entry.version for entry in entries for term in entry.terms}
    last_of = {step.client: step for step in sorted(heard.contributed)}
    problems = log_problems(entries)
    if len(logged) < steps:
        problems.append(f"{len(logged)} steps in the log, expected {steps}")
    for step, versions in heard.accepted.items():
        if versions != {logged.get(step)}:
            problems.append(f"{step} was acknowledged in versions {versions}, and is in {logged.get(step)}")
    for step, reasons in heard.refused.items():
        late = reasons == {"fenced"} and step in heard.accepted  # a copy that the broker kept until the next life had joined
        if step in logged and not late:
            problems.append(f"{step} was refused ({reasons}) and is in the log")
    problems += [f"{step} was sent as {len(texts)} different messages" for step, texts in heard.contributed.items() if len(texts) > 1]
    lost = [step for step in heard.contributed if step not in logged and step not in heard.refused and step != last_of[step.client]]
    if lost:
        problems.append(f"{len(lost)} contributions came to nothing: {', '.join(map(str, lost))}")
    problems += [f"could not be read: {text}" for text in heard.unreadable]
    if outcome.digest != outcome.told_digest or outcome.differing:
        problems.append(f"digests: {outcome.digest} replayed, {outcome.told_digest} told, {outcome.differing} differed")
    problems += [f"{name} ended with {code}" for name, code in outcome.exits.items() if code != exits.FINISHED]
    return problems
