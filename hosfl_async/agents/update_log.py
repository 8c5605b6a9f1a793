"""The append-only update log, seen from both ends: ``UpdateLog`` grows it, ``LogFollower`` stays in step with it.

theta_c(V) = theta_c(0) plus entries 1..V in order, so whoever has the same version has the same parameters. Entries are chained by
hash (``messages.chain_hash``): a follower that is handed a wrong, reordered or missing entry notices before it replays anything.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate, islice

from hosfl_async.errors import LogError
from hosfl_async.jobs import InstallSnapshot, Replay, Replayed
from hosfl_async.messages import EMPTY_CHAIN, CatchUp, Checkpoint, LogEntry, LogPage, Snapshot, Term, chain_hash


class UpdateLog:
    """The aggregator's end. Keeps the newest entries in memory; older ones are forgotten once a snapshot covers them."""

    def __init__(self) -> None:
        self.head = 0
        self.chain = EMPTY_CHAIN
        self.bytes = 0
        """Of the coefficients and gradients in the kept entries."""
        self._entries: deque[LogEntry] = deque()

    @property
    def oldest_base(self) -> int:
        """The lowest version from which the kept entries lead to the head."""
        return self.head - len(self._entries)

    def append(self, terms: tuple[Term, ...]) -> LogEntry:
        entry = LogEntry(self.head + 1, terms, chain_hash(self.chain, self.head + 1, terms))
        self._take(entry)
        return entry

    def restore(self, entry: LogEntry) -> None:
        """Take an entry that exists already (after a restart). Raises ``LogError`` if it does not follow."""
        check_follows(entry, self.head, self.chain)
        self._take(entry)

    def _take(self, entry: LogEntry) -> None:
        self.head, self.chain = entry.version, entry.chain
        self.bytes += entry_bytes(entry)
        self._entries.append(entry)

    def after(self, version: int, count_max: int, bytes_max: int | None = None) -> tuple[LogEntry, ...]:
        """Up to ``count_max`` entries following ``version``, oldest first, the first and as many more as ``bytes_max`` allows.

        Raises ``LogError`` if they are forgotten.
        """
        if version < self.oldest_base:
            raise LogError(f"entries after version {version} are forgotten; the oldest kept follows version {self.oldest_base}")
        skip = version - self.oldest_base
        entries = tuple(islice(self._entries, skip, skip + count_max))
        if bytes_max is None:
            return entries
        total = accumulate(map(entry_bytes, entries))
        return entries[: max(1, sum(size <= bytes_max for size in total))]

    def chain_at(self, version: int) -> bytes:
        """The chain value at ``version``, which must be the head or be followed by kept entries only."""
        if version == 0:
            return EMPTY_CHAIN
        return self.after(version - 1, 1)[0].chain

    def forget(self, *, keep_max: int, bytes_max: int, covered: int) -> None:
        """Drop the oldest entries beyond ``keep_max`` or ``bytes_max``, none but those below ``covered``, the latest snapshot's version."""
        while (len(self._entries) > keep_max or self.bytes > bytes_max) and self._entries[0].version < covered:
            self.bytes -= entry_bytes(self._entries.popleft())


def entry_bytes(entry: LogEntry) -> int:
    """What grows with the client half: four bytes for each coefficient and each number of a gradient."""
    return sum(len(term.coefficients) + len(term.gradient) for term in entry.terms)


def check_follows(entry: LogEntry, version: int, chain: bytes) -> None:
    """Raise ``LogError`` unless ``entry`` is number ``version + 1`` and continues ``chain``."""
    if entry.version != version + 1:
        raise LogError(f"entry {entry.version} offered after version {version}: expected entry {version + 1}")
    if chain_hash(chain, entry.version, entry.terms) != entry.chain:
        raise LogError(f"entry {entry.version} breaks the hash chain")


