"""From a scenario to its parts: agents, learners, inboxes. The one place where decisions and numbers meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from hosfl_async.agents import Aggregator, EdgeClient, SplitServer
from hosfl_async.assembly.fitting import check_fits, check_messages, wants_cost
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.learners import AggregatorLearner, ClientLearner, ServerLearner
from hosfl_async.messages import AggregatorInbox, EdgeClientInbox, SplitServerInbox
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.devices import Devices, ModelledPace
from hosfl_async.simulation.network import Network
from hosfl_async.simulation.settings import ComputeSettings

INBOXES: dict[str, Any] = {"client": EdgeClientInbox, "server": SplitServerInbox, "aggregator": AggregatorInbox}


@dataclass(frozen=True)
class Parts:
    """Makes the agents and learners of one scenario; every call makes a new one, as after a crash.

    ``shared`` and ``client_only``: see ``LearnerFactory``; the simulator shares, live agents do not, and only an edge client's own process
    has no server half.
    """

    scenario: Scenario
    shared: bool = True
    client_only: bool = False

    @cached_property
    def learners(self) -> LearnerFactory:
        """One torch thread: small models gain nothing from more, and equal runs stay equal to the bit.

        Raises ``SettingsError`` if what they compute fits no message, see ``fitting``.
        """
        torch.set_num_threads(1)
        scenario = self.scenario
        names = [name for name, _ in scenario.devices()]
        made = LearnerFactory(
            scenario.task,
            scenario.zeroth_order,
            scenario.first_order,
            scenario.cut,
            scenario.update,
            scenario.personal,
            seed=scenario.seed,
            clients=names,
            learning_rate=scenario.aggregator.learning_rate,
            shared=self.shared,
            client_only=self.client_only,
            forwards_together_max=scenario.simulation.forwards_together_max if self.shared else 1,
        )
        check_messages(scenario, made.model)
        return made

    @cached_property
    def compute(self) -> ComputeSettings:
        """How long jobs take: a forward pass of a client half that is the whole model takes longer, by its counted operations."""
        compute = self.scenario.compute
        if self.scenario.task.model.cut == "layer":
            return compute
        return replace(compute, forward_s=compute.forward_s * self.learners.size_of_whole())

    @cached_property
    def forward_flops(self) -> float:
        """Counted operations of a client's forward pass, if a group of the fleet wants to know; else 0.

        Raises ``SettingsError`` for a group that a step does not fit, see ``fitting``.
        """
        if not wants_cost(self.scenario):
            return 0.0
        cost = self.learners.step_cost(self.scenario.shared.probes)
        check_fits(self.scenario, cost)
        return float(cost.forward_flops)

    def prepare(self) -> None:
        """Everything that takes long, or may be refused, now. Raises ``SettingsError``."""
        _ = self.learners, self.forward_flops

    def client(self, name: str) -> EdgeClient:
        return EdgeClient(self.scenario.client, name)

    def server(self, name: str) -> SplitServer:
        return SplitServer(self.scenario.server, name)

    def aggregator(self, name: str) -> Aggregator:
        """Under adamw the entries carry no learning rate: it is taken when they are replayed."""
        settings = self.scenario.aggregator
        return Aggregator(replace(settings, learning_rate=1.0) if self.scenario.update.rule == "adamw" else settings, name)

    def client_learner(self, name: str) -> ClientLearner:
        return self.learners.client(name)

    def server_learner(self, name: str = "") -> ServerLearner:
        return self.learners.server()

    def aggregator_learner(self, name: str = "") -> AggregatorLearner:
        return self.learners.aggregator()


def modelled_pace(parts: Parts) -> ModelledPace:
    """Durations of jobs and delays of links as the scenario's fleet and network have them."""
    scenario = parts.scenario
    devices = Devices(parts.compute, scenario.seed, parts.forward_flops)
    return ModelledPace(devices, Network(scenario.network, scenario.seed), dict(scenario.devices()))
