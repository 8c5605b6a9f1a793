"""What a tracking tool is told of a run, in this order: ``begin``, ``point`` for every evaluation, then ``end`` or ``abandon``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking.facts import RunFacts


class Tracker(Protocol):
    """One tool, told of one run. Whatever the tool's library raises passes through; the caller turns it into ``TrackingError``."""

    place: str
    """Where a person finds the run afterwards."""

    def begin(self, facts: RunFacts) -> bool:
        """Open the run under its name; False, with nothing written, if the tool has this very run (``facts.key``) already."""
        ...

    def point(self, point: Evaluation) -> None:
        """One evaluation."""
        ...

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        """The run is over; ``files`` are kept with it where the tool keeps files."""
        ...

    def abandon(self) -> None:
        """The run was interrupted: what was told stands, and the tool shows that there was no end."""
        ...
