"""Checkpoints of the split server: what was kept comes back equal, and what is damaged is never believed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from safetensors.numpy import load

from hosfl_async.checkpoint_store import CheckpointStore, LatestCheckpoint, pack_checkpoint, unpack_checkpoint
from hosfl_async.errors import DiskFullError, LogError
from hosfl_async.messages import DualVariable, NamedTensor, ServerCheckpoint, StepId, Tensor

steps = some.builds(StepId, some.sampled_from(["client-1", "client-2"]), some.integers(1, 9), some.integers(1, 2**40))


def floats(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor("float32", shape or (len(values),), np.array(values, "<f4").tobytes())


DUALS = [
    floats(1.0, -2.0, shape=(2, 1)),
    Tensor("bfloat16", (1, 2), b"\x80\x3f\x00\x40"),
    Tensor("int8", (2, 1), b"\x01\xff", floats(0.5, 0.25).data),
    Tensor("int4", (1, 3), b"\x21\x07", floats(0.5).data),
]
STATE = (
    NamedTensor("theta_s", floats(1.0, 2.0, 3.0)),
    NamedTensor("none", floats()),
    NamedTensor("steps", Tensor("int64", (1,), b"\7" + bytes(7))),
)
answers = some.lists(some.builds(DualVariable, steps, some.integers(0, 99), some.sampled_from(DUALS)), max_size=4).map(tuple)
checkpoints = some.builds(
    ServerCheckpoint, some.integers(0, 2**40), some.integers(0, 2**40), some.lists(steps, max_size=4).map(tuple), answers, some.just(STATE)
)


@given(kept=some.lists(checkpoints, min_size=1, max_size=3))
def test_the_latest_comes_back_equal(kept: list[ServerCheckpoint], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("checkpoints") / "c"
    store, memory = CheckpointStore(path, "r"), LatestCheckpoint()
    assert store.records() == memory.records() == ()
    for checkpoint in kept:
        store.append(checkpoint)
        memory.append(checkpoint)
        assert CheckpointStore(path, "r").records() == memory.records() == (checkpoint,)
    assert load(path.read_bytes())["state.theta_s"].tolist() == [1.0, 2.0, 3.0]


EXAMPLE = ServerCheckpoint(
    7,
    3,
    (StepId("client-1", 1, 5), StepId("client-2", 2, 9)),
    tuple(DualVariable(StepId("client-1", 1, 5), 7, dual) for dual in DUALS),
    STATE,
)


def test_torn_at_any_byte_it_is_refused() -> None:
    packed = pack_checkpoint(EXAMPLE, "r")
    for length in range(len(packed)):
        with pytest.raises(LogError, match=r"^here: "):
            unpack_checkpoint(packed[:length], "r", "here")


def test_any_flipped_bit_is_refused_or_without_meaning() -> None:
    """A bit of the header's padding or of a JSON space means nothing; every other one is found."""
    packed = pack_checkpoint(EXAMPLE, "r")
    assert unpack_checkpoint(packed, "r", "here") == EXAMPLE
    refused = 0
    for place in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[place] ^= 1 << bit
            try:
                assert unpack_checkpoint(bytes(damaged), "r", "here") == EXAMPLE
            except LogError:
                refused += 1
    assert refused > 0.98 * 8 * len(packed)


@given(some.binary(max_size=300))
def test_any_bytes_are_refused_in_words(noise: bytes) -> None:
    with pytest.raises(LogError):
        unpack_checkpoint(noise, "r", "here")


def test_another_run_and_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="another run"):
        unpack_checkpoint(pack_checkpoint(EXAMPLE, "r"), "other", "here")
    poisoned = ServerCheckpoint(1, 1, (), (), (NamedTensor("theta_s", floats(float("nan"))),))
    with pytest.raises(LogError, match=r"state\.theta_s"):
        unpack_checkpoint(pack_checkpoint(poisoned, "r"), "r", "here")


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path / "c", "r")
    store.append(EXAMPLE)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LogError, match="could not be written"):
        store.append(ServerCheckpoint(8, 3, (), (), STATE))
    assert store.records() == (EXAMPLE,)


SECOND = ServerCheckpoint(8, 4, EXAMPLE.steps, EXAMPLE.answers, (NamedTensor("theta_s", floats(4.0, 5.0, 6.0)), *STATE[1:]))


@pytest.mark.parametrize("error", [28, 5], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failure_of_any_nth_call_leaves_the_old_or_the_new_whole(
    call: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in pieces of 64 bytes, so that there are many. No failure is taken for success, and no later start is misled."""
    write = os.write
    real = {"open": os.open, "write": lambda file, data: write(file, data[:64]), "fsync": os.fsync, "replace": Path.replace}
    met = 0
    for number in range(200):
        store = CheckpointStore(tmp_path / f"c{number}", "r")
        store.append(EXAMPLE)
        calls = 0

        def perhaps(*given: object, number: int = number) -> object:
            nonlocal calls
            calls += 1
            if calls == number + 1:
                raise OSError(error, os.strerror(error))
            return real[call](*given)

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", real["write"])
            patched.setattr(Path if call == "replace" else os, call, perhaps)
            try:
                store.append(SECOND)
                failed = False
            except LogError as problem:
                failed = True
                assert isinstance(problem, DiskFullError) == (error == 28)
                assert f"c{number}: the checkpoint could not be written" in str(problem)
        met += failed
        left = CheckpointStore(tmp_path / f"c{number}", "r").records()
        assert left == (SECOND,) if not failed else left in ((EXAMPLE,), (SECOND,))
        store.append(SECOND)  # there is space again; of the failed attempt nothing is in the way
        assert store.records() == (SECOND,)
        if not failed:
            break
    assert met >= {"open": 2, "write": 5, "fsync": 2, "replace": 1}[call] and not failed
