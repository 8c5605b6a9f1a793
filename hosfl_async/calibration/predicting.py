"""How well a scenario predicts a run: both told by the same reading of a journal, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from hosfl_async.trace import TraceRecord

RARE = 50
"""Kinds of which fewer messages were sent in both are left out: a ratio of a few says nothing."""


class Course(msgspec.Struct, frozen=True):
    """One run in the figures that a prediction is held to. Times are modelled seconds; bytes and messages are those sent, by kind."""

    modelled_time_s: float
    client_steps: int
    server_steps: int
    versions: int
    staleness_mean_versions: float
    staleness_max_versions: int
    messages: dict[str, int]
    bytes: dict[str, int]


class Compared(msgspec.Struct, frozen=True):
    """``ratio`` is simulated by run; None where the run has 0."""

    figure: str
    run: float
    simulated: float
    ratio: float | None


def course_of(records: Iterable[TraceRecord]) -> Course:
    """Read a whole journal; the time is that of its last commit."""
    messages: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    time_s, client_steps, server_steps, versions = 0.0, 0, 0, 0
    total, number, highest = 0.0, 0, 0
    for record in records:
        match record.what, record.kind:
            case "sent", kind:
                messages[kind] += 1
                sent[kind] += record.bytes
            case "recorded", "admitted":
                stale = int((record.values or {})["staleness_versions"])
                total, number, highest = total + stale, number + 1, max(highest, stale)
            case "recorded", "commit":
                values = record.values or {}
                time_s, client_steps, versions = record.time_s, int(values["client_steps"]), int(values["version"])
            case "recorded", "server_step":
                server_steps += 1
            case _:
                pass
    mean = total / number if number else 0.0
    return Course(time_s, client_steps, server_steps, versions, mean, highest, dict(sorted(messages.items())), dict(sorted(sent.items())))


def compared(run: Course, simulated: Course) -> list[Compared]:
    """Figure by figure."""
    rows = [
        _row("modelled time, s", run.modelled_time_s, simulated.modelled_time_s),
        _row("client steps", run.client_steps, simulated.client_steps),
        _row("client steps a modelled second", _rate(run), _rate(simulated)),
        _row("server steps", run.server_steps, simulated.server_steps),
        _row("staleness, mean versions", run.staleness_mean_versions, simulated.staleness_mean_versions),
        _row("staleness, max versions", run.staleness_max_versions, simulated.staleness_max_versions),
        _row("bytes, all", sum(run.bytes.values()), sum(simulated.bytes.values())),
    ]
    kinds = [kind for kind, number in (Counter(run.messages) | Counter(simulated.messages)).items() if number >= RARE]
    return [*rows, *(_row(f"bytes, {kind}", run.bytes.get(kind, 0), simulated.bytes.get(kind, 0)) for kind in sorted(kinds))]


def _rate(course: Course) -> float:
    return course.client_steps / course.modelled_time_s if course.modelled_time_s else 0.0


def _row(figure: str, run: float, simulated: float) -> Compared:
    return Compared(figure, run, simulated, simulated / run if run else None)
