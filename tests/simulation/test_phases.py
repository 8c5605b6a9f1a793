"""The tables of transitions are what happens: ways observed in simulated runs are those of the table, each of them and no other.

The runs are made for it: a server slower than its clients are patient, links that lose, memories of the smallest size, a learner that
refuses some steps, and an aggregator that crashes. ``enter`` and ``remember`` raise for any other way; here somebody counts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents.cut_step import TRANSITIONS, CutPhase, CutStep
from hosfl_async.agents.membership import FATES, Fate, Member
from hosfl_async.assembly.hunt import world_problems
from hosfl_async.errors import AgentError, LearnerError
from hosfl_async.jobs import Backward, EvaluateDual
from hosfl_async.learning.learners import ServerLearner
from hosfl_async.messages import DualRefused, SmashedData, StepId, Tensor
from hosfl_async.scenario import Scenario, scenario_of_tables

ONLY_BY_A_LIAR = {(Fate.WAITING, Fate.SUPERSEDED)}
"""Our own clients never run so far ahead of a step that still waits (``EdgeClient._outruns_memory``)."""


def ways(table: dict[Any, frozenset[Any]]) -> set[tuple[Any, Any]]:
    return {(here, there) for here, theres in table.items() for there in theres}


def hard_world(policy: str, backward_s: float) -> Scenario:
    tables = {
        "name": "hard",
        "task": {
            "data": "toy",
            "toy_samples": 60,
            "batch_size": 2,
            "model": {"name": "mlp", "client_widths": [2], "server_widths": []},
        },
        "shared": {"probes": 1, "retry": {"first_s": 0.5, "max_s": 1.0, "attempts_max": 1}},
        "client": {"dual_policy": policy, "steps_unanswered_max": 3},
        "server": {"queue_max": 4, "answers_remembered_max": 6, "evaluate_every_steps": 0},
        "aggregator": {
            "client_steps": 90,
            "buffer_contributions": 2,
            "staleness": {"rule": "cutoff", "versions_max": 2},
            "buffer_deadline_s": 10.0,
        },
        "compute": {"forward_s": 0.1, "backward_s": backward_s},
        "network": {"loss": 0.1, "latency_s": 0.05},
        "fleet": [{"count": 5}],
        "outages": [{"agent": "aggregator", "at_s": 8.0, "absence_s": 2.0, "kind": "crash"}],
        "simulation": {"events_max": 100_000, "modelled_time_max_s": 100_000.0},
    }
    return scenario_of_tables(tables, "hard")


def test_ways_in_simulated_runs_are_those_of_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_cut: Counter[tuple[CutPhase, CutPhase]] = Counter()
    at_the_log: Counter[tuple[Fate, Fate]] = Counter()
    entered, remembered, run, tried = CutStep.enter, Member.remember, ServerLearner.run, Counter[str]()

    def enter(self: CutStep, phase: CutPhase) -> None:
        here = self.phase
        entered(self, phase)
        at_the_cut[here, phase] += 1

    def remember(self: Member, number: int, answer: Any) -> None:
        steps = range(1, max(number, self.highest) + 1)
        before = [self.fate(each) for each in steps]
        remembered(self, number, answer)
        at_the_log.update((here, there) for here, each in zip(before, steps, strict=True) if (there := self.fate(each)) is not here)

    def refuses_some(self: ServerLearner, job: Any) -> Any:
        tried["jobs"] += isinstance(job, Backward | EvaluateDual)
        if isinstance(job, Backward | EvaluateDual) and tried["jobs"] % 7 == 0:
            raise LearnerError("planted")
        return run(self, job)

    monkeypatch.setattr(CutStep, "enter", enter)
    monkeypatch.setattr(Member, "remember", remember)
    monkeypatch.setattr(ServerLearner, "run", refuses_some)
    for policy, backward_s in (("fresh", 0.1), ("fresh", 0.5), ("eager", 0.5)):
        assert world_problems(hard_world(policy, backward_s)) == []
    assert set(at_the_cut) == ways(TRANSITIONS)
    assert set(at_the_log) == ways(FATES) - ONLY_BY_A_LIAR


@pytest.mark.parametrize("table", [TRANSITIONS, FATES], ids=["cut", "log"])
def test_every_phase_is_reached_and_known(table: dict[Any, frozenset[Any]]) -> None:
    first = next(iter(table))
    assert set(table) == set(type(first))
    reached, frontier = {first}, [first]
    while frontier:
        fresh = table[frontier.pop()] - reached
        reached |= fresh
        frontier.extend(fresh)
    assert reached == set(table)


@given(st.lists(st.sampled_from(CutPhase), max_size=6))
def test_a_step_at_the_cut_goes_no_other_way(wished: list[CutPhase]) -> None:
    numbers = Tensor("float32", (1,), bytes(4))
    step = CutStep(SmashedData(StepId("a", 1, 1), 0, numbers, numbers, False))
    for phase in wished:
        here = step.phase
        if phase in TRANSITIONS[here]:
            step.enter(phase)
            assert step.phase is phase
        else:
            with pytest.raises(AgentError, match=f"from {here} to {phase}"):
                step.enter(phase)
            assert step.phase is here


def test_an_answer_is_settled_once() -> None:
    numbers = Tensor("float32", (1,), bytes(4))
    step = CutStep(SmashedData(StepId("a", 1, 1), 0, numbers, numbers, True))
    refused = DualRefused(StepId("a", 1, 1), "malformed")
    step.settle(refused)
    assert (step.phase, step.answer, step.smashed, step.at_work) == (CutPhase.REFUSED, refused, None, False)
    with pytest.raises(AgentError, match="from refused to refused"):
        step.settle(refused)


def test_only_a_liar_loses_a_waiting_step_to_the_window() -> None:
    member = Member(1, 1, window=16)
    member.remember(1, None)
    member.remember(40, None)
    assert (member.fate(1), member.fate(24), member.fate(25), member.fate(40)) == (
        Fate.SUPERSEDED, Fate.SUPERSEDED, Fate.UNKNOWN, Fate.WAITING,
    )  # fmt: skip
    member.remember(1, 7)  # its entry is committed: nobody need know any more
    assert member.fate(1) is Fate.SUPERSEDED
