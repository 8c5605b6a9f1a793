"""One agent alone with a test: events in, effects out, and a few words to ask about them."""

from __future__ import annotations

from typing import Any

from toy import LABELS, numbers, scalars

from hosfl_async.agent import JobDone, Received, RunJob, Send, SetTimer, Started
from hosfl_async.messages import ProjectedGradients, SmashedData, StepId, Tensor


class Solo:
    """Feeds one agent, obeys ``RunJob`` and ``SetTimer`` in its own books only, and validates after every event."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.now = 0.0
        self.job: Any = None
        self.jobs: list[Any] = []
        """Every job it ever asked for."""
        self.timers: dict[str, float] = {}
        self.effects: list[Any] = []
        """Of the latest event."""

    def feed(self, event: Any) -> list[Any]:
        self.effects = self.agent.handle(event, self.now)
        for effect in self.effects:
            match effect:
                case RunJob(job):
                    assert self.job is None, f"{job!r} asked for while {self.job!r} is under way"
                    self.job = job
                    self.jobs.append(job)
                case SetTimer(name, None):
                    self.timers.pop(name, None)
                case SetTimer(name, delay_s):
                    self.timers[name] = delay_s
        self.agent.validate()
        return self.effects

    def start(self, boot: int = 1, records: tuple[Any, ...] = ()) -> list[Any]:
        return self.feed(Started(boot, records))

    def receive(self, sender: str, message: Any) -> list[Any]:
        return self.feed(Received(sender, message))

    def done(self, result: Any) -> list[Any]:
        """The job under way ends with this result."""
        job, self.job = self.job, None
        return self.feed(JobDone(job, result))

    def sent(self, kind: type | None = None) -> list[Any]:
        """Messages sent in answer to the latest event."""
        return [
            effect.message for effect in self.effects if isinstance(effect, Send) and (kind is None or isinstance(effect.message, kind))
        ]


def smashed(step: StepId, base_version: int = 0, *, wanted: bool = True, activations: Tensor | None = None) -> SmashedData:
    return SmashedData(step, base_version, activations or numbers(str(step)), LABELS, wanted)


def contribution(step: StepId, base_version: int = 0, probes: int = 2) -> ProjectedGradients:
    return ProjectedGradients(step, base_version, scalars(step, probes))
