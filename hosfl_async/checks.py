"""Invariants of a running or finished system, and the expectations of its scenario. Each check returns what is wrong, in words.

The invariants hold whatever the network does: they are what "the aggregation is correct" means here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from hosfl_async.agents import Aggregator, EdgeClient, SplitServer
from hosfl_async.errors import AgentError
from hosfl_async.messages import EMPTY_CHAIN, LogEntry, StepId, chain_hash


def log_problems(entries: Iterable[LogEntry]) -> list[str]:
    """The log is contiguous from version 1, hash-chained, in canonical order, and holds no step twice."""
    problems: list[str] = []
    chain = EMPTY_CHAIN
    seen: Counter[StepId] = Counter()
    for version, entry in enumerate(entries, start=1):
        if entry.version != version:
            return [f"entry {entry.version} stands where entry {version} should"]
        chain = chain_hash(chain, version, entry.terms)
        if entry.chain != chain:
            return [f"entry {version} breaks the hash chain"]
        steps = [term.step for term in entry.terms]
        seen.update(steps)
        if steps != sorted(steps):
            problems.append(f"the terms of entry {version} are not in canonical order")
        problems += [
            f"entry {version} has {term.step} from base version {term.base_version}" for term in entry.terms if term.base_version >= version
        ]
    problems += [f"{step} is in the log {times} times" for step, times in seen.items() if times > 1]
    return problems


def acknowledgement_problems(acknowledged: Iterable[str], entries: Iterable[LogEntry]) -> list[str]:
    """Every step whose ``Accepted`` reached its client is in the log."""
    logged = {str(term.step) for entry in entries for term in entry.terms}
    return [f"{step} was acknowledged and is not in the log" for step in sorted(set(acknowledged) - logged)]


def agent_problems(agents: Iterable[Aggregator | SplitServer | EdgeClient]) -> list[str]:
    """Every agent's own invariants: conservation of counts, bounds, versions that line up; and none has stopped for a reason."""
    problems = []
    for agent in agents:
        try:
            agent.validate()
        except AgentError as problem:
            problems.append(str(problem))
        if not isinstance(agent, Aggregator) and agent.broken:
            problems.append(f"{agent.name} has stopped: {agent.broken}")
    return problems


def count_problems(counts: Mapping[str, int], messages_under_way: int, jobs_under_way: int) -> list[str]:
    """Every copy of a message and every job of a simulated run has exactly one fate; what is under way was counted one by one."""
    problems = []
    arrived = sum(counts[fate] for fate in ("delivered", "lost", "missed", "refused"))
    if counts["sent"] + counts["duplicated"] != arrived + messages_under_way:
        problems.append(f"messages are not conserved: {messages_under_way} under way, {dict(counts)}")
    if counts["jobs_started"] != sum(counts[fate] for fate in ("jobs_done", "jobs_failed", "jobs_lost")) + jobs_under_way:
        problems.append(f"jobs are not conserved: {jobs_under_way} under way, {dict(counts)}")
    return problems


def contribution_problems(counts: Mapping[str, int], waiting: int, lost_max: int, steps_in_log: int) -> list[str]:
    """Contributions over all lives of the aggregator: each is sorted into one count, waits in the buffer, or was lost with it in a crash.

    ``lost_max``: crashes times what the buffer may hold.
    """
    sorted_out = sum(counts[kind] for kind in CONTRIBUTIONS)
    problems = []
    if not 0 <= counts["received"] - sorted_out - waiting <= lost_max:
        problems.append(f"contributions are not conserved: {waiting} waiting, at most {lost_max} lost in crashes, {dict(counts)}")
    if counts["accepted"] != steps_in_log:
        problems.append(f"{counts['accepted']} contributions were accepted, and {steps_in_log} are in the log")
    return problems


def digest_problems(followers: Mapping[str, tuple[int, bytes]], truth: Mapping[int, bytes]) -> list[str]:
    """Everybody who stands at a version has the parameters that the log gives at that version.

    ``followers``: name -> version and digest of its parameters. ``truth``: version -> digest of the log replayed by somebody else.
    """
    problems = []
    for name, (version, digest) in followers.items():
        if version not in truth:
            problems.append(f"{name} stands at version {version}, which is not in the log")
        elif digest != truth[version]:
            problems.append(f"{name} has other parameters at version {version} than the log")
    return problems


