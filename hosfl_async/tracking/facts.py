"""What is said of a run, whatever the tool: names and numbers as plain data.

Three things are worth drawing against: client steps, modelled time and bytes. Tools differ in what their horizontal axis may be, so every
point carries all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known when a run begins.

    name: as a person calls it, such as ``quickstart-seed0``. project: what it is compared with, the scenario's name.
    key: 16 hexadecimal digits that are this run's and no other's, so that a tool is not told twice. began_s: seconds since 1970.
    settings: the resolved scenario, as its file has it. tags: words to search by.
    """

    name: str
    project: str
    about: str
    key: str
    began_s: float
    settings: Mapping[str, Any]
    tags: Mapping[str, str]

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The settings, flat: ``aggregator.client_steps``, ``fleet.0.count``."""
        return dict(flat("", self.settings))


def flat(path: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    """Tables and lists of tables by dotted keys; a list of plain values is one text, ``[1, 2]``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for place, inner in enumerate(value):
            yield from flat(f"{path}.{place}", inner)
    else:
        yield path, value if isinstance(value, bool | int | float | str) else str(value)


def point_figures(point: Evaluation) -> dict[str, float]:
    """One point of the curve; bytes are those sent by everyone until then, in all and by kind."""
    return {
        "accuracy": point.accuracy,
        "loss": point.loss,
        "staleness_mean_versions": point.staleness_mean_versions,
        "client_steps": point.client_steps,
        "server_steps": point.server_steps,
        "version": point.version,
        "modelled_time_s": point.time_s,
        "bytes": sum(point.bytes.values()),
        **{f"bytes_{kind}": number for kind, number in point.bytes.items()},
    }


def final_figures(summary: Summary) -> dict[str, float]:
    """The numbers of ``summary.json``; what is missing there is missing here."""
    figures: dict[str, float | None] = {
        "accuracy_final": summary.accuracy_final,
        "accuracy_best": summary.accuracy_best,
        "accuracy_frozen_control": summary.accuracy_frozen_control,
        "target_met": summary.target_met,
        "client_steps": summary.client_steps,
        "server_steps": summary.server_steps,
        "version": summary.version,
        "modelled_time_s": summary.modelled_time_s,
        "wall_time_s": summary.wall_time_s,
        "staleness_mean_versions": summary.staleness.mean,
        "staleness_p50_versions": summary.staleness.p50,
        "staleness_p99_versions": summary.staleness.p99,
        "staleness_max_versions": summary.staleness.max,
        "clients": summary.clients,
        "clients_confirmed": summary.clients_confirmed,
        "digests_agree": int(summary.digests_agree),
        "unmet": len(summary.unmet),
        "energy_joules": summary.energy_joules,
        "peak_rss_bytes": summary.peak_rss_bytes,
        "bytes": sum(summary.bytes.values()),
        **{f"bytes_{kind}": number for kind, number in summary.bytes.items()},
        "messages": sum(summary.messages.values()),
        **{f"count_{name}": number for name, number in summary.counts.items()},
    }
    return {name: value for name, value in figures.items() if value is not None}


def final_words(summary: Summary) -> dict[str, str]:
    """What a finished run is known by, beside numbers: the digest of the log's parameters, and what it did not keep."""
    words = {"log_digest": summary.digest or "", "unmet": "; ".join(summary.unmet)}
    return {name: value for name, value in words.items() if value}
