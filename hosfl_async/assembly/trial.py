"""One run held to every invariant in ``checks`` while it goes on, and when it ends. For hunts, campaigns and ``hosfl simulate --check``.

Nothing here is shared with what is watched: every learner replays the log by itself, and one more learner replays what became durable, so
that parameters which differ anywhere show. While the run goes on, each agent checks itself after every event, and every ``LOOK_EVERY``
events everybody's parameters are compared with the log's at the same version, crashed and departed agents excepted: they have none.
"""

from __future__ import annotations

from typing import Any

from hosfl_async.assembly.building import Parts
from hosfl_async.checks import (
    acknowledgement_problems,
    agent_problems,
    contribution_problems,
    count_problems,
    digest_problems,
    log_problems,
    progress_problems,
)
from hosfl_async.errors import LearnerError
from hosfl_async.jobs import Replay
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER, EntryCommitted, LogEntry
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.node import RecordList, Store
from hosfl_async.simulation.outcome import SimulationOutcome
from hosfl_async.trace import TraceWriter

LOOK_EVERY = 200
"""Events between two comparisons of everybody's parameters."""


class Trial:
    """Watches one simulation. ``parts`` must not share learners; hand ``store``, ``journal`` and ``options`` to the simulation."""

    def __init__(self, scenario: Scenario, parts: Parts, *, store: Store | None = None, trace: TraceWriter | None = None) -> None:
        self.scenario = scenario
        self.store = _Durable(store or RecordList())
        self._steps_before = sum(len(entry.terms) for entry in self.store.entries)
        """In the log of a run that goes on."""
        self.journal = _Heard(trace)
        self.problems: list[str] = []
        self._names = [AGGREGATOR, SPLIT_SERVER, *[name for name, _ in scenario.devices()]]
        self._truth = parts.aggregator_learner()
        self._digests = {0: self._truth.digest()}

    def look(self, simulation: Simulation) -> None:
        """Compare the parameters of everybody who has some with the log's."""
        self._follow()
        learners = {name: learner for name in self._names if (learner := simulation.learner(name)) is not None}
        followers: dict[str, Any] = {name: (learner.version, learner.digest()) for name, learner in learners.items()}  # type: ignore[attr-defined]
        for problem in digest_problems(followers, self._digests):
            self._note(problem)

    def at_the_end(self, simulation: Simulation, outcome: SimulationOutcome) -> list[str]:
        """Everything that is wrong with the run, in words, what was seen on the way included."""
        entries = self.store.entries
        if broken := log_problems(entries):
            return [*self.problems, *broken, *acknowledgement_problems(self.journal.acknowledged, entries)]
        self.look(simulation)
        there: Any = [agent for agent in map(simulation.agent, self._names) if agent is not None]
        return [
            *self.problems,
            *acknowledgement_problems(self.journal.acknowledged, entries),
            *agent_problems(there),
            *count_problems(outcome.counts, *simulation.under_way()),
            *self._contributions(simulation),
            *progress_problems(outcome.ended, outcome.finished_at_s, outcome.last_fault_s),
        ]

    def _contributions(self, simulation: Simulation) -> list[str]:
        aggregator: Any = simulation.agent(AGGREGATOR)
        restarts = self.journal.starts - 1
        lost_max = (restarts + (aggregator is None)) * self.scenario.aggregator.buffer_contributions
        waiting = aggregator.waiting if aggregator is not None else 0
        steps = sum(len(entry.terms) for entry in self.store.entries)
        problems = contribution_problems(simulation.agent_counts()[AGGREGATOR], waiting, lost_max, steps - self._steps_before)
        wanted = self.scenario.aggregator.client_steps
        if steps > wanted:
            problems.append(f"{steps} client steps are in the log, the run has {wanted}")
        return problems

    def _follow(self) -> None:
        """Replay what has become durable since; an entry that cannot follow is among the log's problems at the end."""
        version = self._truth.version
        for entry in self.store.entries[version:]:
            try:
                [at] = self._truth.run(Replay((entry,), (entry.version,))).checkpoints
            except LearnerError as problem:
                self._note(f"entry {entry.version} cannot be replayed: {problem}")
                return
            self._digests[at.version] = at.digest

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


class _Durable:
    """A store that also keeps the log's entries at hand."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.entries: list[LogEntry] = [record.entry for record in inner.records() if isinstance(record, EntryCommitted)]

    def append(self, record: Any) -> None:
        self._inner.append(record)
        if isinstance(record, EntryCommitted):
            self.entries.append(record.entry)

    def records(self) -> tuple[Any, ...]:
        return self._inner.records()


class _Heard(TraceWriter):
    """Listens to the journal for ``Accepted`` that reached a client and for starts of the aggregator; hands everything on to ``inner``."""

    __slots__ = ("_inner", "acknowledged", "starts")

    def __init__(self, inner: TraceWriter | None) -> None:
        super().__init__(None)
        self.enabled = True
        self.acknowledged: list[str] = []
        self.starts = 0
        self._inner = inner if inner is not None and inner.enabled else None

    def note(self, time_s: float, agent: str, what: str, kind: str = "", step: str = "", *more: Any, **named: Any) -> None:
        if what == "delivered" and kind == "Accepted":
            self.acknowledged.append(step)
        elif what == "started" and agent == AGGREGATOR:
            self.starts += 1
        if self._inner is not None:
            self._inner.note(time_s, agent, what, kind, step, *more, **named)
