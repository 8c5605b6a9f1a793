"""The nemesis: who goes away when, for how long, and with memory or without. A plan, drawn from the seed.

The time a device stays and the time it is away are exponential, drawn by (seed, device, number of the absence): what happens in the
run, or to others, has no part in it. Its habits (``habits``) take it away too, whichever comes first. Within a step it drops out by
chance, drawn by (seed, device, number of the job). Outages that a scenario names (``settings.Outage``) need no drawing and strike
services too.
"""

from __future__ import annotations

from math import inf
from typing import Any

from hosfl_async import jobs
from hosfl_async.simulation.draws import exponential, stream_key, uniform
from hosfl_async.simulation.habits import Habits
from hosfl_async.simulation.settings import DropoutSettings, FleetGroup, Outage

_STAYS, _AWAY, _DRAWS = range(3)
_STRIKES, _WHEN, _HOW_LONG, _STEP_DRAWS = range(4)


class Nemesis:
    """Draws each device's next absence, one at a time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.habits = Habits(seed)

    def next_absence(self, agent: str, group: FleetGroup, number: int, now_s: float) -> Outage | None:
        """Absence ``number`` (0, 1, ...) of a device that is present at ``now_s``: dropping out or habit, whichever comes first."""
        dropout = self.next_dropout(agent, group.dropout, number, now_s)
        rule = group.availability
        away = self.habits.next_absence(agent, rule, number, now_s) if rule.rule != "always" else None
        if away is None or away[0] == inf or (dropout is not None and dropout.at_s < away[0]):
            return dropout
        at_s = max(now_s, away[0])
        return Outage(agent=agent, at_s=at_s, absence_s=away[1] - at_s, kind=rule.kind)

    def step_dropout(self, agent: str, dropout: DropoutSettings, job: Any, number: int, begins_s: float, lasts_s: float) -> Outage | None:
        """Whether the device drops out at the begin of a step or in its middle; ``number`` counts the device's jobs."""
        strikes: dict[type, float] = {jobs.Forward: dropout.per_step, jobs.Probe: dropout.mid_step}
        probability = strikes.get(type(job), 0.0)
        if not probability:
            return None
        key, draw = stream_key(self._seed, "step", agent), number * _STEP_DRAWS
        if uniform(key, draw + _STRIKES) >= probability:
            return None
        after_s = lasts_s * uniform(key, draw + _WHEN) if type(job) is jobs.Probe else 0.0
        absence_s = exponential(key, draw + _HOW_LONG, dropout.mean_absence_s)
        return Outage(agent=agent, at_s=begins_s + after_s, absence_s=absence_s, kind=dropout.kind)

    def next_dropout(self, agent: str, dropout: DropoutSettings, number: int, now_s: float) -> Outage | None:
        """Absence ``number`` (0, 1, ...) of a device that is present at ``now_s``; None if this device never drops out."""
        if not dropout.mean_time_between_s:
            return None
        key = stream_key(self._seed, "dropout", agent)
        return Outage(
            agent=agent,
            at_s=now_s + exponential(key, number * _DRAWS + _STAYS, dropout.mean_time_between_s),
            absence_s=exponential(key, number * _DRAWS + _AWAY, dropout.mean_absence_s),
            kind=dropout.kind,
        )
