"""What pictures of studies say is in the figures: nothing beats a point on the line, and means are of all seeds or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import study, study_pictures
from benchmarks.study_pictures import grid, mean_if_all, unbeaten

few = st.integers(0, 5).map(float)


@given(st.lists(st.tuples(few, few), max_size=12))
def test_the_line_joins_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    front = [points[place] for place in unbeaten(points)]
    assert front == sorted({point for point in points if not any(beats(one, point) for one in points)})


def test_a_mean_is_of_all_seeds_or_none() -> None:
    key = study_pictures.FACTOR
    lines = [{"label": "a", key: "1", "x": "0.5"}, {"label": "a", key: "1", "x": "0.7"}, {"label": "a", key: "10", "x": ""}]
    assert mean_if_all(lines[:2], "x") == pytest.approx(0.6)
    assert mean_if_all(lines, "x") is None
    assert grid(lines, ["a", "b"], ["1", "10"], "x") == [[pytest.approx(0.6), None], [None, None]]


def test_pictures_are_drawn_from_the_committed_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_pictures, "PICTURES", tmp_path)
    monkeypatch.setattr("sys.argv", ["study_pictures"])
    assert study_pictures.main() == 0
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    there = any((study.TABLES / f"{name}.csv").exists() for name in study_pictures.BYTES)
    assert set(drawn) == {"staleness-sweep.png", "bytes.png"} - (set() if there else {"bytes.png"})
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())
