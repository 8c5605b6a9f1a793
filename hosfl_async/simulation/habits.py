"""Habits: when a device is there at all. It joins, comes and goes by a rule, and may leave for ever.

==========  =====================================================================================================================
rule        a device is there
==========  =====================================================================================================================
always      from its joining on
duty_cycle  for ``share`` of every ``period_s``, each device with a phase of its own
markov      for an exponential time, then away for one, and so on
diurnal     in the hours of the day's curve that lie above a number drawn for (device, day): a curve of 0.2 at night keeps one in five
trace       in the intervals of one device of a file, drawn for it; after the last one it has left
==========  =====================================================================================================================

Everything is drawn by (seed, device, day or number of the absence), so nobody's habits depend on what happens in the run. A device
that is away has one entry on the timeline, its return, and costs no event.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path

from hosfl_async.errors import SettingsError
from hosfl_async.simulation.draws import exponential, stream_key, uniform
from hosfl_async.simulation.settings import AvailabilitySettings, FleetGroup

TRACE_BYTES_MAX = 64 * 2**20
"""A longer trace file is refused."""

HOURS = 24
_DAYS_AHEAD = 30
"""A device that is there so long without a break counts as there for ever."""

_SLACK_S = 1e-6
_STAYS, _AWAY, _DRAWS = range(3)
Interval = tuple[float, float]


class Habits:
    """When each device joins, is away next, and leaves; times in modelled seconds."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def joins_at_s(self, device: str, group: FleetGroup) -> float:
        """The first moment at which it is there."""
        mean_s = group.availability.joins_after_mean_s
        joins_s = exponential(stream_key(self._seed, "joins", device), 0, mean_s) if mean_s else 0.0
        away = self.next_absence(device, group.availability, 0, joins_s) if group.availability.rule != "markov" else None
        return away[1] if away is not None and away[0] <= joins_s else joins_s

    def leaves_at_s(self, device: str, group: FleetGroup, joined_s: float) -> float:
        """When it leaves for ever; infinite if it stays."""
        mean_s = group.availability.leaves_after_mean_s
        return joined_s + exponential(stream_key(self._seed, "leaves", device), 0, mean_s) if mean_s else inf

    def next_absence(self, device: str, rule: AvailabilitySettings, number: int, now_s: float) -> Interval | None:
        """Begin and end of the first absence that ends after ``now_s``; None if there is none. ``number`` counts absences (markov).

        An absence that ends within a microsecond is over: sums of times are not exact.
        """
        now_s += _SLACK_S
        match rule.rule:
            case "duty_cycle":
                return self._off_duty(device, rule, now_s)
            case "markov":
                key = stream_key(self._seed, "habit", device)
                begin_s = now_s + exponential(key, number * _DRAWS + _STAYS, rule.mean_on_s)
                return begin_s, begin_s + exponential(key, number * _DRAWS + _AWAY, rule.mean_off_s)
            case "diurnal":
                return self._asleep(device, rule, now_s)
            case "trace":
                return self._off_trace(device, rule, now_s)
        return None

    def _off_duty(self, device: str, rule: AvailabilitySettings, now_s: float) -> Interval | None:
        off_s = (1 - rule.share) * rule.period_s
        if off_s <= _SLACK_S:
            return None
        phase_s = uniform(stream_key(self._seed, "habit", device), 0) * rule.period_s
        end_s = phase_s + ((now_s - phase_s) // rule.period_s + 1) * rule.period_s
        return end_s - off_s, end_s

    def _asleep(self, device: str, rule: AvailabilitySettings, now_s: float) -> Interval | None:
        key, hour_s = stream_key(self._seed, "habit", device), rule.day_s / HOURS
        first = int(now_s / hour_s)

        def awake(hour: int) -> bool:
            return rule.curve[hour % HOURS] > uniform(key, hour // HOURS)

        horizon = first + HOURS * _DAYS_AHEAD
        begin = first
        while begin < horizon and awake(begin):
            begin += 1
        if begin == horizon:
            return None
        end = begin
        while end < horizon and not awake(end):
            end += 1
        end_s = end * hour_s if end < horizon else inf
        return begin * hour_s, end_s

    def _off_trace(self, device: str, rule: AvailabilitySettings, now_s: float) -> Interval | None:
        devices = read_trace_file(rule.trace)
        there = devices[int(uniform(stream_key(self._seed, "habit", device), 0) * len(devices))]
        gaps = [(0.0, there[0][0]), *((early[1], late[0]) for early, late in pairwise(there)), (there[-1][1], inf)]
        return next((gap for gap in gaps if gap[1] > now_s and gap[1] > gap[0]), None)


@cache
def read_trace_file(path: str) -> tuple[tuple[Interval, ...], ...]:
    """The devices of a trace, each with the intervals in which it is there, in order. Raises ``SettingsError``.

    The file is text: one interval a line, ``device,begin_s,end_s``; lines that begin with ``#`` and a header are skipped.
    """
    file = Path(path)
    try:
        if file.stat().st_size > TRACE_BYTES_MAX:
            raise SettingsError(path, "too large for a trace of availability", expected=f"at most {TRACE_BYTES_MAX} bytes")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SettingsError(path, f"the trace of availability cannot be read: {error}") from None
    devices: dict[str, list[Interval]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith(("#", "device,")):
            device, interval = _interval(f"{path}:{number}", line)
            devices.setdefault(device, []).append(interval)
    if not devices:
        raise SettingsError(path, "a trace of availability without intervals", expected="lines of device,begin_s,end_s")
    for device, intervals in devices.items():
        intervals.sort()
        if any(late[0] < early[1] for early, late in pairwise(intervals)):
            raise SettingsError(path, f"two intervals of {device} overlap")
    return tuple(tuple(intervals) for intervals in devices.values())


def _interval(where: str, line: str) -> tuple[str, Interval]:
    device, *numbers = line.split(",")
    try:
        begin_s, end_s = map(float, numbers)
    except ValueError:
        raise SettingsError(where, "not an interval", expected="device,begin_s,end_s", found=line[:60]) from None
    if not 0 <= begin_s < end_s or not isfinite(end_s):
        raise SettingsError(where, "not an interval", expected="0 <= begin_s < end_s, both finite", found=line[:60])
    return device.strip(), (begin_s, end_s)
