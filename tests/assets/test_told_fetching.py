"""Every told ``hosfl data fetch`` is run, with a real pip: from a folder, or from what pip is set up for, here a folder of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import stand_ins, wheel
from told_commands import of_kind, words_of

from hosfl_async.assets import CACHE_VARIABLE, CATALOGUE, Asset, cached
from hosfl_async.cli import app
from hosfl_async.cli.app import guarded


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Asset]]:
    """Of `snippets` and `minilm` such as can be read, of the others such as can be fetched."""
    folder = tmp_path_factory.mktemp("packages")
    made = stand_ins(folder)
    others = {name: asset for name, asset in CATALOGUE.items() if name not in made}
    return folder, made | {
        name: wheel(folder, name, {file.name: f"{name}/{file.name}".encode() for file in asset.files}) for name, asset in others.items()
    }


@pytest.mark.parametrize("command", of_kind("fetching"))
def test_a_told_asset_is_fetched(
    command: str,
    packages: tuple[Path, dict[str, Asset]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, assets = packages
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if "--from FOLDER" in command:
        (tmp_path / "FOLDER").symlink_to(folder)
    else:
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    for name, asset in assets.items():
        monkeypatch.setitem(CATALOGUE, name, asset)
    wanted = command.partition(" --from ")[0].split()[3:]
    assert wanted and set(wanted) <= set(assets) and not any(cached(CATALOGUE[name]) for name in wanted)
    converted: list[str] = []
    monkeypatch.setattr("hosfl_async.learning.smollm2.converted", lambda told: converted.append("smollm2"))  # see test_decoders.py
    monkeypatch.setattr("sys.argv", words_of(command))
    assert guarded(app) == 0, capsys.readouterr()
    assert all(cached(CATALOGUE[name]) for name in wanted)
    assert converted == [name for name in wanted if name == "smollm2"]
