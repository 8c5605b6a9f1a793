"""The log's update rule: what an entry does to the client half. Plain SGD, momentum, or AdamW, the same bits on every machine.

An entry is a step: the sum of its terms, each -c_p u_p or -g. Plain SGD adds it to theta, and nothing else is remembered. The other two
rules remember *moments* of past steps, vectors as long as theta, so a version of the client half is theta *and* its moments. They lie in
one vector, the *state*: theta first, then the moments. A digest covers the state, a snapshot carries it, and replaying from a snapshot
gives the same bits as replaying from the start::

    sgd        theta += step
    momentum   m = momentum m + step;   theta += m                                    (Polyak's heavy ball, as in torch)
    adamw      m = beta1 m + (1 - beta1) step;   s = beta2 s + (1 - beta2) step step   (Loshchilov and Hutter, arXiv:1711.05101)
               theta = theta (1 - eta_V decay) + eta_V (m / (1 - beta1^V)) / (sqrt(s / (1 - beta2^V)) + epsilon)

V is the entry's version, so no count of steps needs to be kept, neither for the bias of the means nor for a rate eta_V that declines. Every
operation is one separately rounded float32 addition, multiplication, division or square root of numpy, all of them exact to the last bit by
IEEE 754, in a fixed order; beta^V is made of multiplications, since nobody promises the last bit of ``pow``. Element-wise operations may be
cut into chunks without changing a bit.

The price: momentum holds one vector more for each copy of the client half, adamw two, on every device, in every snapshot and in every live
version of the simulator; and an entry costs a few passes over the client half beside its K P directions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, DirectionAdder, Vector, aligned_vector
from hosfl_async.learning.settings import UpdateSettings
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import LogEntry

MOMENTS = {"sgd": 0, "momentum": 1, "adamw": 2}
"""Rule -> vectors, each as long as theta, that it remembers."""


class UpdateRule:
    """Replays entries on states of ``size`` parameters. Holds a vector for the step and buffers: one for each thread.

    ``learning_rate`` is eta of adamw, whose entries carry none; the other rules find it in the entries' coefficients already.
    """

    __slots__ = ("_buffer", "_root", "_size", "_step", "learning_rate", "moments", "settings")

    def __init__(self, settings: UpdateSettings, size: int, learning_rate: float) -> None:
        self.moments = MOMENTS[settings.rule]
        """Vectors that a state holds beside theta."""
        self.settings, self._size, self.learning_rate = settings, size, learning_rate
        self._step = aligned_vector(size if self.moments else 0)
        self._buffer, self._root = (np.empty(CHUNK_ELEMENTS if settings.rule == "adamw" else 0, np.float32) for _ in range(2))

    def initial(self, theta: Vector) -> Vector:
        """The state at version 0: ``theta``, and moments of zero."""
        if not self.moments:
            return theta
        state = aligned_vector((1 + self.moments) * self._size)
        state[: self._size] = theta
        state[self._size :] = 0
        return state

    def replay(
        self, state: Vector, entries: Iterable[LogEntry], run_key: bytes, perturber: DirectionAdder, *, shared: bool = False
    ) -> None:
        """Apply log entries to ``state`` in place; for ``shared`` see ``zeroth_order.replay``."""
        if not self.moments:
            replay(state, entries, run_key, perturber, shared=shared)
            return
        for entry in entries:
            self._step.fill(0)
            replay(self._step, (entry,), run_key, perturber, shared=shared)
            self._apply(state, entry.version)

    def _apply(self, state: Vector, version: int) -> None:
        vectors = [*state.reshape(1 + self.moments, self._size), self._step]
        corrections = [np.float32(1 - power(beta, version)) for beta in (self.settings.beta1, self.settings.beta2)]
        rate = version_rate(self.learning_rate, self.settings.decay_versions, version)
        for begin in range(0, self._size, CHUNK_ELEMENTS):
            parts = [vector[begin : begin + CHUNK_ELEMENTS] for vector in vectors]
            if self.settings.rule == "momentum":
                self._momentum(*parts)
            else:
                self._adamw(*parts, *corrections, rate=rate)

    def _momentum(self, theta: Vector, mean: Vector, step: Vector) -> None:
        mean *= np.float32(self.settings.momentum)
        mean += step
        theta += mean

    def _adamw(
        self, theta: Vector, mean: Vector, square: Vector, step: Vector, mean_part: np.float32, square_part: np.float32, *, rate: float
    ) -> None:
        settings, buffer, root = self.settings, self._buffer[: theta.size], self._root[: theta.size]
        mean *= np.float32(settings.beta1)
        mean += np.multiply(step, np.float32(1 - settings.beta1), out=buffer)
        square *= np.float32(settings.beta2)
        np.multiply(step, step, out=buffer)
        buffer *= np.float32(1 - settings.beta2)
        square += buffer
        theta *= np.float32(1 - rate * settings.weight_decay)
        np.divide(square, square_part, out=root)
        np.sqrt(root, out=root)
        root += np.float32(settings.epsilon)
        np.divide(mean, mean_part, out=buffer)
        buffer /= root
        buffer *= np.float32(rate)
        theta += buffer


def version_rate(learning_rate: float, decay_versions: int, version: int) -> float:
    """eta of the entry that makes ``version``: down in a straight line to zero at ``decay_versions``; 0: as it is."""
    return learning_rate * max(decay_versions - version, 0) / decay_versions if decay_versions else learning_rate


def power(base: float, exponent: int) -> float:
    """``base ** exponent`` by squaring, in float64: multiplications only, in an order that the exponent fixes."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
