"""Shared versions against private ones, bit for bit, under whatever order hypothesis can think of."""

from __future__ import annotations

from struct import pack

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from learning_cases import run_of_entries

from hosfl_async.errors import LearnerError
from hosfl_async.learning.golden import golden_start
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import Vector, aligned_vector
from hosfl_async.learning.settings import ModelSettings, ZerothOrderSettings
from hosfl_async.learning.version_store import Version, VersionStore, parameter_digest
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import LogEntry, StepId

RUN = b"0123456789abcdef"
HALF = build_model(ModelSettings(client_widths=(3,)), (1, 4, 4), 4).client
LOG = run_of_entries([[(StepId("a", 1, n), pack("<2f", 0.1 * n, -0.3)), (StepId("b", 1, n), pack("<f", 1 / n))] for n in range(1, 13)])


def start() -> Vector:
    vector = aligned_vector(HALF.size)
    vector[:] = golden_start(HALF.size)
    return vector


def truth(version: int) -> Vector:
    theta = start()
    replay(theta, LOG[:version], RUN, LowRankPerturber(HALF.shapes, ZerothOrderSettings().rank))
    return theta


TRUTH = [truth(version) for version in range(len(LOG) + 1)]
DIGESTS = [parameter_digest(theta) for theta in TRUTH]


def store(digests_kept_max: int = 64) -> VersionStore:
    return VersionStore(HALF, start, RUN, ZerothOrderSettings(digests_kept_max=digests_kept_max))


class Holders(RuleBasedStateMachine):
    """Learners that come, move, jump and go in one shared store. The truth is a plain replay from the start."""

    @initialize(digests_kept_max=st.integers(1, 3))
    def open(self, digests_kept_max: int) -> None:
        self.store = store(digests_kept_max)
        self.held: list[Version] = []

    @rule()
    def come(self) -> None:
        self.held.append(self.store.hold_initial())

    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        if not self.held:
            return
        who = data.draw(st.integers(0, len(self.held) - 1))
        begin = self.held[who].number
        end = data.draw(st.integers(begin, len(LOG)))
        digest_at = data.draw(st.lists(st.integers(begin + 1, end), unique=True).map(sorted)) if end > begin else []
        self.held[who], checkpoints = self.store.advance(self.held[who], LOG[begin:end], digest_at)
        assert self.held[who].number == end
        assert [(c.version, c.digest) for c in checkpoints] == [(v, DIGESTS[v]) for v in digest_at]

    @rule(data=st.data(), version=st.integers(0, len(LOG)))
    def jump(self, data: st.DataObject, version: int) -> None:
        if not self.held:
            return
        who = data.draw(st.integers(0, len(self.held) - 1))
        self.held[who] = self.store.install(self.held[who], version, TRUTH[version])

    @rule(data=st.data())
    def digest(self, data: st.DataObject) -> None:
        if self.held:
            held = data.draw(st.sampled_from(self.held))
            assert self.store.digest(held) == DIGESTS[held.number]

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.held:
            self.store.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def everybody_holds_the_truth_and_copies_are_live_versions(self) -> None:
        if not hasattr(self, "store"):
            return
        for held in self.held:
            assert held.theta.tobytes() == TRUTH[held.number].tobytes()
            assert not held.theta.flags.writeable
            assert b"".join(view.numpy().tobytes() for view in held.views) == TRUTH[held.number].tobytes()
        numbers = {held.number for held in self.held}
        assert self.store.live_versions == tuple(sorted(numbers))
        assert len({held.theta.ctypes.data for held in self.held}) == len(numbers)


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_version_is_computed_once_for_all() -> None:
    shared = store()
    held = [shared.hold_initial() for _ in range(50)]
    for version in range(0, 12, 3):
        held = [shared.advance(one, LOG[version : version + 3], (version + 3,))[0] for one in held]
        assert shared.live_versions == (version + 3,)
    assert shared.replayed_entries == 12


def test_a_lone_holder_replays_in_place() -> None:
    private = store()
    held = private.hold_initial()
    where = held.theta.ctypes.data
    held, _ = private.advance(held, LOG[:5])
    assert held.theta.ctypes.data == where and held.theta.tobytes() == TRUTH[5].tobytes()
    assert private.replayed_entries == 5


def changed(entry: LogEntry, **fields: object) -> LogEntry:
    return LogEntry(**{name: fields.get(name, getattr(entry, name)) for name in ("version", "terms", "chain")})


@pytest.mark.parametrize(
    ("entries", "digest_at", "text"),
    [
        (LOG[1:3], (), "do not follow"),
        ((LOG[0], LOG[2]), (), "do not follow"),
        ((LOG[0], LOG[0]), (), "do not follow"),
        (LOG[:2], (3,), "digests asked"),
        (LOG[:2], (2, 1), "digests asked"),
        ((changed(LOG[0], terms=LOG[0].terms[::-1]),), (), "canonical order"),
        ((changed(LOG[0], terms=LOG[0].terms[:1] * 2),), (), "canonical order"),
        (run_of_entries([[(StepId("a", 1, 1), pack("<f", np.inf))]]), (), "not finite"),
        (run_of_entries([[(StepId("a", 1, 1), b"123")]]), (), "not finite"),
        (run_of_entries([[(StepId("z", 1, 1), pack("<f", 1.0))]]), (), "split"),
    ],
)
def test_entries_that_cannot_be_are_refused_and_change_nothing(entries: tuple, digest_at: tuple, text: str) -> None:
    shared = store()
    other, _ = shared.advance(shared.hold_initial(), LOG[:1])
    held = shared.hold_initial()
    with pytest.raises(LearnerError, match=text):
        shared.advance(held, entries, digest_at)
    assert shared.live_versions == (0, 1)
    assert held.theta.tobytes() == TRUTH[0].tobytes() and other.theta.tobytes() == TRUTH[1].tobytes()


def test_a_snapshot_that_contradicts_a_live_version_is_refused() -> None:
    shared = store()
    held, other = shared.hold_initial(), shared.hold_initial()
    held, _ = shared.advance(held, LOG[:2])
    with pytest.raises(LearnerError, match="differs"):
        shared.install(other, 2, TRUTH[1])
    assert shared.live_versions == (0, 2) and other.holders == 1


def test_digests_are_bounded_and_counted() -> None:
    shared = store(digests_kept_max=2)
    held = shared.hold_initial()
    held, checkpoints = shared.advance(held, LOG, tuple(range(1, 13)))
    assert [checkpoint.digest for checkpoint in checkpoints] == DIGESTS[1:]
    assert shared.digests_dropped == 10
    assert shared.initial_digest() == DIGESTS[0]
    assert shared.live_versions == (12,)
