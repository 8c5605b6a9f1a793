"""The offline folder of Weights & Biases, decoded by its own message types. `make tracking` installs what this needs.

The file is a LevelDB log: blocks of 32 KiB, pieces with a seven-byte head (checksum, length, kind), after a head of the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest

from hosfl_async import Run, simulate
from hosfl_async.tracking.facts import final_figures

pytest.importorskip("wandb", reason="the extra wandb")

BLOCK, HEAD = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def records(folder: Path) -> list[Any]:
    """All of them. The library's own process closes the file, which may be after ``finish`` has returned."""
    end = time.monotonic() + 60
    while True:
        found = list(whole_records(folder))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < end, [each.WhichOneof("record_type") for each in found]
        time.sleep(0.1)


def whole_records(folder: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = folder.glob("*.wandb")
    data, place, begun = file.read_bytes(), HEAD, b""
    assert data[:4] in (b":W&B", b"")
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = unpack_from("<IHB", data, place)
        piece = data[place + HEAD : place + HEAD + length]
        if len(piece) < length:
            return
        place += HEAD + length
        begun = piece if kind in (FULL, FIRST) else begun + piece
        if kind in (FULL, LAST):
            yield Record.FromString(begun)


def items(pairs: Any) -> dict[str, Any]:
    return {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in pairs}


def test_what_was_written_is_the_run(run: Run, tmp_path: Path) -> None:
    run.export(f"wandb={tmp_path}")
    [folder] = tmp_path.glob("wandb/offline-run-*")
    found = records(folder)
    [about] = [each.run for each in found if each.WhichOneof("record_type") == "run"]
    assert (about.project, about.display_name) == ("quickstart", "quickstart-seed0")
    assert "method:hosfl_async" in about.tags
    config = items(about.config.update)
    assert config["aggregator"]["client_steps"] == 100
    points = [items(each.history.item) for each in found if each.WhichOneof("record_type") == "history"]
    assert [(each["client_steps"], each["accuracy"], each["modelled_time_s"]) for each in points] == [
        (each.client_steps, each.accuracy, each.time_s) for each in run.evaluations
    ]
    summary: dict[str, Any] = {}
    for each in found:
        if each.WhichOneof("record_type") == "summary":
            summary |= items(each.summary.update)
    assert summary["log_digest"] == run.summary.digest
    assert {name: summary[f"final_{name}"] for name in final_figures(run.summary)} == final_figures(run.summary)
    assert [each.exit.exit_code for each in found if each.WhichOneof("record_type") == "exit"] == [0]
    assert (folder / "files/summary.json").read_bytes() == (run.folder / "summary.json").read_bytes()
    assert not any(each.is_symlink() for each in (folder / "files").rglob("*"))


def test_nothing_about_the_machine_is_written(run: Run, tmp_path: Path) -> None:
    run.export(f"wandb={tmp_path}")
    [folder] = tmp_path.glob("wandb/offline-run-*")
    assert {each.name for each in (folder / "files").iterdir()} == {"scenario.toml", "summary.json", "metrics.jsonl"}
    assert not [each for each in records(folder) if each.WhichOneof("record_type") in ("stats", "output", "output_raw")]


def test_what_is_there_is_left_alone(run: Run, tmp_path: Path) -> None:
    run.export(f"wandb={tmp_path}")
    run.export(f"wandb={tmp_path}")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_an_interrupted_run_is_no_success(run: Run, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(run.scenario, folder=tmp_path / "run", control=False, track=f"wandb={tmp_path}", progress=interrupt)
    [folder] = tmp_path.glob("wandb/offline-run-*")
    assert [each.exit.exit_code for each in records(folder) if each.WhichOneof("record_type") == "exit"] == [1]