def progress_problems(ended: str, finished_at_s: float | None, last_fault_s: float) -> list[str]:
    """After its last fault a system makes progress: the run ends because everybody is finished, never because nothing can happen."""
    if ended == "finished" and finished_at_s is not None:
        return []
    return [f"no progress: the run is {ended} and not finished, although the last fault was over at {last_fault_s:g} s"]


CONTRIBUTIONS = ("accepted", "duplicate", "stale", "fenced", "superseded", "malformed", "late", "impostor", "over_share")
"""What an aggregator counts a contribution as, once it is sorted."""

_Reading = Callable[[Mapping[str, Any]], Any]
_READINGS: dict[str, tuple[str, _Reading]] = {
    "accuracy_min": ("accuracy_final", lambda summary: summary["accuracy_final"]),
    "accuracy_control_max": ("accuracy_frozen_control", lambda summary: summary["accuracy_frozen_control"]),
    "digests_agree": ("digests_agree", lambda summary: summary["digests_agree"]),
    "staleness_max": ("staleness.max", lambda summary: summary["staleness"]["max"]),
    "staleness_mean_max": ("staleness.mean", lambda summary: summary["staleness"]["mean"]),
    "staleness_p99_max": ("staleness.p99", lambda summary: summary["staleness"]["p99"]),
    "bytes_max": ("the sum of bytes", lambda summary: sum(summary["bytes"].values())),
    "activations_bytes_max": ("bytes.activations", lambda summary: summary["bytes"].get("activations", 0)),
    "labels_bytes_max": ("bytes.labels", lambda summary: summary["bytes"].get("labels", 0)),
    "duals_bytes_max": ("bytes.duals", lambda summary: summary["bytes"].get("duals", 0)),
    "scalars_bytes_max": ("bytes.scalars", lambda summary: summary["bytes"].get("scalars", 0)),
    "log_bytes_max": ("bytes.log", lambda summary: summary["bytes"].get("log", 0)),
    "control_bytes_max": ("bytes.control", lambda summary: summary["bytes"].get("control", 0)),
    "modelled_time_s_max": ("modelled_time_s", lambda summary: summary["modelled_time_s"]),
    "energy_joules_max": ("energy_joules", lambda summary: summary["energy_joules"]),
    "stale_max": ("counts.stale", lambda summary: summary["counts"]["stale"]),
    "refused_max": ("counts.refused", lambda summary: summary["counts"]["refused"]),
    "smashed_refused_max": ("counts.smashed_refused", lambda summary: summary["counts"]["smashed_refused"]),
    "dropped_min": ("counts.dropped", lambda summary: summary["counts"]["dropped"]),
    "dropped_max": ("counts.dropped", lambda summary: summary["counts"]["dropped"]),
    "duplicate_min": ("counts.duplicate", lambda summary: summary["counts"]["duplicate"]),
    "retried_min": ("counts.retried", lambda summary: summary["counts"]["retried"]),
    "retried_max": ("counts.retried", lambda summary: summary["counts"]["retried"]),
}
"""Expectation -> the figure of ``summary.json`` it bounds."""


_OF_IMITATED_FAULTS = frozenset({"dropped_min", "duplicate_min", "retried_min"})


def unmet_expectations(expect: Any, summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of ``scenario.Expectations`` that a finished run breaks, each with its bound and the figure found.

    A control that was not computed is not held against the run; an accuracy that was not evaluated is. A live run is not held to faults
    that only the simulator imitates.
    """
    unmet = []
    for each in fields(expect):
        bound = getattr(expect, each.name)
        name, read = _READINGS[each.name]
        figure = read(summary)
        if bound is None or (figure is None and each.name == "accuracy_control_max"):
            continue
        if summary["host"] == "live" and each.name in _OF_IMITATED_FAULTS:
            continue
        if not _holds(each.name, bound, figure):
            unmet.append(f"expect.{each.name} = {_told(bound)}, but {name} is {_told(figure)}")
    return tuple(unmet)


def _holds(name: str, bound: Any, figure: Any) -> bool:
    if figure is None:
        return False
    if name.endswith("_min"):
        return bool(figure >= bound)
    if name.endswith("_max"):
        return bool(figure <= bound)
    return bool(figure or not bound)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "unknown" if value is None else str(value).lower()
