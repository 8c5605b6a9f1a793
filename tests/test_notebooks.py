"""The notebooks of the documents run, and what is stored in them is what they give: cell by cell the same kinds of output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs/notebooks").glob("*.ipynb"))


def kinds(cell: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Of each output of a cell: what it is, and in which forms."""
    return [(output.output_type, tuple(sorted(output.get("data", ())))) for output in cell.get("outputs", ())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.from_dict(stored)
    for cell in (cell for cell in fresh.cells if cell.cell_type == "code"):
        cell.outputs = []
    nbclient.NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [kinds(cell) for cell in fresh.cells] == [kinds(cell) for cell in stored.cells]
    assert any(kinds(cell) for cell in stored.cells)


def test_there_are_some() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"first_steps", "own_model"}
