"""Runs and tracking tools: what a run folder tells a tool afterwards, and a run that is followed while it goes on."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version as version_of
from pathlib import Path

from hosfl_async.assembly.folder import METRICS, SCENARIO, SUMMARY, scenario_of
from hosfl_async.assembly.reporting import runs_in
from hosfl_async.errors import SettingsError
from hosfl_async.report import Recorder, Summary, read_summary
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.recorder import Evaluation
from hosfl_async.scenario import Scenario, to_toml
from hosfl_async.tracking import Follower, RunFacts, Tracker, guarded, open_tracker

FILES = (SCENARIO, SUMMARY, METRICS)
"""What a tool that keeps files is given; log, journal and model can be large and stay in the folder, the digest tells them apart."""

Told = Callable[[str], None]


def export(folders: Sequence[Path], wishes: Sequence[str], told: Told | None = None) -> None:
    """Tell the tools ``wishes`` (``NAME`` or ``NAME=PLACE``) of finished runs; a folder that holds runs stands for them.

    What a tool has already is left alone, so this may be repeated. Raises ``SettingsError`` and ``TrackingError``.
    """
    require_tools(wishes)
    for run in dict.fromkeys(run for folder in folders for run in runs_in(folder)):
        summary, points = read_summary(run / SUMMARY), read_evaluations(run / METRICS)
        facts = facts_of(run, scenario_of(run), summary.host)
        for wish in wishes:
            tracker = open_tracker(wish)
            new = guarded(tracker, lambda: _tell(tracker, facts, run, summary, points))  # noqa: B023
            if told is not None:
                told(f"{run}: {'written to' if new else 'is there already:'} {tracker.place}")


def require_tools(wishes: Sequence[str]) -> None:
    """Says what is missing before anything is run or written. Raises ``SettingsError``."""
    for wish in wishes:
        open_tracker(wish)


def _tell(tracker: Tracker, facts: RunFacts, run: Path, summary: Summary, points: Sequence[Evaluation]) -> bool:
    if not tracker.begin(facts):
        return False
    for point in points:
        tracker.point(point)
    tracker.end(summary, [run / name for name in FILES])
    return True


def facts_of(run: Path, scenario: Scenario, host: str) -> RunFacts:
    """Of a run folder, finished or just begun. The key is made of the scenario and of the moment when the folder was."""
    file = run / SCENARIO
    began_ns = file.stat().st_mtime_ns
    settings = tomllib.loads(to_toml(scenario))
    return RunFacts(
        name=run.resolve().name,
        project=scenario.name,
        about=scenario.about,
        key=blake2b(b"%d " % began_ns + file.read_bytes(), digest_size=8).hexdigest(),
        began_s=began_ns / 1e9,
        settings=settings,
        tags={
            "scenario": scenario.name,
            "method": scenario.method,
            "seed": str(scenario.seed),
            "host": host,
            "group": run.resolve().parent.name,
            "hosfl_async": version_of("hosfl-async"),
        },
    )


class Followers:
    """All the tools that follow one run; without any, nothing happens."""

    def __init__(self, followers: Sequence[Follower], run: Path | None, told: Told | None) -> None:
        self._followers, self._run, self._told = followers, run, told

    def end(self, summary: Summary) -> None:
        """The run is over and its folder whole."""
        for follower in self._followers:
            assert self._run is not None
            follower.end(summary, [self._run / name for name in FILES])
            if follower.complaint:
                mend = f"the run is not affected, and `hosfl export {self._run}` can tell it again"
                (self._told or _warn)(f"{follower.complaint}; {mend}")
            elif self._told is not None:
                self._told(f"{self._run}: written to {follower.tracker.place}")


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=4)


@contextmanager
def followed(
    wishes: Sequence[str], scenario: Scenario, host: str, run: Path | None, recorder: Recorder, told: Told | None
) -> Iterator[Followers]:
    """The tools hear of every evaluation of ``recorder``; if the body fails, that the run was abandoned. ``end`` is the caller's to call.

    Raises ``SettingsError`` and ``TrackingError`` before the run begins, if a tool cannot be used.
    """
    if wishes and run is None:
        raise SettingsError("tracking", "a run without a folder cannot be followed", mend="give it one")
    followers: list[Follower] = []
    try:
        for wish in wishes:
            assert run is not None
            followers.append(Follower(open_tracker(wish), facts_of(run, scenario, host)))
        recorder.listeners += [follower.point for follower in followers]
        yield Followers(followers, run, told)
    except BaseException:
        for follower in followers:
            follower.abandon()
        raise
