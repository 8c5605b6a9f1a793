"""The aggregator's own copy of the client half: replayed behind the log, for digests to compare and snapshots to hand out.

It takes part in no decision about contributions. It lags behind the head by as much as the learner needs, and says so.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from msgspec import structs

from hosfl_async.agents.settings import AggregatorSettings
from hosfl_async.agents.update_log import UpdateLog, digest_marks, entry_bytes
from hosfl_async.jobs import Replay, Replayed, SnapshotTaken, TakeSnapshot
from hosfl_async.messages import Snapshot


class OwnHalf:
    """What the aggregator's learner has replayed so far, and what is known about it."""

    def __init__(self, settings: AggregatorSettings, log: UpdateLog) -> None:
        self.version = 0
        self.snapshot: Snapshot | None = None
        """The latest; its head and finished are those of when it was sent last."""
        self._settings = settings
        self._log = log
        self._replaying, self._since_snapshot = 0, 0
        """Bytes of the entries that the learner replays now, and of those replayed since the latest snapshot."""
        self._digests: OrderedDict[int, bytes] = OrderedDict()

    def digest(self, version: int) -> bytes | None:
        """Our digest at ``version``, if it was taken and is still remembered."""
        return self._digests.get(version)

    def note_digest(self, version: int, digest: bytes) -> None:
        self._digests[version] = digest
        if len(self._digests) > self._settings.digests_kept_max:
            self._digests.popitem(last=False)

    def snapshot_now(self, head: int, *, over: bool) -> Snapshot | None:
        """The latest, for a log at ``head``: the same object as long as that is the same, so that hosts need not look through it again."""
        snapshot = self.snapshot
        if snapshot is not None and (snapshot.head != head or snapshot.finished != over):
            self.snapshot = snapshot = structs.replace(snapshot, head=head, finished=over)
        return snapshot

    @property
    def snapshot_version(self) -> int:
        return self.snapshot.version if self.snapshot else 0

    def next_job(self, *, over: bool) -> Replay | TakeSnapshot | None:
        """A snapshot if one is due (first, or a busy log would never let it come, and never be forgotten); else replay what lacks;
        else, when the run is over, the digest of the end."""
        head, settings = self._log.head, self._settings
        final = head if over else None
        many = self.version - self.snapshot_version >= settings.snapshot_every_versions
        if many or self._since_snapshot >= settings.entries_bytes_max / 2:
            return TakeSnapshot()
        if self.version < head:
            entries = self._log.after(self.version, settings.page_entries_max)
            self._replaying = sum(map(entry_bytes, entries))
            marks = digest_marks(self.version, entries[-1].version, settings.digest_every_versions, final)
            return Replay(entries, marks)
        if over and head not in self._digests:
            return Replay((), (head,))
        return None

    def done(self, result: Any) -> None:
        match result:
            case Replayed(version, checkpoints):
                self.version = version
                self._since_snapshot, self._replaying = self._since_snapshot + self._replaying, 0
                for checkpoint in checkpoints:
                    self.note_digest(checkpoint.version, checkpoint.digest)
            case SnapshotTaken(version, parameters, digest):
                self._since_snapshot = 0
                self.snapshot = Snapshot(version, parameters, digest, self._log.chain_at(version), version)
        settings = self._settings
        self._log.forget(keep_max=settings.entries_kept_max, bytes_max=settings.entries_bytes_max, covered=self.snapshot_version)
