"""Update rules of the log: bit-equal replay however it is cut, torch's optimisers as the measure, golden vectors for each rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from struct import pack

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning_cases import entries_of, run_of_entries

from hosfl_async.errors import LearnerError
from hosfl_async.learning.golden import golden_digest, golden_start, joining_proof
from hosfl_async.learning.models import build_model
from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, Perturber, Vector, aligned_vector
from hosfl_async.learning.settings import ModelSettings, UpdateSettings
from hosfl_async.learning.update_rule import UpdateRule, power
from hosfl_async.learning.version_store import VersionStore, parameter_digest
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import LogEntry, StepId

RUN = b"0123456789abcdef"
RULES = ("sgd", "momentum", "adamw")
SIZE = 70
ETA = 0.05


def rule_of(name: str, size: int = SIZE, **changes: object) -> UpdateRule:
    return UpdateRule(UpdateSettings(rule=name, **changes), size, ETA)


def falling(parameters: list, **settings: object) -> Callable[[], None]:
    """A step of torch's AdamW, its rate falling in a straight line to nothing at the fourteenth."""
    optimizer = torch.optim.AdamW(parameters, lr=ETA, **settings)
    left = iter(range(13, -10, -1))

    def step() -> None:
        optimizer.param_groups[0]["lr"] = ETA * max(next(left), 0) / 14
        optimizer.step()

    return step


def replayed(rule: UpdateRule, state: Vector, entries: tuple[LogEntry, ...]) -> Vector:
    copy = aligned_vector(state.size)
    copy[:] = state
    rule.replay(copy, entries, RUN, Perturber())
    return copy


def steps_of(entries: tuple[LogEntry, ...], size: int) -> list[Vector]:
    """What each entry adds under plain SGD, applied to nothing."""
    steps = []
    for entry in entries:
        step = np.zeros(size, np.float32)
        replay(step, (entry,), RUN, Perturber())
        steps.append(step)
    return steps


@pytest.mark.parametrize("name", RULES)
@given(entries_of(8), st.data())
def test_replay_cut_anywhere_is_replay_at_once(name: str, entries: tuple[LogEntry, ...], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(entries)))
    rule = rule_of(name)
    start = rule.initial(golden_start(SIZE))
    with np.errstate(all="ignore"):
        at_once = replayed(rule, start, entries)
        first = replayed(rule, start, entries[:cut])
        assert replayed(rule_of(name), first, entries[cut:]).tobytes() == at_once.tobytes(), "another machine, from the state alone"


@pytest.mark.parametrize("name", RULES)
def test_state_is_theta_and_the_rules_moments(name: str) -> None:
    rule = rule_of(name)
    state = rule.initial(golden_start(SIZE))
    assert state.size == SIZE * (1 + rule.moments) == SIZE * {"sgd": 1, "momentum": 2, "adamw": 3}[name]
    assert (state[:SIZE] == golden_start(SIZE)).all() and not state[SIZE:].any()


LOG = run_of_entries([[(StepId("a", 1, n), pack("<2f", 0.1 / n, -0.03)), (StepId("b", 2, n), pack("<f", 0.02 * n))] for n in range(1, 21)])


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"rule": "sgd"}, lambda p: torch.optim.SGD(p, lr=1.0).step),
        ({"rule": "momentum", "momentum": 0.8}, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.8).step),
        ({"rule": "adamw", "beta2": 0.99}, lambda p: torch.optim.AdamW(p, lr=ETA, betas=(0.9, 0.99), weight_decay=0).step),
        ({"rule": "adamw", "weight_decay": 0.2}, lambda p: torch.optim.AdamW(p, lr=ETA, weight_decay=0.2).step),
        ({"rule": "adamw", "weight_decay": 0.2, "decay_versions": 14}, lambda p: falling(p, weight_decay=0.2)),
    ],
    ids=["sgd", "momentum", "adamw", "adamw with decay", "adamw with a falling rate"],
)
def test_an_entry_does_what_torchs_optimiser_does_with_its_step_as_descent(settings: dict, optimizer: object) -> None:
    rule = UpdateRule(UpdateSettings(**settings), SIZE, ETA)
    state = replayed(rule, rule.initial(golden_start(SIZE)), LOG)
    theirs = torch.nn.Parameter(torch.tensor(golden_start(SIZE)))
    stepper = optimizer([theirs])
    for step in steps_of(LOG, SIZE):
        theirs.grad = torch.tensor(-step)
        stepper()
    np.testing.assert_allclose(state[:SIZE], theirs.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_chunks_change_no_bit(name: str) -> None:
    """One that is longer than a chunk equals its parts, each replayed as a whole vector."""
    size = CHUNK_ELEMENTS + 100
    rule = rule_of(name, size)
    whole = replayed(rule, rule.initial(golden_start(size)), LOG[:3])
    steps = steps_of(LOG[:3], size)
    for part in (slice(0, CHUNK_ELEMENTS), slice(CHUNK_ELEMENTS, size)):
        length = part.stop - part.start
        alone = rule_of(name, length)
        state = alone.initial(golden_start(size)[part])
        for version, step in enumerate(steps, start=1):
            alone._step[:] = step[part]
            alone._apply(state, version)
        assert state.reshape(-1, length).tobytes() == np.ascontiguousarray(whole.reshape(-1, size)[:, part]).tobytes()


def test_an_entry_without_coefficients_moves_nothing_under_momentum() -> None:
    rule = rule_of("momentum")
    start = rule.initial(golden_start(SIZE))
    assert replayed(rule, start, run_of_entries([[(StepId("a", 1, 1), b"")]])).tobytes() == start.tobytes()


@given(st.floats(0, 1), st.integers(0, 5000))
def test_power_is_a_power(base: float, exponent: int) -> None:
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-9, abs=1e-300)


