"""Follows a run folder while the run goes on, or after it: reads only, and only what is new."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hosfl_async.assembly.folder import METRICS, SUMMARY, TRACE, scenario_of
from hosfl_async.report import Summary, read_summary
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.following import Following, Look
from hosfl_async.report.recorder import Evaluation
from hosfl_async.trace import TraceTail

CHUNKS_AT_ONCE_MAX = 64
"""Chunks of the journal taken in before the next look, so that a long journal shows progress while it is read."""


class Watched(msgspec.Struct, frozen=True):
    """What a person who watches sees. ``ended`` has the summary of a run that is over."""

    scenario: str
    about: str
    seed: int
    look: Look
    evaluations: list[Evaluation]
    client_steps_wanted: int
    journal: bool
    """Whether the run keeps one; without it only the curve is known."""
    caught_up: bool
    """Whether everything in the journal has been taken in."""
    ended: Summary | None = None


class FolderWatch:
    """``look`` reads what has been added since the look before. Raises ``SettingsError`` for what is no run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scenario = scenario_of(folder)
        self.names = [name for name, _ in self._scenario.devices()]
        self._following = Following(self.names)
        self._tail = TraceTail(folder / TRACE)

    def look(self) -> Watched:
        summary = self.folder / SUMMARY
        ended = read_summary(summary) if summary.is_file() and summary.stat().st_size else None
        journal = (self.folder / TRACE).is_file()
        caught_up = self._read() if journal else True
        curve = self.folder / METRICS
        return Watched(
            scenario=self._scenario.name,
            about=self._scenario.about,
            seed=self._scenario.seed,
            look=self._following.look(),
            evaluations=read_evaluations(curve) if curve.is_file() else [],
            client_steps_wanted=self._scenario.aggregator.client_steps,
            journal=journal,
            caught_up=caught_up,
            ended=ended,
        )

    def _read(self) -> bool:
        for _ in range(CHUNKS_AT_ONCE_MAX):
            records = self._tail.more()
            if not records:
                return True
            self._following.meet(records)
        return False
