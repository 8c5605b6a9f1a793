"""Clocks of agents that do not run with the world's: fast, slow, or ahead. They never run backwards (docs/hosts.md, duty 7).

A skewed clock changes what ``now`` says and how long a timer really takes: at rate 2 it fires after half the time. A timer keeps the pace
at which it was set. When the skew is over the clock runs at the right pace again, and stays ahead or behind by what it has gathered.
"""

from __future__ import annotations

from typing import Any


class Clock:
    """One agent's clock: what it shows, and how fast it runs."""

    __slots__ = ("_set_at_s", "_shown_s", "rate")

    def __init__(self) -> None:
        self.rate = 1.0
        self._set_at_s = self._shown_s = 0.0

    def shows_s(self, now_s: float) -> float:
        """Its reading at the world's ``now_s``."""
        return self._shown_s + (now_s - self._set_at_s) * self.rate

    def set(self, now_s: float, *, rate: float, ahead_s: float = 0.0) -> None:
        """From ``now_s`` on it runs at ``rate``, after a leap of ``ahead_s``."""
        self._shown_s, self._set_at_s, self.rate = self.shows_s(now_s) + ahead_s, now_s, rate


class Clocks:
    """The clocks that were ever skewed, by agent; everybody else's is right. Of skews that overlap the latest sets the pace."""

    __slots__ = ("_clocks", "_skews")

    def __init__(self) -> None:
        self._clocks: dict[str, Clock] = {}
        self._skews: dict[str, list[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._clocks)

    def shows_s(self, agent: str, now_s: float) -> float:
        """What the clock of ``agent`` shows at the world's ``now_s``."""
        clock = self._clocks.get(agent)
        return now_s if clock is None else clock.shows_s(now_s)

    def really_s(self, agent: str, delay_s: float) -> float:
        """How long ``delay_s`` of the agent's own time takes."""
        clock = self._clocks.get(agent)
        return delay_s if clock is None else delay_s / clock.rate

    def begin(self, strike: Any) -> None:
        """A ``faults.Strike`` of kind clock_skew begins."""
        for name in strike.members:
            self._skews.setdefault(name, []).append(strike)
            self._clocks.setdefault(name, Clock()).set(strike.begins_s, rate=strike.fault.clock_rate, ahead_s=strike.fault.clock_ahead_s)

    def end(self, strike: Any) -> None:
        """It is over: the skew before it sets the pace again, or none."""
        for name in strike.members:
            skews = self._skews[name]
            skews.remove(strike)
            self._clocks[name].set(strike.ends_s, rate=skews[-1].fault.clock_rate if skews else 1.0)
