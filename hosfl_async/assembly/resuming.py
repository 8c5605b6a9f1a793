"""A run that was stopped, or has ended, goes on in its own folder.

What goes on is what the folder holds: the update log (and with it the client half, bit for bit) and the split server's checkpoint. The
devices begin a new life, as after a crash of everybody: they join anew, under new incarnations. So the log stays contiguous and
hash-chained over the seam, and what a resumed run does is a function of its folder. It is *not* the run that would have been without the
stop: its steps have other names, and with them other batches and directions. docs/operations.md says what else is lost.
"""

from __future__ import annotations

import signal
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from hosfl_async.assembly.folder import (
    CHECKPOINT,
    LOG,
    METRICS,
    SCENARIO,
    SUMMARY,
    TRACE,
    OpenFolder,
    checkpoint_store,
    log_meta,
    scenario_of,
)
from hosfl_async.durable_files import write_durably
from hosfl_async.errors import SettingsError
from hosfl_async.log_store import LogStore
from hosfl_async.messages import ClientJoined, LogEntry, ServerCheckpoint, TargetMet
from hosfl_async.report import read_summary
from hosfl_async.report.comparing import read_evaluations
from hosfl_async.report.recorder import Evaluation
from hosfl_async.scenario import Scenario, load_scenario, to_toml
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.outcome import SimulationOutcome
from hosfl_async.trace import TraceEnd, TraceWriter, end_of_trace

MAY_CHANGE = (
    "about",
    "aggregator.client_steps",
    "shared.stop_at_accuracy",
    "shared.evaluate_every_versions",
    "server.evaluate_every_steps",
    "server.checkpoint_every_steps",
    "expect.",
    "simulation.",
    "live.",
)
"""Settings, or tables of them, that may differ from those with which a run was begun: none of them says what its log means."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run folder that can go on, and where it stands."""

    path: Path
    scenario: Scenario
    """The resolved one, with what was changed for the rest of the run."""
    entries: tuple[LogEntry, ...]
    checkpoint: ServerCheckpoint
    boots: Mapping[str, int]
    """The latest boot of each client that has joined."""
    evaluations: tuple[Evaluation, ...]
    time_s: float
    """Modelled seconds at which it was stopped."""
    bytes: Mapping[str, int]
    """Sent until then by kind, as far as the folder knows."""
    journal: TraceEnd

    @property
    def client_steps(self) -> int:
        return sum(len(entry.terms) for entry in self.entries)

    def bytes_with(self, sent: Mapping[str, int]) -> dict[str, int]:
        """Those of before and those of now."""
        return {kind: self.bytes.get(kind, 0) + sent.get(kind, 0) for kind in {**self.bytes, **sent}}


def stopped_run(path: Path, overrides: Sequence[str] = ()) -> Stopped:
    """Read where the run in ``path`` stands. ``overrides``: settings for the rest of it, as ``--set`` takes them.

    Raises ``SettingsError`` if it cannot go on, or not with these settings; ``LogError`` if its log or checkpoint is damaged.
    """
    begun = scenario_of(path)
    scenario = load_scenario(path / SCENARIO, overrides)
    _check_changes(begun, scenario)
    contents = LogStore.read(path / LOG)
    if not (path / CHECKPOINT).is_file():
        raise SettingsError(
            str(path),
            "there is no checkpoint of the split server, so its half is lost",
            expected=CHECKPOINT,
            mend="a run leaves one when it ends or is interrupted; against kills set server.checkpoint_every_steps",
        )
    [checkpoint] = checkpoint_store(path, scenario).records()
    stopped = Stopped(
        path,
        scenario,
        contents.entries,
        checkpoint,
        {record.client: record.boot for record in contents.records if isinstance(record, ClientJoined)},
        tuple(each for each in read_evaluations(path / METRICS) if each.version <= contents.head),
        0.0,
        {},
        end_of_trace(path / TRACE) if (path / TRACE).is_file() else TraceEnd(),
    )
    if (path / SUMMARY).is_file():  # else it has not ended, even if all its steps are in the log
        _check_unfinished(stopped, max((record.accuracy for record in contents.records if isinstance(record, TargetMet)), default=0.0))
    last = stopped.evaluations[-1] if stopped.evaluations else None
    sent = read_summary(path / SUMMARY).bytes if (path / SUMMARY).is_file() else last.bytes if last else {}
    time_s = max(stopped.journal.time_s, last.time_s if last else 0.0)
    return replace(stopped, time_s=time_s, bytes=sent)


def _check_changes(begun: Scenario, now: Scenario) -> None:
    before, after = (dict(_flat(tomllib.loads(to_toml(each)))) for each in (begun, now))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and not key.startswith(MAY_CHANGE):
            raise SettingsError(
                key,
                "cannot change within a run: the log would mean something else",
                expected=str(before.get(key)),
                found=str(after.get(key)),
                mend=f"begin a new run; what may change: {', '.join(MAY_CHANGE)}",
            )


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_unfinished(stopped: Stopped, accuracy_met: float) -> None:
    wanted, target = stopped.scenario.aggregator.client_steps, stopped.scenario.shared.stop_at_accuracy
    if stopped.client_steps >= wanted:
        more = f"--set aggregator.client_steps={2 * wanted}"
        raise SettingsError(str(stopped.path), f"has all its {wanted} client steps", mend=f"wish for more, such as {more}")
    if target and accuracy_met >= target:
        mend = "a higher shared.stop_at_accuracy, or 0"
        raise SettingsError(str(stopped.path), f"has reached its target: {accuracy_met:.4g}", mend=mend)


@contextmanager
def reopen_folder(stopped: Stopped, *, durable: bool) -> Iterator[OpenFolder]:
    """The folder of a run that goes on; what its last writer left half written is cut off."""
    path, scenario = stopped.path, stopped.scenario
    with LogStore(path / LOG, durable=durable, meta=log_meta(scenario)) as store:  # first: it refuses a second writer
        checkpoints, kept = checkpoint_store(path, scenario), stopped.checkpoint
        # Nobody repeats a step of a former life, and a log that was killed may know less of those lives than the checkpoint does.
        checkpoints.append(msgspec.structs.replace(kept, newest_base=min(kept.newest_base, store.head), steps=(), answers=()))
        write_durably(path / SCENARIO, to_toml(scenario).encode())
        write_durably(path / METRICS, b"".join(msgspec.json.encode(each) + b"\n" for each in stopped.evaluations))
        (path / SUMMARY).unlink(missing_ok=True)
        with TraceWriter(path / TRACE, stopped.journal) as trace, (path / METRICS).open("ab") as metrics:
            yield OpenFolder(path, store, trace, metrics, checkpoints)


class Stopping:
    """Runs a simulation until it ends or an interrupt was noticed."""

    def __init__(self) -> None:
        self.wanted = False

    def run(self, simulation: Simulation) -> SimulationOutcome:
        return simulation.run(stop_when=lambda: self.wanted)


@contextmanager
def interrupts_caught() -> Iterator[Stopping]:
    """The first Ctrl-C asks the simulation to stop between two events, a second one interrupts at once. Outside the main thread signals
    are not ours to take."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = signal.getsignal(signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stopping.wanted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield stopping
    finally:
        with suppress(ValueError, TypeError):
            signal.signal(signal.SIGINT, before)
