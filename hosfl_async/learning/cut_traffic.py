"""What crosses the cut: activations and duals as numbers, and as the quantised data that travel.

The draws of the stochastic rounding belong to the step: a Philox stream named by the run key, the direction of travel and the step. So a
retry is the same bytes, a run is a function of its seed, and nobody's rounding depends on who else is there.

The client's projection starts from its own exact activations (the anchor), the server trains on what arrived. Rounding without bias makes
the dual noisy, not wrong on average where the server half is flat over one quantisation step; that is what the measurements in
docs/results.md stand for.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hosfl_async.codec import dequantise, quantise, words_needed
from hosfl_async.learning.randomness import KEY_BYTES, raw_stream, step_name
from hosfl_async.learning.settings import CutSettings
from hosfl_async.learning.tensors import check_tensor, to_data
from hosfl_async.messages import CUT_DTYPES, CutDtype, StepId, Tensor

Numbers = NDArray[np.float32]

_UP, _DOWN = b"activations", b"duals"


class CutTraffic:
    """Makes the tensors that cross the cut. Holds a generator: one for each thread."""

    __slots__ = ("_run_key", "_settings", "_start")

    def __init__(self, settings: CutSettings, run_key: bytes) -> None:
        self._settings, self._run_key = settings, run_key
        self._start = raw_stream()

    def activations(self, numbers: Numbers, step: StepId, lengths: bytes = b"") -> Tensor:
        """What the client of ``step`` sends: (batch, *cut shape), or (tokens, *cut shape) and the ``lengths`` of the samples."""
        tensor = self._quantised(numbers, self._settings.activations, _UP, step)
        return replace(tensor, lengths=lengths) if lengths else tensor

    def dual(self, numbers: Numbers, step: StepId) -> Tensor:
        """What the server answers, in the shape of the activations."""
        return self._quantised(numbers, self._settings.duals, _DOWN, step)

    def _quantised(self, numbers: Numbers, dtype: CutDtype, way: bytes, step: StepId) -> Tensor:
        if dtype == "float32":
            return to_data(numbers)
        words = self._start(rounding_key(self._run_key, way, step)).random_raw(words_needed(dtype, numbers.size))
        return quantise(numbers, dtype, words, per_sample=self._settings.scale_per == "sample")


def rounding_key(run_key: bytes, way: bytes, step: StepId) -> bytes:
    """The 128-bit Philox key of one tensor's draws. The personalisation keeps it apart from every direction's key."""
    return blake2b(run_key + step_name(step), digest_size=KEY_BYTES, person=b"cut:" + way).digest()


def received(tensor: Tensor, shape: tuple[int | None, ...], what: str) -> Numbers:
    """The numbers of a received tensor of any cut dtype. Raises ``LearnerError`` if dtype, shape or lengths do not fit."""
    check_tensor(tensor, CUT_DTYPES, shape, what)
    return dequantise(tensor)
