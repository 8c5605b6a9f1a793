"""The checks themselves: what is sound passes, and each thing that can be wrong is told."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from hosfl_async.agents.update_log import UpdateLog
from hosfl_async.assembly.hunt import world_problems
from hosfl_async.checks import (
    CONTRIBUTIONS,
    acknowledgement_problems,
    contribution_problems,
    count_problems,
    digest_problems,
    log_problems,
)
from hosfl_async.messages import LogEntry, StepId, Term
from hosfl_async.scenario import Scenario, scenario_of_tables
from hosfl_async.simulation.outcome import COUNTS


def entries() -> list[LogEntry]:
    log = UpdateLog()
    for number in range(1, 4):
        log.append(tuple(Term(StepId(f"client-{client}", 1, number), number - 1, bytes(4)) for client in (1, 2)))
    return list(log.after(0, 10))


def test_a_sound_log_has_no_problems() -> None:
    assert log_problems(entries()) == [] == log_problems([])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda log: [log[0], log[2]], "entry 3 stands where entry 2 should"),
        (lambda log: [log[0], log[1], log[1]], "entry 2 stands where entry 3 should"),
        (lambda log: [log[0], msgspec.structs.replace(log[1], terms=log[1].terms[:1])], "entry 2 breaks the hash chain"),
        (lambda log: rechained([log[0].terms, log[1].terms[::-1]]), "not in canonical order"),
        (lambda log: rechained([log[0].terms, log[0].terms]), "client-1/1 is in the log 2 times"),
        (lambda log: rechained([(msgspec.structs.replace(log[0].terms[0], base_version=1),)]), "from base version 1"),
    ],
)
def test_a_wrong_log_is_told(wrong, told: str) -> None:
    problems = log_problems(wrong(entries()))
    assert any(told in problem for problem in problems), problems


def rechained(all_terms: list[tuple[Term, ...]]) -> list[LogEntry]:
    log = UpdateLog()
    return [log.append(terms) for terms in all_terms]


def test_what_was_acknowledged_is_in_the_log() -> None:
    assert acknowledgement_problems(["client-1/1", "client-1/1"], entries()) == []
    assert acknowledgement_problems(["client-1/9"], entries()) == ["client-1/9 was acknowledged and is not in the log"]


def test_messages_and_jobs_have_one_fate_each() -> None:
    counts = dict.fromkeys(COUNTS, 0) | {"sent": 9, "duplicated": 1, "delivered": 5, "lost": 1, "missed": 1, "refused": 1}
    counts |= {"jobs_started": 7, "jobs_done": 3, "jobs_failed": 1, "jobs_lost": 2}
    assert count_problems(counts, 2, 1) == []
    assert "messages are not conserved" in count_problems(counts, 1, 1)[0]
    assert "jobs are not conserved" in count_problems(counts, 2, 2)[0]


def test_contributions_are_conserved_but_for_what_crashes_take() -> None:
    counts = dict.fromkeys(CONTRIBUTIONS, 0) | {"received": 9, "accepted": 4, "duplicate": 2, "stale": 1}
    assert contribution_problems(counts, waiting=1, lost_max=1, steps_in_log=4) == []
    assert "not conserved" in contribution_problems(counts, waiting=1, lost_max=0, steps_in_log=4)[0]
    assert "not conserved" in contribution_problems(counts, waiting=3, lost_max=9, steps_in_log=4)[0]
    assert "5 are in the log" in contribution_problems(counts, waiting=1, lost_max=1, steps_in_log=5)[0]


def test_parameters_are_those_of_the_log_at_the_same_version() -> None:
    truth = {0: b"a", 1: b"b"}
    assert digest_problems({"x": (0, b"a"), "y": (1, b"b")}, truth) == []
    assert digest_problems({"x": (1, b"a")}, truth) == ["x has other parameters at version 1 than the log"]
    assert digest_problems({"x": (2, b"a")}, truth) == ["x stands at version 2, which is not in the log"]


# -- progress -------------------------------------------------------------------------------------------


def small(**changes) -> Scenario:
    tables = {
        "name": "small",
        "task": {"data": "toy", "toy_samples": 60, "batch_size": 2, "model": {"client_widths": [2], "server_widths": []}},
        "shared": {"probes": 1},
        "aggregator": {"client_steps": 6, "buffer_contributions": 2},
        "fleet": [{"count": 2}],
        "simulation": {"events_max": 5000, "modelled_time_max_s": 1000.0},
        **changes,
    }
    return scenario_of_tables(tables)


def test_a_run_that_makes_no_progress_after_its_last_fault_is_told_with_whoever_is_not_finished() -> None:
    """Everybody lies to the end: no contribution ever comes."""
    fine = small(fault=[{"kind": "byzantine", "lie": "silent", "at_s": 0.0, "for_s": 30.0}])
    assert world_problems(fine) == []
    [told] = world_problems(replace(fine, fault=(replace(fine.fault[0], for_s=0.0),)))
    assert "no end" in told and "not finished: aggregator, split_server, client-1, client-2" in told


def test_a_run_that_nobody_is_left_to_finish_comes_to_rest_and_is_told() -> None:
    told = world_problems(small(fleet=[{"count": 2, "availability": {"leaves_after_mean_s": 0.2}}]))
    assert any("no progress" in problem or "no end" in problem for problem in told), told
