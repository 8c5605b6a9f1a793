"""What catching up costs here: log pages or the whole client half, by this device's own measures.

A device that was away asks for what it lacks. Entry by entry that is bytes of terms and an addition of P directions for each; whole it is
``4 d`` bytes and one digest. Which is cheaper depends on the device and its link, and nobody but the device knows those: it measures, in
the agent's own time, how long its questions took to be answered and how long its jobs took, and says what it would rather have
(``CatchUp.prefers_snapshot``). The parameters are the same bits either way.

Every measure is an exponential mean (half of it is the latest value), so an hour of bad radio is forgotten soon.
"""

from __future__ import annotations

TERM_BYTES = 48
"""What a term takes on the wire beside its coefficients: names and numbers of its step."""


class CatchUpCost:
    """Times in seconds of the agent's clock. Until a page was answered and replayed, nothing is known and nothing preferred."""

    __slots__ = ("_byte_s", "_entries_a_page", "_entry_bytes", "_entry_replay_s", "_install_s", "_turn_s")

    def __init__(self) -> None:
        self._turn_s: float | None = None
        """The shortest question and answer: what is not the fault of the answer's size."""
        self._byte_s = 0.0
        self._entry_bytes: float | None = None
        self._entries_a_page = 1
        self._entry_replay_s: float | None = None
        self._install_s: float | None = None

    def answered(self, took_s: float, payload_bytes: int, entries: int) -> None:
        """A page (``entries`` > 0) or a snapshot (0) came so long after the question."""
        turn_s = self._turn_s = took_s if self._turn_s is None else min(took_s, self._turn_s)
        self._byte_s = _mean(self._byte_s or None, (took_s - turn_s) / max(payload_bytes, 1))
        if entries:
            self._entry_bytes = _mean(self._entry_bytes, payload_bytes / entries)
            self._entries_a_page = max(self._entries_a_page, entries)

    def replayed(self, took_s: float, entries: int) -> None:
        """So many entries were applied."""
        if entries:
            self._entry_replay_s = _mean(self._entry_replay_s, took_s / entries)

    def installed(self, took_s: float) -> None:
        """A snapshot was installed."""
        self._install_s = _mean(self._install_s, took_s)

    def prefers_snapshot(self, entries_behind: int, parameters: int) -> bool:
        """Whether the whole client half of so many float32 parameters would be here sooner than the entries.

        Installing was perhaps never measured; then it is taken to cost as much as one entry.
        """
        if self._turn_s is None or self._entry_bytes is None or self._entry_replay_s is None or not parameters:
            return False
        pages = -(-entries_behind // self._entries_a_page)
        by_pages_s = pages * self._turn_s + entries_behind * (self._entry_bytes * self._byte_s + self._entry_replay_s)
        installing_s = self._entry_replay_s if self._install_s is None else self._install_s
        return self._turn_s + 4 * parameters * self._byte_s + installing_s < by_pages_s


def _mean(before: float | None, latest: float) -> float:
    return latest if before is None else (before + latest) / 2
