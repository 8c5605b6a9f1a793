"""Low-rank directions: fewer random signs than weights, so that a layer can be probed without perturbed weights. Pure numpy.

A parameter of shape (n, ...) is read as a matrix of n rows, cut into blocks of consecutive rows, at most ``rank`` of them. The rows of
block q are the same row of signs B_q, each under a sign of its own: u_ij = a_i B_qj, a matrix of rank ``rank`` at most. The signs of
all parameters are consecutive bits of the probe's stream, each parameter's a before its B.

Each element is +1 or -1, and any two are independent, so E[u u^T] is the identity and |u|^2 = d: the estimate v u is unbiased, with
the mean and variance it has under a sign of its own for each parameter (``perturbation.signs``). Its tails are heavier, the more so
the fewer the blocks: with one block, v = a^T G b is a product where it should be a sum, and training at a bold learning rate breaks
down now and then (``docs/results.md``). At 16 blocks the difference is no longer measurable; a layer with no more rows than blocks has
a sign for each weight.

What it buys: the rows of a block change a layer's output by mu a_i (B_q . x), so that ``low_rank_prober`` never writes perturbed
weights. Replay stays one IEEE addition of +-c for each element, the same bits on every machine.

Low-rank directions for zeroth-order fine-tuning: LOZO (arXiv:2410.07698), EGGROLL (arXiv:2511.16652), there with Gaussian factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from hosfl_async.learning.perturbation import CHUNK_ELEMENTS, SIGN_TABLE, Vector, signs
from hosfl_async.learning.randomness import raw_stream

Shape = tuple[int, ...]
Factors = tuple[Vector, Vector]
"""a (directions, rows) and B (directions, blocks, columns) of one parameter."""


class Matrix(NamedTuple):
    """A parameter seen as a matrix: a weight's outputs and inputs; a bias is one column, in one block."""

    rows: int
    columns: int
    height: int
    """Rows of a block; the last block may have fewer."""

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.height)

    @property
    def bits(self) -> int:
        """Random signs that one direction takes here."""
        return self.rows + self.blocks * self.columns


def matrix_of(shape: Shape, rank: int) -> Matrix:
    """How a parameter of this shape is read, in at most ``rank`` blocks."""
    rows, columns = (shape[0], prod(shape[1:])) if shape else (1, 1)
    return Matrix(rows, columns, max(1, rows if columns == 1 else -(-rows // rank)))


def low_rank_signs(key: bytes, shapes: Sequence[Shape], rank: int) -> Vector:
    """The direction itself: the definition, slow and readable. ``LowRankPerturber`` must agree with it bit for bit."""
    matrices = [matrix_of(shape, rank) for shape in shapes]
    drawn = iter(signs(key, sum(matrix.bits for matrix in matrices)))
    direction = []
    for matrix in matrices:
        a = [next(drawn) for _ in range(matrix.rows)]
        b = [[next(drawn) for _ in range(matrix.columns)] for _ in range(matrix.blocks)]
        direction += [a[row] * b[row // matrix.height][column] for row in range(matrix.rows) for column in range(matrix.columns)]
    return np.array(direction, np.float32)


def written_out(matrix: Matrix, factors: Factors) -> Vector:
    """The part of these directions that belongs to one parameter, element by element, (directions, rows, columns)."""
    a, b = factors
    rows: Vector = a[:, :, None] * b.repeat(matrix.height, axis=1)[:, : matrix.rows]
    return rows


class LowRankPerturber:
    """Adds scaled low-rank directions to vectors of parameters with these ``shapes``. One for each thread."""

    __slots__ = ("_buffer", "_start", "_words", "matrices")

    def __init__(self, shapes: Iterable[Shape], rank: int, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        if chunk_elements <= 0 or rank <= 0:
            raise ValueError(f"a direction has a rank of at least 1, a chunk at least one element; not {rank} and {chunk_elements}")
        self.matrices = tuple(matrix_of(shape, rank) for shape in shapes)
        self._words = -(-sum(matrix.bits for matrix in self.matrices) // 64)
        self._start = raw_stream()
        self._buffer = np.empty(chunk_elements, np.float32)

    def factors(self, keys: Sequence[bytes]) -> tuple[Factors, ...]:
        """a and B of each parameter, for all these directions: arrays of +-1."""
        words = np.empty((len(keys), self._words), "<u8")
        for row, key in zip(words, keys, strict=True):
            row[:] = self._start(key).random_raw(self._words)
        drawn, begin, factors = SIGN_TABLE.take(words.view(np.uint8), axis=0, mode="clip").reshape(len(keys), -1), 0, []
        for matrix in self.matrices:
            middle, end = begin + matrix.rows, begin + matrix.bits
            factors.append((drawn[:, begin:middle], drawn[:, middle:end].reshape(len(keys), matrix.blocks, matrix.columns)))
            begin = end
        return tuple(factors)

    def add_scaled_direction(self, theta: Vector, key: bytes, coefficient: float, out: Vector | None = None) -> None:
        """``out = theta + coefficient * low_rank_signs(key, ...)``; see ``Perturber.add_scaled_direction``."""
        target, begin = theta if out is None else out, 0
        for index, (matrix, factors) in enumerate(zip(self.matrices, self.factors((key,)), strict=True)):
            end = begin + matrix.rows * matrix.columns
            self.add_to_parameter(index, theta[begin:end], factors, coefficient, target[begin:end])
            begin = end

    def add_to_parameter(self, index: int, values: Vector, factors: Factors, coefficient: float, out: Vector) -> None:
        """The same for the parameter ``index`` alone, whose values these are, along the one direction of ``factors``."""
        matrix, ((a,), (b,)), scale, begin = self.matrices[index], factors, np.float32(coefficient), 0
        scaled = a * scale
        for block, top in enumerate(range(0, matrix.rows, matrix.height)):
            signs_of_rows = scaled[top : top + matrix.height]
            end = begin + len(signs_of_rows) * matrix.columns
            shape = len(signs_of_rows), matrix.columns
            self._add_outer(values[begin:end].reshape(shape), signs_of_rows, b[block], out[begin:end].reshape(shape))
            begin = end

    def written(self, keys: Sequence[bytes], size: int) -> Vector:
        """The directions themselves, (keys, size) of +-1; see ``low_rank_signs``."""
        directions, begin = np.empty((len(keys), size), np.float32), 0
        for matrix, factors in zip(self.matrices, self.factors(keys), strict=True):
            end = begin + matrix.rows * matrix.columns
            directions[:, begin:end] = written_out(matrix, factors).reshape(len(keys), -1)
            begin = end
        return directions

    def _add_outer(self, part: Vector, a: Vector, b: Vector, target: Vector) -> None:
        """target = part + a b^T, a few rows (or a part of one) at a time, so that the terms stay in the cache."""
        rows, columns = part.shape
        width = min(columns, self._buffer.size)
        height = max(1, self._buffer.size // max(width, 1))
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                place = slice(top, top + height), slice(left, left + width)
                here = part[place]
                terms = np.multiply(a[place[0], None], b[place[1]], out=self._buffer[: here.size].reshape(here.shape))
                np.add(here, terms, out=target[place])
