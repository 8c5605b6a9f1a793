"""The contract between agents, learners and hosts. Agents decide, learners compute, hosts act.

An *agent* is a pure state machine: ``handle(event, now) -> list[Effect]``. Equal event histories give equal effects. It knows
no clock, socket, random generator or tensor library, and it never blocks.

The hosts' duties (``simulation`` and ``live`` both keep them):

1. Feed one event at a time; obey the returned effects **in order**. ``Persist`` before ``Send`` means: on disk before the message
   leaves.
2. Run at most one job per agent at a time, and return its outcome as ``JobDone`` or ``JobFailed``. An agent that asks for a second
   job breaks its contract.
3. ``Send`` is a wish: the message may arrive never, twice, late or out of order. Safety must not depend on delivery; only
   progress may.
4. ``SetTimer`` replaces the timer of that name; a delay of ``None`` cancels it. A timer fires once.
5. ``Started`` comes first, with everything the agent ever persisted, in order, and with a ``boot`` number higher than at any
   earlier start of this agent.
6. A restarted agent is a new object; what it did not persist is gone.
7. Time never runs backwards between two calls of ``handle``.
"""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct


class Started(Struct, frozen=True, gc=False):
    """The first event. ``boot`` is higher at every start of the same agent; ``records`` is all it persisted, oldest first."""

    boot: int = 1
    records: tuple[Any, ...] = ()


class Received(Struct, frozen=True, gc=False):
    """A decoded and validated message; the host vouches for the sender's name as far as its transport does."""

    sender: str
    message: Any


class TimerFired(Struct, frozen=True, gc=False):
    name: str


class JobDone(Struct, frozen=True, gc=False):
    job: Any
    result: Any


class JobFailed(Struct, frozen=True, gc=False):
    job: Any
    reason: str


class PeerGone(Struct, frozen=True, gc=False):
    """The transport says that a peer's connection ended without a farewell (MQTT: its last will)."""

    name: str


class Stopping(Struct, frozen=True, gc=False):
    """The host is about to stop this agent; effects of this event are obeyed, then no event follows."""


Event = Started | Received | TimerFired | JobDone | JobFailed | PeerGone | Stopping


class Send(Struct, frozen=True, gc=False):
    """A wish to deliver ``message`` to one agent by name, or to the group name ``messages.CLIENTS``."""

    recipient: str
    message: Any


class SetTimer(Struct, frozen=True, gc=False):
    """Fire ``TimerFired(name)`` after ``delay_s`` seconds; ``None`` cancels."""

    name: str
    delay_s: float | None


class RunJob(Struct, frozen=True, gc=False):
    job: Any


class Record(Struct, frozen=True, gc=False):
    """Numbers for the journal. Keys carry their unit (``accuracy``, ``staleness_versions``, ``wait_s``); never a tensor.

    ``step`` is the ``StepId`` they are about, if any; it becomes text only where somebody writes it down."""

    name: str
    values: dict[str, float]
    step: Any = ""


class Persist(Struct, frozen=True, gc=False):
    """Make ``record`` durable before obeying the next effect."""

    record: Any


Effect = Send | SetTimer | RunJob | Record | Persist


class Agent(Protocol):
    """A deterministic state machine. See the module's text for what it may expect of its host."""

    name: str
    counts: dict[str, int]
    """What happened, by name: everything refused, dropped, retried or repeated is counted here."""

    @property
    def finished(self) -> bool:
        """True when the agent has nothing left to do; a host may stop it then."""

    def handle(self, event: Event, now: float) -> list[Effect]: ...

    def validate(self) -> None:
        """Raise ``AgentError`` if an invariant of the agent's own state is broken. Hosts under test call it after every event."""


class Learner(Protocol):
    """Computes jobs for one agent: numbers in, numbers out. Raises ``LearnerError`` for a job that cannot be done as asked."""

    def run(self, job: Any) -> Any: ...
