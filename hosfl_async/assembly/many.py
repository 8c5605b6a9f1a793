"""Many runs below one folder, over several processes; what is finished already is not run again.

A run goes on in ``NAME.part`` and is renamed to ``NAME`` when it is over, so a folder without the suffix is whole, and an interrupted batch
goes on where it stopped. The run's resolved scenario tells whether a folder is that very run: settings that have changed are never passed
off as the old result. Batches keep no journal and no model (most of a folder's size); ``hosfl simulate`` gives it for any point.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from hosfl_async.assembly.folder import LOG, METRICS, MODEL, SCENARIO, SUMMARY, TRACE, scenario_of
from hosfl_async.assembly.simulated import simulate
from hosfl_async.errors import SettingsError
from hosfl_async.report import Summary, read_summary
from hosfl_async.scenario import Scenario

OURS = {SCENARIO, SUMMARY, METRICS, TRACE, MODEL, f".{MODEL}", LOG, *(f"{LOG}{end}" for end in (".lock", ".committed", "-wal", "-shm"))}
"""All that a run leaves in its folder: only such a folder is ever removed."""


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a batch; ``name`` is its folder."""

    name: str
    scenario: Scenario
    control: bool = False


Told = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, the latest one's name)."""


def run_many(points: Sequence[Point], out: Path, *, processes: int = 1, told: Told | None = None, logs: bool = True) -> list[Summary]:
    """One summary per point, in their order. ``logs``: whether folders keep their update logs.

    Raises what a run raises; the others that are finished stay so.
    """
    left = [point for point in points if not _finished(point, out)]
    done = len(points) - len(left)

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        if told is not None:
            told(done, len(points), name)

    if processes <= 1 or len(left) <= 1:
        for point in left:
            tell(_run(point, out, logs))
    else:
        with ProcessPoolExecutor(min(processes, len(left)), mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            waiting = [pool.submit(_run, point, out, logs) for point in left]
            try:
                for each in as_completed(waiting):
                    tell(each.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [read_summary(out / point.name / SUMMARY) for point in points]


def _end_with_parent() -> None:
    """In a worker: a parent that was killed ends nobody, so the worker watches it."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, name="parent-watch", daemon=True).start()


def _finished(point: Point, out: Path) -> bool:
    folder = out / point.name
    if not folder.exists():
        return False
    with suppress(SettingsError):
        if (folder / SUMMARY).is_file() and scenario_of(folder) == point.scenario:
            return True
    raise SettingsError(str(folder), "holds another run", expected="the same settings as now", mend="choose another folder with --out")


def _run(point: Point, out: Path, logs: bool) -> str:
    part = out / f"{point.name}.part"
    if part.exists():
        if not {path.name for path in part.iterdir()} <= OURS:
            raise SettingsError(str(part), "holds something that is not an interrupted run of ours", mend="move it away")
        shutil.rmtree(part)
    simulate(point.scenario, folder=part, control=point.control, traced=False)
    if not logs:
        for left in part.glob(f"{LOG}*"):
            left.unlink()
    part.rename(out / point.name)
    return point.name
