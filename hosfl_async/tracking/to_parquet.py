"""The curve of a run as one Parquet file: a row for each evaluation, a column for every figure and for every setting.

Settings are the same in all rows, which Parquet stores once. So the files of many runs lie side by side in one folder, and pandas or polars
reads the folder as one table that can be grouped by any setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking.facts import RunFacts, Scalar, point_figures


class ParquetTracker:
    """``place``: the folder; each run is a file NAME-KEY.parquet in it, written when the run ends."""

    def __init__(self, place: str) -> None:
        self._directory = Path(place)
        self.place = place
        self._settings: dict[str, Scalar] = {}
        self._rows: list[dict[str, Any]] = []

    def begin(self, facts: RunFacts) -> bool:
        file = self._directory / f"{facts.name}-{facts.key[:8]}.parquet"
        self.place = str(file)
        if file.exists():
            return False
        self._directory.mkdir(parents=True, exist_ok=True)
        self._settings = {"run": facts.name, **{name: _column(value) for name, value in facts.parameters.items()}}
        return True

    def point(self, point: Evaluation) -> None:
        self._rows.append({name: float(value) for name, value in point_figures(point).items()})

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        self._write(ended=True)

    def abandon(self) -> None:
        self._write(ended=False)

    def _write(self, *, ended: bool) -> None:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        figures = {name: pyarrow.array([row.get(name) for row in self._rows], pyarrow.float64()) for name in names}
        same = {"ended": ended, **self._settings}
        table = {name: pyarrow.array([value] * len(self._rows)) for name, value in same.items()}
        unfinished = Path(self.place).with_suffix(".part")
        parquet.write_table(pyarrow.table(table | figures), unfinished)
        unfinished.replace(self.place)


def _column(value: Scalar) -> Scalar:
    """A setting may be a whole number in one file and a fraction in the next, and a column has one type."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
