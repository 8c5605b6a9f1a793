"""Listens to the records of a running system and keeps what the reports need: the curve, the staleness, the latest state.

Every evaluation becomes one line of ``metrics.jsonl`` at once, so an interrupted run has its curve too. Memory does not grow with the
number of steps: staleness is a histogram, and everything else is the latest value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import IO

import msgspec

from hosfl_async.agent import Record
from hosfl_async.messages import LogEntry
from hosfl_async.report.summary import Staleness


class Evaluation(msgspec.Struct, frozen=True):
    """One point of the curve, as a line of ``metrics.jsonl``. Times are modelled seconds."""

    time_s: float
    client_steps: int
    server_steps: int
    version: int
    accuracy: float
    loss: float
    staleness_mean_versions: float
    """Mean over all contributions admitted since the evaluation before."""
    bytes: dict[str, int] = {}
    """Sent by everyone until now, by kind of payload; empty where nobody measures."""


class Recorder:
    """``note`` has the signature of the hosts' ``on_record``; ``metrics`` is an open binary file or None.

    ``meter`` is set by whoever has a host: it tells the bytes sent so far by kind, and is asked once per evaluation.
    """

    def __init__(self, metrics: IO[bytes] | None = None) -> None:
        self.evaluations: list[Evaluation] = []
        self.staleness: Counter[int] = Counter()
        self.version = 0
        self.client_steps = 0
        self.time_s = 0.0
        self.committed_at_s = 0.0
        """When the latest contribution entered the log: the modelled time of a run that has ended."""
        self.meter: Callable[[], Mapping[str, int]] = dict
        self.on_best: Callable[[Evaluation], None] | None = None
        """Told of every evaluation that is better than all before, while the model that was evaluated is still as it was."""
        self.target_met: float | None = None
        """The accuracy for which the run was ended before all its steps, if it was."""
        self.listeners: list[Callable[[Evaluation], None]] = []
        """Called with every evaluation, once it is written; they must not wait."""
        self._recent: list[float] = [0.0, 0.0]
        self._metrics = metrics

    def go_on(self, evaluations: Iterable[Evaluation], entries: Iterable[LogEntry], time_s: float) -> None:
        """Begin where a run was stopped: with its curve, and with what its log says of the contributions in it."""
        self.evaluations = [*evaluations]
        self.time_s = self.committed_at_s = time_s
        for entry in entries:
            self.version, self.client_steps = entry.version, self.client_steps + len(entry.terms)
            self.staleness.update(entry.version - 1 - term.base_version for term in entry.terms)

    def note(self, time_s: float, agent: str, record: Record) -> None:
        self.time_s = max(self.time_s, time_s)
        values = record.values
        if record.name == "admitted":
            self.staleness[int(values["staleness_versions"])] += 1
            self._recent[0] += values["staleness_versions"]
            self._recent[1] += 1
        elif record.name == "commit":
            self.version, self.client_steps = int(values["version"]), int(values["client_steps"])
            self.committed_at_s = time_s
        elif record.name == "target_met":
            self.target_met = values["accuracy"]
        elif record.name == "evaluation":
            self._on_evaluation(time_s, values)

    def _on_evaluation(self, time_s: float, values: dict[str, float]) -> None:
        total, count = self._recent
        self._recent = [0.0, 0.0]
        point = Evaluation(
            time_s=time_s,
            client_steps=self.client_steps,
            server_steps=int(values["server_steps"]),
            version=int(values["version"]),
            accuracy=values["accuracy"],
            loss=values["loss"],
            staleness_mean_versions=total / count if count else 0.0,
            bytes=dict(sorted(self.meter().items())),
        )
        best = self.accuracy_best
        self.evaluations.append(point)
        if self._metrics is not None:
            self._metrics.write(msgspec.json.encode(point) + b"\n")
            self._metrics.flush()
        if self.on_best is not None and (best is None or point.accuracy > best):
            self.on_best(point)
        for listener in self.listeners:
            listener(point)

    @property
    def accuracy_final(self) -> float | None:
        return self.evaluations[-1].accuracy if self.evaluations else None

    @property
    def accuracy_best(self) -> float | None:
        return max((point.accuracy for point in self.evaluations), default=None)

    def staleness_summary(self) -> Staleness:
        """Mean and nearest-rank percentiles over all admitted contributions, in versions."""
        total = sum(self.staleness.values())
        if not total:
            return Staleness(mean=0.0, p50=0, p99=0, max=0)
        mean = sum(value * count for value, count in self.staleness.items()) / total
        return Staleness(mean=mean, p50=self._percentile(0.5, total), p99=self._percentile(0.99, total), max=max(self.staleness))

    def _percentile(self, share: float, total: int) -> int:
        seen = 0
        for value in sorted(self.staleness):
            seen += self.staleness[value]
            if seen >= share * total:
                return value
        return max(self.staleness)
