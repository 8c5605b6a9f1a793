"""Follows a run folder while the run goes on, or after it: reads only, and only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from hosfl_async.assembly.folder import METRICS, SUMMARY, TRACE, scenario_of
from hosfl_async.assembly.stories import story_lines
from hosfl_async.report import read_summary
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.following import Following, Look
from hosfl_async.report.recorder import Evaluation
from hosfl_async.trace import TraceTail

CHUNKS_AT_ONCE_MAX = 64
"""Chunks of the journal taken in before the next look, so that a long journal shows progress while it is read."""


class Ended(msgspec.Struct, frozen=True):
    """What a run that is over ended with."""

    digest: str | None
    digests_agree: bool
    clients_confirmed: int
    clients: int


class Watched(msgspec.Struct, frozen=True):
    """What a person who watches sees. ``ended`` has the end of a run that is over."""

    scenario: str
    about: str
    seed: int | None
    look: Look
    evaluations: list[Evaluation]
    client_steps_wanted: int | None
    journal: bool
    """Whether anything is known of the clients; a run without a journal has its curve alone."""
    caught_up: bool
    """Whether everything that is there has been taken in."""
    ended: Ended | None = None
    connection: str = ""
    """Of a run that is followed over a broker: where from, or why not."""


class RunWatch(Protocol):
    """Follows one run and only reads: by its folder, or by what its agents say."""

    @property
    def names(self) -> list[str]:
        """Clients known so far."""

    def look(self) -> Watched: ...

    def story(self, name: str) -> list[str] | None:
        """What happened to a client lately; None if there is no such client."""


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
            ended=None if ended is None else Ended(ended.digest, ended.digests_agree, ended.clients_confirmed, ended.clients),
        )

    def story(self, name: str) -> list[str] | None:
        """Of its latest step."""
        client = next((each for each in self.look().look.clients if each.name == name), None)
        if client is None:
            return None
        return story_lines(self.folder, client.step) if client.step else ["it has not begun a step"]

    def _read(self) -> bool:
        for _ in range(CHUNKS_AT_ONCE_MAX):
            records = self._tail.more()
            if not records:
                return True
            self._following.meet(records)
        return False
