"""How far a run is, in one line: for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from hosfl_async.report import Recorder


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a run under way. Times in seconds."""

    what: str
    folder: Path | None
    client_steps: int
    client_steps_total: int
    version: int
    accuracy: float | None
    staleness_mean: float
    modelled_s: float
    wall_s: float

    @property
    def tenths(self) -> int:
        """Whole tenths of the run that are done."""
        return 10 * self.client_steps // self.client_steps_total

    @property
    def line(self) -> str:
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.3f}"
        return (
            f"{self.what}: step {self.client_steps:,}/{self.client_steps_total:,}  version {self.version:,}  accuracy {accuracy}"
            f"  staleness {self.staleness_mean:.1f}  modelled {self.modelled_s:,.1f} s  wall {self.wall_s:.1f} s"
        )


Watch = Callable[[Progress], None]


class Watcher:
    """Looks at a recorder now and then, and tells ``watch``."""

    def __init__(self, what: str, recorder: Recorder, client_steps_total: int, folder: Path | None, watch: Watch | None) -> None:
        self._what, self._recorder, self._total, self._folder, self._watch = what, recorder, client_steps_total, folder, watch
        self._began = monotonic()

    @property
    def wall_s(self) -> float:
        return monotonic() - self._began

    def look(self) -> None:
        if self._watch is None:
            return
        recorder = self._recorder
        points = recorder.evaluations
        mean = recorder.staleness_summary().mean
        accuracy = points[-1].accuracy if points else None
        self._watch(
            Progress(
                what=self._what,
                folder=self._folder,
                client_steps=recorder.client_steps,
                client_steps_total=self._total,
                version=recorder.version,
                accuracy=accuracy,
                staleness_mean=mean,
                modelled_s=recorder.time_s,
                wall_s=self.wall_s,
            )
        )
