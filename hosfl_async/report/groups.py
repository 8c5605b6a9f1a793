"""What a report is about: finished runs, those that differ in their seed only together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean

from hosfl_async.report.client_states import ClientCourse
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Summary


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """What a report needs of one finished run. Without a journal there is no staleness and no course of any client."""

    summary: Summary
    evaluations: Sequence[Evaluation]
    batch_size: int
    staleness: Counter[int] = field(default_factory=Counter)
    courses: Sequence[ClientCourse] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in their seed only."""

    label: str
    about: str
    target: float | None
    runs: Sequence[ReportedRun]

    def mean(self, value: Callable[[Summary], float | None]) -> float | None:
        """Over the runs that have one."""
        found = [each for run in self.runs if (each := value(run.summary)) is not None]
        return mean(found) if found else None

    @property
    def seeds(self) -> str:
        """As words."""
        seeds = [str(run.summary.seed) for run in self.runs]
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"

    def span(self, value: Callable[[Summary], float | None]) -> float:
        """Highest minus lowest over the runs that have one."""
        found = [each for run in self.runs if (each := value(run.summary)) is not None]
        return max(found) - min(found) if found else 0.0
