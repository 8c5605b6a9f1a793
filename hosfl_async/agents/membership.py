"""Who takes part, and what was answered to whom: the aggregator's memory of its clients.

Every boot of a client is granted an incarnation of its own, one higher than the last; steps of an older one are fenced off. Boots are
numbers that only grow (the host sees to that), so a late ``Join`` of an earlier boot can be told from a new one. Per client the answers
to the latest steps are kept, in a window that no honest client outruns: repetitions get the first answer, older steps none.

What an incarnation's step has come to is its *fate*, and the ways from one to another are data (``FATES``): an answer once given is final.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal

from hosfl_async.errors import AgentError
from hosfl_async.jobs import Introduced
from hosfl_async.messages import Join

Answer = int | Literal["stale", "malformed"] | None
"""The log version that holds the step, why it was refused, or None while it waits in the buffer."""
JoinRefusal = Literal["golden_differs", "initial_differs", "old_boot", "fleet_full"]


class Fate(StrEnum):
    """What has become of one step of an incarnation, by what the aggregator knows."""

    __hash__ = str.__hash__  # Enum's own is a call of Python, at every look into the table

    UNKNOWN = "unknown"
    """It never came, as far as this life of the aggregator knows."""
    WAITING = "waiting"
    """In the buffer; lost with it in a crash, and then unknown again to the next life."""
    IN_LOG = "in the log"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    """Too far behind its client's newest: not known any more."""


UNKNOWN, WAITING, IN_LOG, REFUSED, SUPERSEDED = Fate  # to ask the enum each time is a call of Python 3.11

FATES: dict[Fate, frozenset[Fate]] = {
    UNKNOWN: frozenset({WAITING, REFUSED, IN_LOG, SUPERSEDED}),  # in the log at once: while the log is restored
    WAITING: frozenset({IN_LOG, SUPERSEDED}),
    IN_LOG: frozenset({SUPERSEDED}),
    REFUSED: frozenset({SUPERSEDED}),
    SUPERSEDED: frozenset(),
}


class Member:
    """One client. ``answers`` holds at most ``window`` step numbers, all above ``floor``."""

    __slots__ = ("accepted", "answers", "boot", "floor", "highest", "incarnation", "step_s", "window")

    def __init__(self, boot: int, incarnation: int, window: int) -> None:
        self.accepted = 0
        """Steps of this client in the log, those of earlier incarnations included."""
        self.step_s = 0.0
        """How long its latest granted step took; 0 while unknown."""
        self.boot = boot
        self.incarnation = incarnation
        self.window = window
        self.highest = 0
        self.floor = -window
        """Steps up to this number, ``highest - window``, are superseded: whatever became of them is no longer known here."""
        self.answers: dict[int, Answer] = {}

    def fate(self, number: int) -> Fate:
        if number in self.answers:
            return _fate_of(self.answers[number])
        return SUPERSEDED if number <= self.floor else UNKNOWN

    def remember(self, number: int, answer: Answer) -> None:
        """Raises ``AgentError`` for a way that is not in the table; what is superseded stays so."""
        here, there = self.fate(number), _fate_of(answer)
        if there not in FATES[here] and here is not SUPERSEDED:
            raise AgentError(f"step {number} was {here.value} and cannot be {there.value}")
        answers, floor = self.answers, self.floor
        if number > self.highest:
            self.highest, self.floor = number, number - self.window
            if self.floor == floor + 1:
                answers.pop(floor + 1, None)  # the usual case: one step further
            elif self.floor > floor:
                self.answers = answers = {known: given for known, given in answers.items() if known > self.floor}
            answers[number] = answer
        elif number > floor:
            answers[number] = answer


def _fate_of(answer: Answer) -> Fate:
    if answer is None:
        return WAITING
    return IN_LOG if isinstance(answer, int) else REFUSED


class Membership:
    """All clients that ever joined, by name."""

    def __init__(self, *, clients_max: int, window: int) -> None:
        self._clients_max = clients_max
        self._window = window
        self._members: dict[str, Member] = {}
        self._names: list[str] = []
        self.contributors = 0
        """Clients with at least one step in the log."""

    def __contains__(self, client: str) -> bool:
        return client in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def name(self, index: int) -> str:
        """The client that joined as number ``index``, from 0."""
        return self._names[index]

    def get(self, client: str) -> Member | None:
        return self._members.get(client)

    def credit(self, client: str) -> Member | None:
        """One more step of this client is in the log."""
        member = self._members.get(client)
        if member is not None:
            member.accepted += 1
            self.contributors += member.accepted == 1
        return member

    def of(self, client: str, incarnation: int) -> Member | None:
        """The member under exactly this incarnation, or None if it is fenced off or unknown."""
        member = self._members.get(client)
        return member if member is not None and member.incarnation == incarnation else None

    def refusal(self, client: str, join: Join, ours: Introduced) -> JoinRefusal | None:
        """Why this join cannot be granted, if it cannot."""
        member = self._members.get(client)
        if join.golden != ours.golden:
            return "golden_differs"
        if join.initial != ours.initial:
            return "initial_differs"
        if member is not None and join.boot < member.boot:
            return "old_boot"
        return "fleet_full" if member is None and len(self._members) >= self._clients_max else None

    def next_incarnation(self, client: str) -> int:
        member = self._members.get(client)
        return member.incarnation + 1 if member else 1

    def grant(self, client: str, boot: int, incarnation: int) -> Member:
        """Begin an incarnation: the answers given to an older one are of no use any more."""
        former = self._members.get(client)
        member = self._members[client] = Member(boot, incarnation, self._window)
        if former is None:
            self._names.append(client)
        else:
            member.accepted, member.step_s = former.accepted, former.step_s
        return member
