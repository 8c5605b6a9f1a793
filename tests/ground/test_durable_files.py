"""A file written durably is whole, whatever stood there before, and no half of it is ever seen under its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from hosfl_async.durable_files import SUFFIX, write_durably


@given(contents=some.lists(some.binary(max_size=5000), min_size=1, max_size=4))
def test_the_last_content_stands(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "f"
    for content in contents:
        write_durably(path, content)
        assert path.read_bytes() == content and [each.name for each in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("call", ["write", "fsync", "close"])
def test_a_failure_leaves_what_stood_there(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_durably(path, b"before")
    real = getattr(os, call)

    def failing(file: int, *rest: object) -> object:
        if call == "close":
            real(file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    path.with_name("f" + SUFFIX).write_bytes(b"torn")
    write_durably(path, b"after")
    assert path.read_bytes() == b"after"


def test_everything_is_synced_in_the_order_that_makes_it_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append("folder" if Path(f"/proc/self/fd/{file}").is_dir() else "file"), real_fsync(file))
    )
    monkeypatch.setattr(Path, "replace", lambda self, other: (done.append("rename"), real_replace(self, other)))
    write_durably(tmp_path / "f", b"content")
    assert done == ["file", "rename", "folder"]
