"""Tells trackers of a run while it goes on, without ever holding it up.

A tracker may wait for a disk or a server, and a live run's event loop must not (its connections to the broker would die). So a thread of
the tracker's own tells it, behind a bounded queue; what finds the queue full is dropped and counted. A tracker that fails is told no more,
and the run goes on: its folder has everything, and ``hosfl export`` can tell the tool later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Full, Queue
from threading import Thread

from hosfl_async.errors import SettingsError, TrackingError
from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking.facts import RunFacts
from hosfl_async.tracking.tracker import Tracker

POINTS_WAITING_MAX = 1000
END_PATIENCE_S = 60.0
"""How long the end of a run waits for a tracker to take in what is left."""

Task = Callable[[], None]


def guarded(tracker: Tracker, task: Callable[[], bool | None]) -> bool | None:
    """The result of ``task``; whatever the tool's library raises becomes ``TrackingError``."""
    try:
        return task()
    except Exception as problem:
        what = " ".join(str(problem).split())[:300] or type(problem).__name__
        raise TrackingError(f"tracking at {tracker.place}: {what}") from problem


class Follower:
    """One tracker and its thread. ``begin`` is called at once, so that what cannot work is refused before the run begins."""

    def __init__(self, tracker: Tracker, facts: RunFacts, *, waiting_max: int = POINTS_WAITING_MAX) -> None:
        """Raises ``TrackingError``; ``SettingsError`` if the tool has this run already."""
        if not guarded(tracker, lambda: tracker.begin(facts)):
            raise SettingsError(f"tracking at {tracker.place}", "has this run already", found=facts.name)
        self.tracker = tracker
        self.failure = ""
        self.dropped = 0
        """Points that found the queue full."""
        self._over = False
        self._tasks: Queue[Task | None] = Queue(waiting_max)
        self._thread = Thread(target=self._work, name=f"tracking {tracker.place}", daemon=True)
        self._thread.start()

    def point(self, point: Evaluation) -> None:
        """Never waits."""
        try:
            self._tasks.put_nowait(lambda: self.tracker.point(point))
        except Full:
            self.dropped += 1

    def end(self, summary: Summary, files: Sequence[Path], *, patience_s: float = END_PATIENCE_S) -> None:
        """The last word; waits ``patience_s`` at most."""
        self._finish(lambda: self.tracker.end(summary, files), patience_s)

    def abandon(self, *, patience_s: float = END_PATIENCE_S) -> None:
        """As ``end``, for a run that was interrupted; harmless after ``end``."""
        self._finish(self.tracker.abandon, patience_s)

    @property
    def complaint(self) -> str:
        """What a person should know of a tool that did not take everything; empty if it did."""
        if self.failure:
            return self.failure
        return f"tracking at {self.tracker.place}: {self.dropped:,} points came faster than they were taken" if self.dropped else ""

    def _finish(self, task: Task, patience_s: float) -> None:
        if self._over:
            return
        self._over = True
        try:
            for each in (task, None):
                self._tasks.put(each, timeout=patience_s)
        except Full:
            pass
        self._thread.join(patience_s)
        if self._thread.is_alive() and not self.failure:
            self.failure = f"tracking at {self.tracker.place}: still not done {patience_s:g} s after the end of the run"

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self.failure:
                continue  # the queue is emptied, so that nobody waits for it
            try:
                guarded(self.tracker, task)
            except TrackingError as problem:
                self.failure = str(problem)
