"""Personal fine-tuning of every client when a run is over, one after another, and its figures for ``summary.json``.

It is computed here, after the agents are done, and not by the agents: the hosts that run a whole fleet do it (``hosfl simulate``,
``hosfl live``), agents in processes of their own do not. So it costs neither modelled time nor bytes in the summary; docs/methods.md says
what it would cost a device.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from hosfl_async.assembly.building import Parts
from hosfl_async.jobs import InstallSnapshot, TakeSnapshot
from hosfl_async.learning.learners import AggregatorLearner, ServerLearner
from hosfl_async.learning.personal import fine_tune
from hosfl_async.messages import EMPTY_CHAIN
from hosfl_async.report.summary import Personal, PersonalClient
from hosfl_async.scenario import Scenario


def personal_figures(scenario: Scenario, parts: Parts, aggregator: Any, server: Any) -> Personal | None:
    """From the log's final client half and the split server's final half; None without ``personal.steps``, without either learner, or where
    no client has a test of its own.

    Nothing that the learners hold changes. Clients are tuned one at a time, so that there is one copy beside the final one.
    """
    settings, clients, broken_off = scenario.personal, [], 0
    if not settings.steps or not isinstance(aggregator, AggregatorLearner) or not isinstance(server, ServerLearner):
        return None
    final = aggregator.run(TakeSnapshot())
    for name, _ in scenario.devices():
        training, test = parts.learners.shard(name), parts.learners.own_test(name)
        if not len(test):
            continue
        learner = parts.client_learner(name)
        learner.run(InstallSnapshot(final.version, final.parameters, final.digest))
        tuned = fine_tune(learner, server, settings, name, test, EMPTY_CHAIN)
        broken_off += tuned.broken_off
        clients.append(PersonalClient(name=name, training=len(training), test=len(test), before=tuned.before, after=tuned.after))
        del learner  # leaves the branch, so that the next client's may have the same version numbers
    if not clients:
        return None
    return Personal(
        steps=settings.steps,
        before=fmean(client.before for client in clients),
        after=fmean(client.after for client in clients),
        worst_before=min(client.before for client in clients),
        worst_after=min(client.after for client in clients),
        broken_off=broken_off,
        clients=tuple(clients),
    )