def digest_marks(version: int, last: int, every: int, final: int | None) -> tuple[int, ...]:
    """Versions in (version, last] whose digest everyone takes: the multiples of ``every``, and the final one if it is among them."""
    marks = set(range((version // every + 1) * every, last + 1, every))
    if final is not None and version < final <= last:
        marks.add(final)
    return tuple(sorted(marks))


class LogFollower:
    """A follower's end: what is replayed, what is ready to be replayed, and what the aggregator is known to have.

    The owner asks with ``request``, feeds answers to ``offer_page`` and ``offer_snapshot``, runs ``job`` when its learner is free
    and its step is over, and reports the outcome to ``replayed``. Nothing is ever replayed inside a step.
    """

    __slots__ = ("_chain", "_offered", "_pending", "checkpoint", "confirmed", "digest_every", "finished", "head", "version")

    def __init__(self, digest_every: int) -> None:
        self.version = 0
        """Version of the learner's parameters."""
        self.head = 0
        """Highest version heard of."""
        self.finished = False
        """True when the run is known to be over, and ``head`` with it."""
        self.confirmed = False
        """True when the aggregator has named the same digest at the final head."""
        self.checkpoint: Checkpoint | None = None
        self.digest_every = digest_every
        self._offered = 0
        self._chain = EMPTY_CHAIN
        self._pending: list[LogEntry] | Snapshot = []

    @property
    def offered(self) -> int:
        """Version that the replayed and the waiting entries lead to: what ``request`` asks from."""
        return self._offered

    @property
    def behind(self) -> bool:
        return self._offered < self.head

    def hear(self, head: int, finished: bool) -> None:
        """Note a head that some message carried. Never asks: the owner pulls when it begins its next step."""
        self.head = max(self.head, head)
        self.finished = self.finished or finished

    def request(self) -> CatchUp:
        return CatchUp(self._offered, self.checkpoint)

    def offer_page(self, page: LogPage) -> int:
        """Take what is new on the page; returns the number of entries taken (0 for a late or repeated page, or one beyond a gap).

        Raises ``LogError`` for a broken chain, a log that went backwards, or a digest that is not ours.
        """
        if page.head < self._offered == page.from_version:  # a late page asks about an older version, and is harmless
            raise LogError(f"the log went backwards: its head is {page.head}, and version {self._offered} was served before")
        self.hear(page.head, page.finished)
        if page.from_version > self._offered:
            return 0  # a gap: the answer to an earlier life of this follower; what lacks is asked for
        self._confirm(page)
        fresh = [entry for entry in page.entries if entry.version > self._offered]
        if not fresh:
            return 0
        if not isinstance(self._pending, list):
            return 0  # a snapshot waits to be installed; the tail is asked for afterwards
        for entry in fresh:
            check_follows(entry, self._offered, self._chain)
            self._offered, self._chain = entry.version, entry.chain
            self._pending.append(entry)
        return len(fresh)

    def _confirm(self, page: LogPage) -> None:
        mine = self.checkpoint
        if page.digest is None or mine is None or mine.version != page.from_version:
            return
        if page.digest != mine.digest:
            raise LogError(f"the parameters at version {mine.version} differ from the aggregator's")
        if page.finished and page.head == mine.version:
            self.confirmed = True

    def offer_snapshot(self, snapshot: Snapshot) -> bool:
        """Take a snapshot that is ahead of everything offered so far; it replaces entries that wait. False for a late one."""
        self.hear(snapshot.head, snapshot.finished)
        if snapshot.version <= self._offered:
            return False
        self._pending, self._offered, self._chain = snapshot, snapshot.version, snapshot.chain
        return True

    def job(self) -> Replay | InstallSnapshot | None:
        """The next job that brings the learner forward, or that digests the final parameters; ``None`` if there is none."""
        waiting = self._pending
        if not isinstance(waiting, list):
            return InstallSnapshot(waiting.version, waiting.parameters, waiting.digest)
        if waiting:
            final = self.head if self.finished else None
            return Replay(tuple(waiting), digest_marks(self.version, waiting[-1].version, self.digest_every, final))
        if self.finished and not self.behind and (self.checkpoint is None or self.checkpoint.version != self.version):
            return Replay((), (self.version,))
        return None

    def replayed(self, result: Replayed) -> None:
        """The job is done: the learner is at ``result.version``. Entries offered meanwhile stay."""
        self.version = result.version
        if isinstance(self._pending, Snapshot):
            if self._pending.version <= result.version:
                self._pending = []
        else:
            self._pending = [entry for entry in self._pending if entry.version > result.version]
        if result.checkpoints:
            self.checkpoint = result.checkpoints[-1]

    def validate(self) -> None:
        """Raise ``LogError`` if what is replayed, offered and known does not line up."""
        waiting = self._pending
        ready = waiting.version if isinstance(waiting, Snapshot) else self.version + len(waiting)
        if not (ready == self._offered <= self.head and self.version <= self._offered):
            raise LogError(f"follower at {self.version}, ready for {ready}, offered {self._offered}, head {self.head}")
