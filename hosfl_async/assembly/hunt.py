"""Adversarial search: vary a scenario's world until an invariant or a budget breaks, then make the breaking world as small as it gets.

hypothesis draws worlds (losses, duplicates, delays, orders, absences of any agent, seeds), runs each one shortened in virtual time with
every agent checking itself after every event, and shrinks what breaks. What is looked for: the invariants of ``checks``, an agent's own
rules, digests that differ, a run that does not end within its bounds, and with ``budgets`` the upper bounds of ``[expect]``. Accuracy is
not looked at: a shortened run has learnt nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.simulated import build_simulation, summary_of
from hosfl_async.checks import acknowledgement_problems, agent_problems, log_problems
from hosfl_async.errors import HosflError, SettingsError
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER, EntryCommitted
from hosfl_async.report import Recorder
from hosfl_async.scenario import Expectations, Scenario, to_toml
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.outcome import SimulationOutcome
from hosfl_async.simulation.settings import Outage
from hosfl_async.trace import TraceWriter

OUTAGES_MAX = 5
EVENTS_PER_STEP_MAX = 5000
"""A shortened run with more events for each client step does not end."""

BUDGETS_IN_SHORT_RUNS = ("digests_agree", "staleness_max", "stale_max", "refused_max", "dropped_max", "retried_max")
"""Expectations that can be held against a shortened run."""


@dataclass(frozen=True, slots=True)
class Found:
    """``problems`` is empty if nothing broke; else ``scenario`` is the smallest breaking one that was met."""

    tried: int
    problems: tuple[str, ...]
    scenario: Scenario

    @property
    def toml(self) -> str:
        """The breaking scenario as a file, which says on top what breaks and how to see it again."""
        told = [line for problem in self.problems for line in problem.splitlines()]
        comment = "".join(f"# {line}\n" for line in ["Breaks:", *told, "Again: hosfl hunt THIS-FILE --tries 0"])
        return comment + to_toml(self.scenario)


def hunt(
    scenario: Scenario,
    *,
    tries: int = 200,
    client_steps: int = 60,
    budgets: bool = False,
    told: Callable[[int], None] | None = None,
    problems_of: Callable[[Scenario], list[str]] | None = None,
) -> Found:
    """Try the scenario's own world first, then up to ``tries`` others. ``problems_of``: what is held against a world, for tests.

    Raises ``SettingsError`` if hypothesis is not installed.
    """
    broken_by = problems_of or world_problems
    base = shortened(scenario, client_steps, budgets)
    tried = 1
    if problems := broken_by(base):
        return Found(tried, tuple(problems), base)
    if not tries:
        return Found(tried, (), base)
    hypothesis, worlds = _worlds(base)

    def breaks(world: Scenario) -> bool:
        nonlocal tried
        tried += 1
        if told is not None:
            told(tried)
        return bool(broken_by(world))

    settings = hypothesis.settings(
        max_examples=tries, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=False
    )
    try:
        smallest = hypothesis.find(worlds, breaks, settings=settings, random=Random(scenario.seed))
    except hypothesis.errors.NoSuchExample:
        return Found(tried, (), base)
    return Found(tried, tuple(broken_by(smallest)), smallest)


def shortened(scenario: Scenario, client_steps: int, budgets: bool) -> Scenario:
    """A run of seconds, with bounds that make a run without end a finding."""
    steps = min(client_steps, scenario.aggregator.client_steps)
    kept = BUDGETS_IN_SHORT_RUNS if budgets else ()
    return replace(
        scenario,
        aggregator=replace(scenario.aggregator, client_steps=steps),
        server=replace(scenario.server, evaluate_every_steps=0),
        simulation=replace(scenario.simulation, events_max=EVENTS_PER_STEP_MAX * (steps + scenario.clients)),
        expect=Expectations(**{name: getattr(scenario.expect, name) for name in kept}),
    )


def _worlds(base: Scenario) -> tuple[Any, Any]:
    """hypothesis, and its strategy for worlds around ``base``; small values are the harmless ones, so that it shrinks towards none."""
    try:
        import hypothesis
        from hypothesis import strategies as st
    except ImportError:
        raise SettingsError("hosfl hunt", "hypothesis is not installed", mend="pip install 'hosfl-async[hunt]'") from None
    names = [AGGREGATOR, SPLIT_SERVER, *[name for name, _ in base.devices()]]
    share, delay_s = st.integers(0, 40).map(lambda percent: percent / 100), st.integers(0, 100).map(lambda tenths: tenths / 10)
    link = st.fixed_dictionaries(
        {},
        optional={
            "loss": share,
            "duplication": share,
            "reordering": share,
            "reordering_delay_s": delay_s,
            "latency_s": delay_s,
            "latency_jitter_s": delay_s,
            "service_faults": st.booleans(),
            "peer_gone_after_s": st.sampled_from([30.0, 5.0, 0.0]),
        },
    )
    outage = st.builds(
        Outage,
        agent=st.sampled_from(names),
        at_s=st.integers(0, 120).map(float),
        absence_s=st.integers(1, 60).map(float),
        kind=st.sampled_from(["pause", "crash"]),
    )

    def world(changes: dict[str, Any], outages: list[Outage], seed: int) -> Scenario:
        network = replace(base.network, **changes)
        return replace(base, network=network, outages=(*base.outages, *outages), seed=base.seed + seed)

    return hypothesis, st.builds(world, link, st.lists(outage, max_size=OUTAGES_MAX), st.integers(0, 1000))


class _Acknowledged(TraceWriter):
    """Listens to the journal for ``Accepted`` that reached a client; writes nothing."""

    def __init__(self) -> None:
        super().__init__(None)
        self.enabled = True
        self.steps: list[str] = []

    def note(self, time_s: float, agent: str, what: str, kind: str = "", step: str = "", *_: Any, **__: Any) -> None:
        if what == "delivered" and kind == "Accepted":
            self.steps.append(step)


def world_problems(scenario: Scenario) -> list[str]:
    """Everything that is wrong with one run, in words."""
    heard, recorder = _Acknowledged(), Recorder()
    simulation = build_simulation(scenario, Parts(scenario), recorder, trace=heard, validate=True)
    try:
        outcome = simulation.run()
    except SettingsError:
        raise
    except HosflError as problem:
        return [str(problem)]
    entries = [each.entry for each in simulation.persisted(AGGREGATOR) if isinstance(each, EntryCommitted)]
    problems = [*log_problems(entries), *acknowledgement_problems(heard.steps, entries)]
    if outcome.ended != "finished":
        return [*problems, f"the run did not finish: {outcome.ended} after {outcome.events} events, {outcome.modelled_time_s:.6g} s"]
    return problems + _at_the_end(scenario, simulation, recorder, outcome)


def _at_the_end(scenario: Scenario, simulation: Simulation, recorder: Recorder, outcome: SimulationOutcome) -> list[str]:
    names = [AGGREGATOR, SPLIT_SERVER, *[name for name, _ in scenario.devices()]]
    there: list[Any] = [agent for agent in map(simulation.agent, names) if agent is not None]
    summary = summary_of(scenario, simulation, outcome, recorder, 0.0, None)
    told = [] if summary.digests_agree else ["digests differ, or somebody who was there has not confirmed the final one"]
    return [*agent_problems(there), *told, *(text for text in summary.unmet if "digests_agree" not in text)]
