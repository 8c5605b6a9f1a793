"""Journals of several processes on one clock: each counts seconds from its own start, and messages that passed between them tell the rest.

Two clocks differ by half of what the quickest message one way seems to take longer than the quickest one back, as long as both ways are
alike (Cristian, "Probabilistic clock synchronization", 1989). Starting from the aggregator's, clocks are set along the messages. A message
that was repeated, or is about no step and was not answered one for one, is not used. Clocks are taken to run at one pace.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from heapq import merge
from pathlib import Path

from msgspec import structs

from hosfl_async.errors import SettingsError
from hosfl_async.messages import AGGREGATOR
from hosfl_async.trace import TraceRecord, read_trace

MESSAGES_NOTED_MAX = 200_000
"""Of each journal; the first ones."""

Key = tuple[str, str, str, str]
Ends = dict[Key, list[float]]


def together(journals: list[Path]) -> Iterator[TraceRecord]:
    """All records in the order of time, on the clock of the aggregator's journal; one journal is as it is.

    Raises ``SettingsError`` if the aggregator's is not among them, or if no messages passed both ways between one and the others.
    """
    if len(journals) == 1:
        return read_trace(journals[0])
    ahead_s = offsets_s(journals)
    return merge(*(_shifted(journal, ahead_s[journal]) for journal in journals), key=lambda record: record.time_s)


def offsets_s(journals: list[Path]) -> dict[Path, float]:
    """What must be added to each journal's times."""
    first: Path | None = None
    sent: dict[Path, Ends] = {}
    delivered: dict[Path, Ends] = {}
    for journal in journals:
        sent[journal], delivered[journal], agents = _noted(journal)
        if AGGREGATOR in agents:
            first = journal
    if first is None:
        raise SettingsError("journals", "none is the aggregator's", expected="the aggregator's and others", found=f"{len(journals)} files")
    quickest = _quickest(sent, delivered)
    set_s = {first: 0.0}
    to_do = [first]
    while to_do:
        one = to_do.pop()
        for other in journals:
            there, back = quickest.get((one, other)), quickest.get((other, one))
            if other not in set_s and there is not None and back is not None:
                set_s[other] = set_s[one] + (back - there) / 2
                to_do.append(other)
    if missing := [journal.name for journal in journals if journal not in set_s]:
        raise SettingsError(
            "journals", "their clocks cannot be set", expected="messages both ways with another journal", found=", ".join(missing[:8])
        )
    return set_s


def _noted(journal: Path) -> tuple[Ends, Ends, set[str]]:
    """When each message left, and came, by its name; and whose journal it is."""
    sent: Ends = defaultdict(list)
    delivered: Ends = defaultdict(list)
    agents: set[str] = set()
    noted = 0
    for record in read_trace(journal):
        agents.add(record.agent)
        if record.what not in ("sent", "delivered") or noted >= MESSAGES_NOTED_MAX:
            continue
        noted += 1
        if record.what == "sent":
            sent[record.agent, record.peer, record.kind, record.step].append(record.time_s)
        else:
            delivered[record.peer, record.agent, record.kind, record.step].append(record.time_s)
    return sent, delivered, agents


def _quickest(sent: dict[Path, Ends], delivered: dict[Path, Ends]) -> dict[tuple[Path, Path], float]:
    """The least difference of times from one journal to another; negative ones are those of clocks."""
    where = {key: (journal, times) for journal, ends in delivered.items() for key, times in ends.items()}
    heard = Counter(key for ends in delivered.values() for key in ends)
    least: dict[tuple[Path, Path], float] = {}
    for origin, ends in sent.items():
        for key, left in ends.items():
            goal, came = where.get(key, (origin, []))
            if goal == origin or len(left) != len(came) or heard[key] != 1 or (key[3] and len(left) != 1):
                continue
            took_s = min(there - here for here, there in zip(left, came, strict=True))
            least[origin, goal] = min(took_s, least.get((origin, goal), took_s))
    return least


def _shifted(journal: Path, ahead_s: float) -> Iterator[TraceRecord]:
    for record in read_trace(journal):
        yield structs.replace(record, time_s=record.time_s + ahead_s)
