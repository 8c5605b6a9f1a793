"""What a run folder can tell afterwards: the story of one step, whether its log gives the parameters it ended with, and pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.folder import COMPARISON, LOG, METRICS, SUMMARY, TRACE, scenario_of
from hosfl_async.checks import log_problems
from hosfl_async.errors import LogError, SettingsError
from hosfl_async.jobs import Replay
from hosfl_async.log_store import LogStore
from hosfl_async.report import read_summary
from hosfl_async.report.comparing import read_comparison, read_evaluations
from hosfl_async.trace import TraceRecord, read_trace, story


def story_lines(run: Path, step: str) -> list[str]:
    """Everything that happened to ``step``, one line an event, oldest first."""
    scenario_of(run)
    return [_line(record) for record in story(read_trace(run / TRACE), step)]


def _line(record: TraceRecord) -> str:
    peer = {"sent": "to", "delivered": "from"}.get(record.what, "with")
    parts = [f"{record.time_s:12.6f} s", f"{record.agent:<14}", f"{record.what:<12}", record.kind]
    if record.peer:
        parts.append(f"{peer} {record.peer}")
    if record.bytes:
        parts.append(f"({record.bytes:,} B)")
    if record.values:
        parts.append(", ".join(f"{key} {_told(value)}" for key, value in record.values.items()))
    return "  ".join(parts)


def _told(value: int | float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What replaying a run's log gave. ``agrees`` is true as well where an interrupted run left nothing to compare with."""

    version: int
    digest: str
    expected: str | None
    agrees: bool

    @property
    def text(self) -> str:
        found = f"replayed {self.version:,} entries: digest {self.digest}"
        if self.expected is None:
            return f"{found}\nthe run did not end, so there is no digest to compare with; log and hash chain are sound"
        return f"{found}\n{'equal to' if self.agrees else 'DIFFERS from'} the digest the run ended with: {self.expected}"


def draw(run: Path, out: Path) -> None:
    """A picture of a finished run, or of a comparison. Raises ``SettingsError`` if ``run`` is neither, or ``out`` cannot be written."""
    from hosfl_async.report.pictures import draw_comparison, draw_run

    if (run / COMPARISON).is_file():
        draw_comparison(read_comparison(run / COMPARISON), out)
        return
    scenario_of(run)
    if not (run / SUMMARY).is_file():
        raise SettingsError(str(run), "the run did not end", expected=f"a folder with {SUMMARY}")
    draw_run(read_summary(run / SUMMARY), read_evaluations(run / METRICS), _staleness(run / TRACE), out)


def _staleness(trace: Path) -> Counter[int]:
    """How stale, in versions, how many admitted contributions were; nothing for a run without a journal."""
    records = read_trace(trace) if trace.is_file() else ()
    return Counter(int(each.values["staleness_versions"]) for each in records if each.kind == "admitted" and each.values)


def replay(run: Path) -> ReplayResult:
    """theta_c(0) from the seed, every entry of the log, the digest. Raises ``LogError`` if the log does not hold together."""
    scenario = scenario_of(run)
    if not (run / LOG).is_file():
        raise SettingsError(str(run / LOG), "there is no update log", expected="the log of a run")
    entries = LogStore.read(run / LOG).entries
    if problems := log_problems(entries):
        raise LogError(f"{run / LOG}: {problems[0]}")
    learner = Parts(scenario).aggregator_learner()
    digest = learner.run(Replay(entries, (len(entries),))).checkpoints[-1].digest.hex()
    expected = read_summary(run / SUMMARY).digest if (run / SUMMARY).is_file() else None
    return ReplayResult(len(entries), digest, expected, expected in (None, digest))
