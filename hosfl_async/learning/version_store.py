"""Versions of the client half: who holds which, and one copy of the parameters for each version that somebody holds.

The client half at version V is a pure function of theta(0) and log entries 1..V. So learners that stand at the same version can share
one read-only vector, and a version that one of them has computed need not be computed again. In the simulator all learners share a
store: memory is that of the *live versions*, and a client is little more than a reference. A live agent has a store of its own, and
really replays every entry by itself.

A version is theta and the moments that the log's update rule remembers; both lie in one vector, its *state* (see ``update_rule``).

A version is counted by its holders. Who moves on leaves it; the last one to leave a version takes its vector along and replays in
place, so that a private store never needs a second copy.

Entries are checked before anything is touched: contiguous, canonical, and for a version that is already here, the very same entry
(by its hash chain), lest sharing hide a split brain that separate copies would show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from hosfl_async.errors import LearnerError
from hosfl_async.learning.directions import new_perturber
from hosfl_async.learning.perturbation import Vector, aligned_vector
from hosfl_async.learning.settings import DEFAULT_UPDATE, DEFAULT_ZEROTH_ORDER, ZerothOrderSettings
from hosfl_async.learning.split_model import Half, Views
from hosfl_async.learning.update_rule import UpdateRule
from hosfl_async.messages import EMPTY_CHAIN, Checkpoint, LogEntry, Term


def parameter_digest(state: Vector) -> bytes:
    """BLAKE2b-256 of the little-endian bytes of the parameters, and of the moments behind them."""
    return blake2b(state.astype("<f4", copy=False).data, digest_size=32).digest()


class Version:
    """The client half at one version: a read-only state, the parameters at its beginning, and the tensors that view them."""

    __slots__ = ("chain", "holders", "number", "state", "theta", "views")

    def __init__(self, number: int, state: Vector, parameters: int, views: Views, chain: bytes | None) -> None:
        state.flags.writeable = False
        self.number = number
        self.state = state
        self.theta = state[:parameters]
        self.views = views
        self.chain = chain
        """Hash chain up to this version; unknown after a snapshot."""
        self.holders = 0


class VersionStore:
    """The live versions of one client half. ``replayed_entries`` counts entries that were really computed."""

    def __init__(
        self,
        half: Half,
        initial: Callable[[], Vector],
        run_key: bytes,
        settings: ZerothOrderSettings = DEFAULT_ZEROTH_ORDER,
        rule: UpdateRule | None = None,
    ) -> None:
        """``initial`` makes theta(0) anew whenever version 0 is wanted and not here. ``rule``: plain SGD unless given."""
        self._half = half
        self._initial = initial
        self._run_key = run_key
        self._shared = settings.directions == "per_version"
        self._perturber = new_perturber(half, settings)
        self.rule = rule or UpdateRule(DEFAULT_UPDATE, half.size, 1.0)
        self._live: dict[int, Version] = {}
        self._digests: dict[tuple[int, bytes | None], bytes] = {}
        self._digests_kept_max = settings.digests_kept_max
        self.replayed_entries = 0
        self.digests_dropped = 0

    @property
    def parameters(self) -> int:
        """d: the length of theta."""
        return self._half.size

    @property
    def live_versions(self) -> tuple[int, ...]:
        """Versions that somebody holds: as many as there are copies of the parameters."""
        return tuple(sorted(self._live))

    def hold_initial(self) -> Version:
        """Hold version 0."""
        return self._hold(self._live.get(0) or self._enter(0, self.rule.initial(self._initial()), EMPTY_CHAIN))

    def release(self, held: Version) -> None:
        """Let go of a version; with its last holder it disappears."""
        held.holders -= 1
        if not held.holders:
            del self._live[held.number]

    def digest(self, held: Version) -> bytes:
        """Digest of a held version, computed once for all holders."""
        name = (held.number, held.chain)
        digest = self._digests.get(name)
        if digest is None:
            digest = self._digests[name] = parameter_digest(held.state)
            if len(self._digests) > self._digests_kept_max:
                del self._digests[next(iter(self._digests))]
                self.digests_dropped += 1
        return digest

    def initial_digest(self) -> bytes:
        """Digest of theta(0)."""
        known = self._digests.get((0, EMPTY_CHAIN))
        if known is not None:
            return known
        held = self.hold_initial()
        try:
            return self.digest(held)
        finally:
            self.release(held)

    def advance(self, held: Version, entries: Sequence[LogEntry], digest_at: Sequence[int] = ()) -> tuple[Version, tuple[Checkpoint, ...]]:
        """Move one holder of ``held`` on by ``entries``; digest the versions in ``digest_at`` on the way, perhaps ``held`` itself first.

        Raises ``LearnerError``, changing nothing, if the entries do not follow ``held`` in order, are not well formed, or differ from
        the entries by which a shared version was made.
        """
        self._check(held, entries, digest_at)
        start = held.number
        digests: dict[int, bytes] = {}
        for number in digest_at:
            known = self.digest(held) if number == start else self._digests.get((number, entries[number - start - 1].chain))
            if known is None:
                held = self._move(held, entries[held.number - start : number - start])
                known = self.digest(held)
            digests[number] = known
        held = self._move(held, entries[held.number - start :])
        return held, tuple(Checkpoint(version=number, digest=digest) for number, digest in digests.items())

    def install(self, held: Version, number: int, state: Vector) -> Version:
        """Leave ``held`` for a snapshot's state; a version that is already here must be equal to it."""
        here = self._live.get(number)
        if here and not np.array_equal(here.state.view(np.uint32), state.view(np.uint32)):
            raise LearnerError(f"the snapshot of version {number} differs from the parameters replayed here")
        self.release(held)
        return self._hold(self._live.get(number) or self._enter(number, self._copy(state), None))

    def _move(self, held: Version, entries: Sequence[LogEntry]) -> Version:
        """Move one holder on: to a version that is here already, or by replaying what is missing from the nearest one."""
        nearest, rest = held, entries
        for position, entry in enumerate(entries, start=1):
            if entry.version in self._live:
                nearest, rest = self._live[entry.version], entries[position:]
        self._hold(nearest)
        self.release(held)
        if not rest:
            return nearest
        alone = nearest.holders == 1
        state = nearest.state if alone else self._copy(nearest.state)
        self.release(nearest)
        state.flags.writeable = True
        self.rule.replay(state, rest, self._run_key, self._perturber, shared=self._shared)
        self.replayed_entries += len(rest)
        return self._hold(self._enter(rest[-1].version, state, rest[-1].chain, nearest.views if alone else None))

    def _check(self, held: Version, entries: Sequence[LogEntry], digest_at: Sequence[int]) -> None:
        numbers = [entry.version for entry in entries]
        if numbers != list(range(held.number + 1, held.number + 1 + len(entries))):
            raise LearnerError(f"entries {numbers[:1]}..{numbers[-1:]} do not follow version {held.number} one by one")
        if any(number not in (held.number, *numbers) for number in digest_at) or list(digest_at) != sorted(set(digest_at)):
            raise LearnerError(f"digests asked for at {tuple(digest_at)}, which are not, in order, version {held.number} or these entries'")
        for entry in entries:
            if any(before.step >= after.step for before, after in pairwise(entry.terms)):
                raise LearnerError(f"the terms of entry {entry.version} are not in canonical order")
            if any(not _finite(term.coefficients) for term in entry.terms):
                raise LearnerError(f"entry {entry.version} holds coefficients that are not finite float32")
            if any(term.gradient and not self._is_gradient(term) for term in entry.terms):
                raise LearnerError(f"entry {entry.version} holds a gradient that is not {self._half.size} finite float32, and nothing else")
            here = self._live.get(entry.version)
            if here and here.chain not in (None, entry.chain):
                raise LearnerError(f"entry {entry.version} is not the entry that was replayed here: the log has split")

    def _is_gradient(self, term: Term) -> bool:
        return not term.coefficients and len(term.gradient) == 4 * self._half.size and _finite(term.gradient)

    def _copy(self, state: Vector) -> Vector:
        copy = aligned_vector(state.size)
        copy[:] = state
        return copy

    def _enter(self, number: int, state: Vector, chain: bytes | None, views: Views | None = None) -> Version:
        version = Version(number, state, self._half.size, views or self._half.views(state[: self._half.size]), chain)
        self._live[number] = version
        return version

    def _hold(self, version: Version) -> Version:
        version.holders += 1
        return version


def _finite(packed: bytes) -> bool:
    return len(packed) % 4 == 0 and bool(np.isfinite(np.frombuffer(packed, "<f4")).all())
