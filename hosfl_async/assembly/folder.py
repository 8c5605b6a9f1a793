"""The folder of one run: what is in it, and how it stays readable when the run is interrupted at any moment.

``scenario.toml`` is written first, so whatever else is there can be interpreted. ``log.sqlite`` grows by whole records,
``metrics.jsonl`` by whole lines, ``trace.msgpack`` by whole notes (a torn tail is skipped by its reader). ``summary.json`` comes last:
where it is missing, the run did not end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hosfl_async.checkpoint_store import CheckpointStore, LatestCheckpoint
from hosfl_async.errors import SettingsError, meant
from hosfl_async.log_store import LogStore
from hosfl_async.scenario import Scenario, load_scenario, to_toml
from hosfl_async.trace import TraceWriter

SCENARIO, SUMMARY, METRICS, TRACE, LOG = "scenario.toml", "summary.json", "metrics.jsonl", "trace.msgpack", "log.sqlite"
CHECKPOINT = "checkpoint.safetensors"
"""The split server's half and optimiser, from which the run can go on."""
MODEL, BEST = "model.safetensors", "best.safetensors"
"""What was learnt: both halves by the names of their parameters, as they were at the end and at the best evaluation."""
COMPARISON = "comparison.json"
"""What a folder of compared runs has, see ``compare``."""


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """The files of a run that is going on."""

    path: Path
    store: LogStore
    trace: TraceWriter
    metrics: IO[bytes]
    checkpoints: CheckpointStore | LatestCheckpoint


def free_folder(scenario: Scenario, below: Path = Path("runs")) -> Path:
    """A folder name that does not exist yet: a run never overwrites another."""
    name = f"{scenario.name}-seed{scenario.seed}"
    path, number = below / name, 1
    while path.exists():
        number += 1
        path = below / f"{name}-{number}"
    return path


def require_free(path: Path) -> None:
    """Raises ``SettingsError`` if no new run folder can be made there: asked before anything long begins."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(str(path), "holds something already", expected="a new or empty folder", mend="choose another with --out")
    above = next((each for each in path.absolute().parents if each.exists()), path)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(
            str(path), f"nothing can be made in {above}", expected="a folder that may be written", mend="choose another with --out"
        )


@contextmanager
def open_folder(path: Path, scenario: Scenario, *, durable: bool, traced: bool = True) -> Iterator[OpenFolder]:
    """Create the folder and everything in it but the summary; without ``traced``, no journal either.

    Raises ``SettingsError`` if there is something already.
    """
    require_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / SCENARIO).write_text(to_toml(scenario), encoding="utf-8")
    except OSError as problem:
        raise SettingsError(
            str(path), "the run folder cannot be written", found=str(problem), mend="choose another with --out"
        ) from problem
    with (
        LogStore(path / LOG, durable=durable, meta=log_meta(scenario)) as store,
        TraceWriter(path / TRACE if traced else None) as trace,
        (path / METRICS).open("wb") as metrics,
    ):
        yield OpenFolder(path, store, trace, metrics, checkpoint_store(path, scenario) if traced else LatestCheckpoint())


def log_meta(scenario: Scenario) -> dict[str, str]:
    """What the log of a run folder says that it belongs to."""
    return {"scenario": scenario.name, "seed": str(scenario.seed)}


def checkpoint_store(path: Path, scenario: Scenario) -> CheckpointStore:
    return CheckpointStore(path / CHECKPOINT, f"{scenario.name}-seed{scenario.seed}")


def scenario_of(path: Path) -> Scenario:
    """The resolved scenario of a run folder. Raises ``SettingsError`` if this is not one."""
    if not path.exists():
        beside = [str(path.parent / each.name) for each in path.parent.glob("*") if (each / SCENARIO).is_file()]
        mend = meant(str(path), beside) or "`hosfl simulate` writes one"
        raise SettingsError(str(path), "not a run folder: there is nothing", expected=f"a folder with {SCENARIO}", mend=mend)
    if not (path / SCENARIO).is_file():
        raise SettingsError(str(path), "not a run folder", expected=f"a folder with {SCENARIO}", mend="`hosfl simulate` writes one")
    try:
        return load_scenario(path / SCENARIO)
    except SettingsError as problem:
        mend = f"if another version of hosfl_async made the run, read it with that one; this is {version_of('hosfl-async')}"
        raise SettingsError(str(path), "the scenario of this run cannot be read", found=str(problem), mend=mend) from problem


def write_model(path: Path, name: str, tensors: dict[str, NDArray[np.float32]], about: dict[str, str]) -> None:
    """Leave what was learnt in a run folder, whole or not at all."""
    unfinished = path / f".{name}"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, unfinished, metadata={"format": "pt", **about})
    unfinished.replace(path / name)
