"""How much one sender may send: a token bucket each, and a quarantine that doubles for whoever overdraws it.

A frame costs one token; one that is refused costs ``refused_frame_cost`` more, so a broken or hostile device is shut out long before an
honest one that is merely fast. In quarantine everything from that sender is dropped unread. Each further quarantine is twice as long,
up to ``quarantine_max_s``; whoever keeps the limit for that long afterwards begins anew. What is dropped here is lost as on a network, and
whoever needs an answer asks again: so the limit costs its breaker time and nobody else anything.
"""

from __future__ import annotations

from collections import OrderedDict

from hosfl_async.live.settings import LiveSettings


class _Sender:
    __slots__ = ("quarantines", "seen_s", "tokens", "until_s")

    def __init__(self, tokens: float, now_s: float) -> None:
        self.tokens, self.seen_s, self.until_s, self.quarantines = tokens, now_s, 0.0, 0


class Gate:
    """Wall-clock seconds come as arguments. With ``frames_per_s_max`` 0 everybody passes and nothing is remembered."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self.quarantines = 0
        """How often anybody was put into one."""

    def __len__(self) -> int:
        return len(self._senders)

    def admits(self, sender: str, now_s: float) -> bool:
        """Whether this frame may be read; it is paid for."""
        if not self._settings.frames_per_s_max:
            return True
        known = self._known(sender, now_s)
        if now_s < known.until_s:
            return False
        return self._pay(known, 1.0, now_s)

    def blame(self, sender: str, now_s: float) -> None:
        """The frame just admitted had to be refused."""
        if self._settings.frames_per_s_max:
            self._pay(self._known(sender, now_s), self._settings.refused_frame_cost, now_s)

    def _known(self, sender: str, now_s: float) -> _Sender:
        settings = self._settings
        known = self._senders.pop(sender, None) or _Sender(settings.frames_burst, now_s)
        self._senders[sender] = known
        if len(self._senders) > settings.senders_known_max:
            self._senders.popitem(last=False)
        known.tokens = min(float(settings.frames_burst), known.tokens + max(0.0, now_s - known.seen_s) * settings.frames_per_s_max)
        known.seen_s = max(known.seen_s, now_s)
        if known.quarantines and now_s - known.until_s >= settings.quarantine_max_s:
            known.quarantines = 0
        return known

    def _pay(self, known: _Sender, cost: float, now_s: float) -> bool:
        if known.tokens >= cost:
            known.tokens -= cost
            return True
        settings = self._settings
        known.until_s = now_s + min(settings.quarantine_max_s, settings.quarantine_first_s * 2.0 ** min(known.quarantines, 60))
        known.quarantines += 1
        known.tokens = float(settings.frames_burst)
        self.quarantines += 1
        return False
