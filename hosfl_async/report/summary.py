"""``summary.json``: the stable interface of a finished run. Every field is explained in docs/summary.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from hosfl_async.errors import SettingsError


class Staleness(msgspec.Struct, frozen=True, kw_only=True):
    """Of the contributions that were admitted, in versions."""

    mean: float
    p50: int
    p99: int
    max: int


class PersonalClient(msgspec.Struct, frozen=True, kw_only=True):
    """One client before and after it tuned its own copy; accuracies are on its own test."""

    name: str
    training: int
    test: int
    before: float
    after: float


class Personal(msgspec.Struct, frozen=True, kw_only=True):
    """Personal fine-tuning after the run. Means count every client alike; a client without a test of its own is left out."""

    steps: int
    before: float
    after: float
    worst_before: float
    worst_after: float
    broken_off: int
    """Clients whose tuning met a number that was not finite: they stay with the common half."""
    clients: tuple[PersonalClient, ...]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One run in numbers. Fields may be added, never renamed or removed."""

    scenario: str
    seed: int
    host: Literal["simulation", "live"]
    method: str
    accuracy_final: float | None
    accuracy_best: float | None
    accuracy_frozen_control: float | None
    client_steps: int
    server_steps: int
    version: int
    modelled_time_s: float
    wall_time_s: float
    bytes: dict[str, int]
    messages: dict[str, int]
    staleness: Staleness
    counts: dict[str, int]
    clients: int
    clients_confirmed: int
    digest: str | None
    digests_agree: bool
    peak_rss_bytes: int
    energy_joules: float = 0.0
    target_met: float | None = None
    """The accuracy for which the run was ended before all its client steps."""
    resumed_at_steps: int | None = None
    """Client steps in the log when the run was resumed the last time."""
    personal: Personal | None = None
    """Before and after personal fine-tuning, if the scenario has it."""
    unmet: tuple[str, ...] = ()
    """Expectations of the scenario that this run did not meet."""


def write_summary(summary: Summary, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def read_summary(path: Path) -> Summary:
    """Raises ``SettingsError`` if the file is not a summary of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise SettingsError(str(path), "not a summary of a run", expected="what `hosfl simulate` writes", found=str(problem)) from problem
