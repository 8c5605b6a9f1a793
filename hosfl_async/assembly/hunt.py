"""Adversarial search: vary a scenario's world until an invariant or a budget breaks, then make the breaking world as small as it gets.

hypothesis draws worlds (``worlds``: links, habits, outages and faults of every kind, seeds), runs each one shortened in virtual time under
a ``trial``, and shrinks what breaks. What is looked for: the invariants of ``checks``, an agent's own rules, digests that differ, a run
that does not end within its bounds, and with ``budgets`` the upper bounds of ``[expect]``. Accuracy is not looked at: a shortened run has
learnt nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.simulated import build_simulation, summary_of
from hosfl_async.assembly.trial import Trial
from hosfl_async.errors import HosflError, SettingsError
from hosfl_async.report import Recorder, Summary
from hosfl_async.scenario import Expectations, Scenario, to_toml

HORIZON_MIN_S = 1.0
"""Things go wrong within the time that the undisturbed run takes, or within so long if that is less."""

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
        comment = "".join(f"# {line}\n" for line in ["Breaks:", *told, "Again: hosfl simulate THIS-FILE --check --no-control"])
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
    base = shortened(scenario, client_steps, budgets)
    undisturbed = Verdict(problems_of(base), 0.0) if problems_of else try_world(base)
    if undisturbed.problems or not tries:
        return Found(1, tuple(undisturbed.problems), base)
    try:
        import hypothesis

        from hosfl_async.assembly.worlds import worlds
    except ImportError:
        raise SettingsError("hosfl hunt", "hypothesis is not installed", mend="pip install 'hosfl-async[hunt]'") from None
    tried = 1
    broken_by = problems_of or world_problems

    def breaks(world: Scenario) -> bool:
        nonlocal tried
        tried += 1
        if told is not None:
            told(tried)
        return bool(broken_by(world))

    settings = hypothesis.settings(
        max_examples=tries, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=False
    )
    around = worlds(base, max(HORIZON_MIN_S, undisturbed.modelled_time_s))
    try:
        smallest = hypothesis.find(around, breaks, settings=settings, random=Random(scenario.seed))
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


class Verdict(NamedTuple):
    """What is wrong with one run, in words, and how long it took in its own time."""

    problems: list[str]
    modelled_time_s: float


def world_problems(scenario: Scenario) -> list[str]:
    """Everything that is wrong with one run, in words."""
    return try_world(scenario).problems


def try_world(scenario: Scenario) -> Verdict:
    """Run the scenario under a trial, and hold it to its own expectations too."""
    parts, recorder = Parts(scenario, shared=False), Recorder()
    trial = Trial(scenario, parts)
    simulation = build_simulation(scenario, parts, recorder, trial=trial)
    try:
        outcome = simulation.run()
    except SettingsError:
        raise
    except HosflError as problem:
        return Verdict([*trial.problems, str(problem)], simulation.now_s)
    problems = trial.at_the_end(simulation, outcome)
    if outcome.ended == "finished":
        problems += _at_the_end(summary_of(scenario, simulation, outcome, recorder, 0.0, None))
    return Verdict(problems, outcome.modelled_time_s)


def _at_the_end(summary: Summary) -> list[str]:
    told = [] if summary.digests_agree else ["digests differ, or somebody who was there has not confirmed the final one"]
    return [*told, *(text for text in summary.unmet if "digests_agree" not in text)]
