"""The nemesis: who goes away when, for how long, and with memory or without. A plan, drawn from the seed or written down.

Planned outages strike any agent, services included. Drawn ones strike devices: the time a device stays and the time it is away
are exponential, drawn by (seed, device, number of the absence), so a plan does not depend on anything that happens in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from hosfl_async.simulation.draws import exponential, stream_key
from hosfl_async.simulation.settings import DropoutSettings, Outage

_STAYS, _AWAY, _DRAWS = range(3)


class Nemesis:
    """``planned`` outages are known at the start; ``next_dropout`` draws a device's next one when it has returned."""

    def __init__(self, seed: int, planned: Sequence[Outage] = ()) -> None:
        self.planned = tuple(planned)
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
