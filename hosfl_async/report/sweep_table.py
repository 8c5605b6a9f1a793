"""The finished runs of a sweep as one tidy table: a row per run, a column per swept setting and per figure.

CSV always, Parquet on top where pyarrow is installed (the extra ``parquet``).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hosfl_async.report.summary import Summary

Row = dict[str, Any]


def sweep_row(values: Mapping[str, Any], summary: Summary) -> Row:
    """Swept settings first, under their dotted keys; then the seed and the figures of ``summary.json``, bytes by kind."""
    figures = {
        "seed": summary.seed,
        "method": summary.method,
        "accuracy_final": summary.accuracy_final,
        "accuracy_best": summary.accuracy_best,
        "accuracy_frozen_control": summary.accuracy_frozen_control,
        "client_steps": summary.client_steps,
        "server_steps": summary.server_steps,
        "version": summary.version,
        "modelled_time_s": summary.modelled_time_s,
        "wall_time_s": summary.wall_time_s,
        "staleness_mean": summary.staleness.mean,
        "staleness_max": summary.staleness.max,
        "bytes": sum(summary.bytes.values()),
        **{f"bytes_{kind}": number for kind, number in summary.bytes.items()},
        "dropped": summary.counts.get("dropped", 0),
        "digests_agree": summary.digests_agree,
        "unmet": len(summary.unmet),
        "digest": summary.digest,
    }
    return {key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in values.items()} | figures


def write_sweep(rows: Sequence[Row], folder: Path) -> list[Path]:
    """``sweep.csv``, and ``sweep.parquet`` where that is possible; returns what was written."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    written = [folder / "sweep.csv"]
    with written[0].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    if find_spec("pyarrow") is not None:
        import pyarrow
        from pyarrow import parquet

        written.append(folder / "sweep.parquet")
        parquet.write_table(pyarrow.table({column: [row.get(column) for row in rows] for column in columns}), written[1])
    return written
