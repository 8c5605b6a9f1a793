"""What a finished run comes to: the agents' counts and the host's, under the names of ``summary.json``."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from hosfl_async.agents import Aggregator, EdgeClient, SplitServer
from hosfl_async.checks import agent_problems, unmet_expectations
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.report import Recorder, Summary
from hosfl_async.scenario import Scenario

AgentCounts = Mapping[str, Mapping[str, int]]


def counts_of(agents: AgentCounts, dropped: int) -> dict[str, int]:
    """The counts of ``summary.json``. Contributions: received = accepted + duplicate + stale + refused + late + waiting."""
    aggregator, server = agents[AGGREGATOR], agents[SPLIT_SERVER]
    clients: Counter[str] = Counter()
    for name, counts in agents.items():
        if name not in (AGGREGATOR, SPLIT_SERVER):
            clients.update(counts)
    return {
        "received": aggregator["received"],
        "accepted": aggregator["accepted"],
        "duplicate": aggregator["duplicate"],
        "stale": aggregator["stale"],
        "refused": sum(aggregator[kind] for kind in ("fenced", "superseded", "malformed", "impostor")),
        "late": aggregator["late"],
        "clipped": aggregator["clipped"],
        "distrusted": aggregator["distrusted"],
        "held": aggregator["held"],
        "places_expired": aggregator["places_expired"],
        "wishes_dropped": aggregator["wishes_dropped"],
        "by_deadline": aggregator["by_deadline"],
        "joined": aggregator["joined"],
        "snapshots": aggregator["snapshots"],
        "digests_compared": aggregator["digests_compared"],
        "digests_differ": aggregator["digests_differ"],
        "smashed_duplicate": server["duplicate"],
        "smashed_refused": sum(server[kind] for kind in ("busy", "forgotten", "malformed", "impostor")),
        "retried": clients["retried"] + server["retried"],
        "abandoned": clients["abandoned"],
        "cut_off": clients["cut_off"],
        "dropped": dropped,
    }


def digests_agree(aggregator: Aggregator, agents: Iterable[SplitServer | EdgeClient | None]) -> bool:
    """The run is over, no digest ever differed, and everyone who is still there and finished has the final one."""
    there = [agent for agent in agents if agent is not None]
    if aggregator.final_digest is None or aggregator.counts["digests_differ"] or agent_problems(there):
        return False
    return all(has_confirmed(aggregator, agent) for agent in there if agent.finished)


def has_confirmed(aggregator: Aggregator, agent: SplitServer | EdgeClient) -> bool:
    """Its digest at the final head was compared and is equal. An aggregator that crashed afterwards has forgotten who did; then the
    agent's own digest is looked at."""
    own, final = agent.checkpoint, aggregator.final_digest
    return agent.name in aggregator.confirmed or (own is not None and own.version == aggregator.log.head and own.digest == final)


def summarise(
    scenario: Scenario,
    recorder: Recorder,
    *,
    host: Literal["simulation", "live"],
    aggregator: Aggregator,
    server: SplitServer | None,
    clients: Iterable[EdgeClient | None],
    agent_counts: AgentCounts,
    dropped: int,
    messages: Mapping[str, int],
    bytes_by_kind: Mapping[str, int],
    wall_time_s: float,
    control: float | None,
    energy_joules: float,
    resumed_at_steps: int | None = None,
) -> Summary:
    """``control``: final accuracy of the frozen-client run, if it was computed."""
    clients = list(clients)
    digest = aggregator.final_digest
    summary = Summary(
        scenario=scenario.name,
        seed=scenario.seed,
        host=host,
        method=scenario.method,
        accuracy_final=recorder.accuracy_final,
        accuracy_best=recorder.accuracy_best,
        accuracy_frozen_control=control,
        client_steps=aggregator.steps_in_log,
        server_steps=server.server_steps if server else 0,
        version=aggregator.log.head,
        modelled_time_s=recorder.committed_at_s,
        wall_time_s=wall_time_s,
        bytes=dict(sorted(bytes_by_kind.items())),
        messages=dict(sorted(messages.items())),
        staleness=recorder.staleness_summary(),
        counts=counts_of(agent_counts, dropped),
        clients=scenario.clients,
        clients_confirmed=sum(client is not None and has_confirmed(aggregator, client) for client in clients),
        digest=digest.hex() if digest else None,
        digests_agree=digests_agree(aggregator, [server, *clients]),
        energy_joules=energy_joules,
        target_met=recorder.target_met,
        resumed_at_steps=resumed_at_steps,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    found: dict[str, Any] = msgspec.to_builtins(summary)
    return msgspec.structs.replace(summary, unmet=unmet_expectations(scenario.expect, found))
