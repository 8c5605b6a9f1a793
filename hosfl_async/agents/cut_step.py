"""One client step at the split server: the phases of its life there, and the ways between them, which are data (``TRANSITIONS``).

It arrives, waits for the learner, is trained on once and answered. With the dual policy ``fresh`` training and answer are apart: the dual
is evaluated anew when the client asks for it, which may be before the step was trained on. What has an answer keeps it, so that
repetitions get the same one, until it is forgotten: when its client begins the next step, or when the memory is full.
"""

from __future__ import annotations

from enum import StrEnum

from hosfl_async.errors import AgentError
from hosfl_async.messages import DualRefused, DualVariable, SmashedData


class CutPhase(StrEnum):
    __hash__ = str.__hash__  # Enum's own is a call of Python, at every look into the table of transitions

    QUEUED = "queued"
    """It waits for the learner to train on it, or the learner is at it."""
    ASKED = "queued, dual asked for"
    """The same, and its client waits for a dual that is to be evaluated after the training."""
    TRAINED = "trained"
    """The server half has learnt from it; its client has not asked for the dual yet."""
    EVALUATING = "dual evaluated"
    ANSWERED = "answered"
    REFUSED = "refused"
    FORGOTTEN = "forgotten"


QUEUED, ASKED, TRAINED, EVALUATING, ANSWERED, REFUSED, FORGOTTEN = CutPhase  # to ask the enum each time is a call of Python 3.11

TRANSITIONS: dict[CutPhase, frozenset[CutPhase]] = {
    QUEUED: frozenset({ASKED, TRAINED, ANSWERED, REFUSED, FORGOTTEN}),
    ASKED: frozenset({TRAINED, REFUSED, FORGOTTEN}),
    TRAINED: frozenset({EVALUATING, FORGOTTEN}),
    EVALUATING: frozenset({ANSWERED, REFUSED, FORGOTTEN}),
    ANSWERED: frozenset({FORGOTTEN}),
    REFUSED: frozenset({FORGOTTEN}),
    FORGOTTEN: frozenset(),
}

_AT_WORK = frozenset({QUEUED, ASKED, EVALUATING})


class CutStep:
    """Its smashed data until they are of no more use, its answer once there is one. One with an answer is restored as ``ANSWERED``."""

    __slots__ = ("answer", "phase", "smashed")

    def __init__(self, smashed: SmashedData | None, answer: DualVariable | None = None) -> None:
        self.phase = QUEUED if answer is None else ANSWERED
        self.smashed = smashed
        self.answer: DualVariable | DualRefused | None = answer

    @property
    def at_work(self) -> bool:
        """It waits for the learner: forgotten now, its dual would be computed for nobody."""
        return self.phase in _AT_WORK

    @property
    def dual_awaits_request(self) -> bool:
        """Policy fresh, and the learner has still to train on it: a request of its client is remembered, not obeyed."""
        return self.phase is QUEUED and self.smashed is not None and not self.smashed.dual_wanted

    def enter(self, phase: CutPhase) -> None:
        """Raises ``AgentError`` for a way that is not in the table."""
        if phase not in TRANSITIONS[self.phase]:
            raise AgentError(f"a step at the cut cannot go from {self.phase.value} to {phase.value}")
        self.phase = phase

    def settle(self, answer: DualVariable | DualRefused) -> None:
        """The answer that repetitions will get, too; the smashed data are of no more use."""
        self.enter(ANSWERED if isinstance(answer, DualVariable) else REFUSED)
        self.smashed, self.answer = None, answer
