"""The nemesis: who goes away when, for how long, and with memory or without. A plan, drawn from the seed.

The time a device stays and the time it is away are exponential, drawn by (seed, device, number of the absence): what happens in the
run, or to others, has no part in it. Outages that a scenario names (``settings.Outage``) need no drawing and strike services too.
"""

from __future__ import annotations

from hosfl_async.simulation.draws import exponential, stream_key
from hosfl_async.simulation.settings import DropoutSettings, Outage

_STAYS, _AWAY, _DRAWS = range(3)


class Nemesis:
    """Draws each device's next absence, one at a time."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

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
