"""What crosses the cut: draws by name, so that a retry is the same bytes and nobody's rounding depends on another's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.errors import LearnerError
from hosfl_async.learning.cut_traffic import CutTraffic, received, rounding_key
from hosfl_async.learning.perturbation import direction_key
from hosfl_async.learning.settings import CutSettings
from hosfl_async.messages import CUT_DTYPES, StepId, Tensor

KEY = bytes(range(16))
NUMBERS = np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)
DTYPES = sorted(CUT_DTYPES - {"float32"})
STEPS = st.builds(StepId, st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(1, 50))


def traffic(dtype: str, key: bytes = KEY) -> CutTraffic:
    return CutTraffic(CutSettings(activations=dtype, duals=dtype), key)  # type: ignore[arg-type]


@given(st.lists(STEPS, min_size=1, max_size=6), st.sampled_from(DTYPES))
def test_a_tensor_is_a_function_of_numbers_and_names_alone(steps: list[StepId], dtype: str) -> None:
    busy = traffic(dtype)
    for step in steps:
        assert busy.activations(NUMBERS, step) == traffic(dtype).activations(NUMBERS, step)
        assert busy.dual(NUMBERS, step) == traffic(dtype).dual(NUMBERS, step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_ways_and_runs_have_draws_of_their_own(dtype: str) -> None:
    one, two = StepId("a", 1, 1), StepId("a", 1, 2)
    tensors = [
        traffic(dtype).activations(NUMBERS, one),
        traffic(dtype).activations(NUMBERS, two),
        traffic(dtype).dual(NUMBERS, one),
        traffic(dtype, bytes(16)).activations(NUMBERS, one),
    ]
    assert len({tensor.data for tensor in tensors}) == len(tensors)


def test_rounding_keys_are_no_directions() -> None:
    step = StepId("a", 1, 1)
    keys = {rounding_key(KEY, b"activations", step), rounding_key(KEY, b"duals", step), *(direction_key(KEY, step, p) for p in range(8))}
    assert len(keys) == 10


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (Tensor("int64", (2, 3), bytes(48)), "int64 2x3"),
        (Tensor("int8", (2, 3), bytes(6)), "int8 2x3 in 6 bytes"),
        (Tensor("int8", (2, 3), bytes(6), bytes(12)), "6 bytes and 12 of scales"),
        (Tensor("int4", (2, 4), bytes(4), bytes(4)), "int4 2x4"),
        (Tensor("float32", (2, 3), bytes(24), bytes(4)), "24 bytes and 4 of scales"),
    ],
)
def test_a_learner_refuses_what_does_not_fit(tensor: Tensor, found: str) -> None:
    with pytest.raises(LearnerError, match=f"dual: expected bfloat16 or float32 or int4 or int8 2x3, found .*{found}"):
        received(tensor, (2, 3), "dual")
