"""An agent's counts for Prometheus, by its own client library (extra ``prometheus``), on a port that is off unless asked for.

Everything is read when somebody asks; nothing is counted twice, and an agent knows nothing of it. The one exception is staleness, which
is summed up here as the records pass. Labels are words of the code (a kind of message, a reason), never a device or a step: the number of
series does not grow with the fleet or with time. Per device there is ``hosfl fleet``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hosfl_async.agent import Record
from hosfl_async.errors import SettingsError
from hosfl_async.live.host import LiveHost
from hosfl_async.process.status import status_of

if TYPE_CHECKING:
    from prometheus_client.registry import CollectorRegistry

STALENESS_BOUNDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Upper bounds of the histogram's buckets, in versions."""

Page = tuple[str, bytes]
"""Content type and body."""

_FLAGS = {
    "well": "Nobody needs to look.",
    "connected": "The connection to the broker was opened and not closed; a lost one may be being mended.",
    "finished": "The agent's part of the run is over.",
}
_NUMBERS = {
    "version": "Head of the update log at the aggregator; elsewhere the version that this agent has.",
    "client_steps": "Client steps in the log (aggregator).",
    "server_steps": "Steps of the server half (split server).",
}
_COUNTS = {
    "agent_counts": ("agent_events", "What the agent decided about, by its own words: accepted, duplicate, stale, ..."),
    "host_counts": ("host_events", "What the host did and refused: delivered, dropped, jobs_done, ..."),
    "transport_counts": ("transport_events", "What the connection to the broker did: resent, reconnect_failed, ..."),
}


class Staleness:
    """A histogram of the contributions that the aggregator admitted."""

    def __init__(self) -> None:
        self._counts = [0] * (len(STALENESS_BOUNDS) + 1)
        self.total = 0.0

    def note(self, _now_s: float, _agent: str, record: Record) -> None:
        """A host's ``on_record``."""
        if record.name == "admitted":
            versions = record.values["staleness_versions"]
            self._counts[sum(bound < versions for bound in STALENESS_BOUNDS)] += 1
            self.total += versions

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Bound and how many were at most that, as Prometheus has them."""
        summed, found = 0, []
        for bound, count in zip((*map(str, map(float, STALENESS_BOUNDS)), "+Inf"), self._counts, strict=True):
            summed += count
            found.append((bound, float(summed)))
        return found


class AgentCollector:
    """Asked by the library's registry whenever the page is."""

    def __init__(self, host: LiveHost, run: str, boot: int, staleness: Staleness) -> None:
        self._host, self._run, self._boot, self._staleness = host, run, boot, staleness

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

        status = status_of(self._host, self._run, self._boot)
        about = {name: str(status[name]) for name in ("agent", "run", "software")}
        yield InfoMetricFamily("hosfl_agent", "Which agent of which run this is.", value=about)
        for name, what in _FLAGS.items():
            yield GaugeMetricFamily(f"hosfl_{name}", what, value=float(status[name]))
        yield GaugeMetricFamily(
            "hosfl_disk_full", "The disk has no space for what must be kept; the agent waits.", value="disk_full" in status
        )
        for name, what in _NUMBERS.items():
            if name in status:
                yield GaugeMetricFamily(f"hosfl_{name}", what, value=status[name])
        for field, (name, what) in _COUNTS.items():
            yield _counter(CounterMetricFamily, f"hosfl_{name}", what, "event", status[field])
        yield _counter(CounterMetricFamily, "hosfl_sent_bytes", "Bytes of messages sent, by kind of payload.", "kind", status["bytes"])
        yield _counter(CounterMetricFamily, "hosfl_sent_messages", "Messages sent.", "message", self._host.tally.messages)
        waiting = GaugeMetricFamily("hosfl_waiting", "What waits in bounded queues now.", labels=["queue"])
        for queue, length in self._queues().items():
            waiting.add_metric([queue], length)
        yield waiting
        if self._host.roll is not None:
            present, lost = self._host.roll.numbers
            devices = GaugeMetricFamily("hosfl_devices", "Devices that the aggregator has heard since it started.", labels=["presence"])
            devices.add_metric(["present"], present)
            devices.add_metric(["lost"], lost)
            yield devices
            yield HistogramMetricFamily(
                "hosfl_staleness_versions",
                "Of the contributions that were admitted.",
                buckets=self._staleness.buckets,
                sum_value=self._staleness.total,
            )

    def _queues(self) -> dict[str, float]:
        agent: Any = self._host.agent
        queues: dict[str, float] = {"frames to send": self._host.frames_waiting}
        if (contributions := getattr(agent, "waiting", None)) is not None:
            queues["contributions" if self._host.roll is not None else "activations"] = contributions
        return queues


def _counter(family: Any, name: str, what: str, label: str, counts: Mapping[str, int]) -> Any:
    found = family(name, what, labels=[label])
    for word, number in sorted(counts.items()):
        found.add_metric([word], number)
    return found


def metrics_page(host: LiveHost, run: str, boot: int, staleness: Staleness) -> Callable[[], Page]:
    """What the port answers with. Raises ``SettingsError`` without the library."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
        from prometheus_client.registry import CollectorRegistry
    except ImportError as problem:
        mend = "pip install 'hosfl-async[prometheus]', or leave it out"
        raise SettingsError("metrics.port", f"it needs prometheus-client: {problem}", mend=mend) from problem
    registry: CollectorRegistry = CollectorRegistry()
    registry.register(AgentCollector(host, run, boot, staleness))
    _add_process(registry)
    return lambda: (CONTENT_TYPE_LATEST, generate_latest(registry))


def _add_process(registry: CollectorRegistry) -> None:
    """Memory, processor time and open files of the process, where the system tells them."""
    from prometheus_client import ProcessCollector

    ProcessCollector(registry=registry)