# -- versions and snapshots ---------------------------------------------------------------------------

HALF = build_model(ModelSettings(client_widths=(3,)), (1, 4, 4), 4).client


def start() -> Vector:
    vector = aligned_vector(HALF.size)
    vector[:] = golden_start(HALF.size)
    return vector


def store(name: str) -> VersionStore:
    return VersionStore(HALF, start, RUN, rule=rule_of(name, HALF.size))


@pytest.mark.parametrize("name", RULES)
@given(st.integers(0, len(LOG)), st.integers(0, len(LOG)), st.booleans())
def test_snapshot_and_tail_give_the_bits_and_digests_of_a_replay_from_the_start(name: str, cut: int, end: int, stays: bool) -> None:
    cut, end = sorted((cut, end))
    there = store(name)
    at_cut, _ = there.advance(there.hold_initial(), LOG[:cut])
    snapshot = at_cut.state.copy()
    witness = there.hold_initial() if stays else None
    here = store(name)
    installed = here.install(here.hold_initial(), cut, snapshot)
    assert here.digest(installed) == there.digest(at_cut) == parameter_digest(snapshot)
    from_snapshot, checkpoints = here.advance(installed, LOG[cut:end], (end,))
    from_start, expected = there.advance(at_cut, LOG[cut:end], (end,))
    assert checkpoints == expected
    assert from_snapshot.state.tobytes() == from_start.state.tobytes()
    assert from_start.theta.size == HALF.size and from_start.theta.tobytes() == from_start.state[: HALF.size].tobytes()
    assert witness is None or witness.theta.tobytes() == start().tobytes(), "other holders' versions stay as they are"


def test_the_digest_covers_the_moments() -> None:
    one, other = store("momentum"), store("momentum")
    held, _ = one.advance(one.hold_initial(), LOG[:2])
    changed = held.state.copy()
    changed[-1] += 1
    assert other.digest(other.install(other.hold_initial(), 2, changed)) != one.digest(held)
    with pytest.raises(LearnerError, match="differs"):
        one.install(one.hold_initial(), 2, changed)


# -- golden vectors -----------------------------------------------------------------------------------

GOLDEN = json.loads((Path(__file__).parent / "golden_update_rules.json").read_text())


@pytest.mark.parametrize("name", RULES)
def test_golden_vectors_of_each_rule(name: str) -> None:
    """Written once; a change of any bit is a change of every log there is."""
    rule = rule_of(name)
    state = rule.initial(golden_start(SIZE))
    digests = []
    for entry in LOG[:6]:
        state = replayed(rule, state, (entry,))
        digests.append(parameter_digest(state).hex())
    assert digests == GOLDEN[name]


def test_a_machine_that_would_replay_by_another_rule_or_constants_shows_another_proof() -> None:
    runs = [
        (UpdateSettings(), ETA),
        (UpdateSettings(rule="momentum"), ETA),
        (UpdateSettings(rule="momentum", momentum=0.8), ETA),
        (UpdateSettings(rule="adamw"), ETA),
        (UpdateSettings(rule="adamw"), 2 * ETA),
        (UpdateSettings(rule="adamw", weight_decay=0.5), ETA),
        (UpdateSettings(rule="adamw", decay_versions=1000), ETA),
    ]
    proofs = [joining_proof(*run) for run in runs]
    assert len(set(proofs)) == len(runs) and proofs[0] == golden_digest()
