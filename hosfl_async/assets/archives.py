"""Single files out of zip, tar and Debian archives. Only what the catalogue names is read, by its exact name and size; no path that an
archive contains is ever used as a path here, and nothing is executed.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from hosfl_async.assets.catalogue import Asset, File
from hosfl_async.errors import SettingsError

_CHUNK_BYTES = 1 << 20
_NESTED_BYTES_MAX = 64 << 20
"""An archive within an archive is held in memory."""


def unpack(archive: Path, asset: Asset, into: Path) -> None:
    """Write the asset's files into ``into``. Raises ``SettingsError`` if one is missing or is not what the catalogue says."""
    for file in asset.files:
        try:
            with _opened(archive, file.inside) as source:
                _copy(source, into / file.name, file, asset.name)
        except (KeyError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as problem:
            raise SettingsError(asset.name, f"{archive.name} has no readable {' in '.join(reversed(file.inside))}: {problem}") from problem


def copy_installed(folder: Path, asset: Asset, into: Path) -> None:
    """The same for files that lie in a folder already."""
    for file in asset.files:
        with (folder / Path(file.inside[-1]).name).open("rb") as source:
            _copy(source, into / file.name, file, asset.name)


def _copy(source: IO[bytes], target: Path, file: File, name: str) -> None:
    digest, size = sha256(), 0
    with target.open("wb") as out:
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > file.size:
                break
            digest.update(chunk)
            out.write(chunk)
    if size != file.size or digest.hexdigest() != file.sha256:
        found = f"sha256 {digest.hexdigest()}" if size == file.size else f"{size if size < file.size else 'more'} bytes"
        raise SettingsError(name, f"{file.name} is not the pinned one", expected=f"{file.size} bytes, sha256 {file.sha256}", found=found)


@contextmanager
def _opened(archive: Path, inside: tuple[str, ...]) -> Iterator[IO[bytes]]:
    first, *further = inside
    if archive.suffix in (".zip", ".whl"):
        with zipfile.ZipFile(archive) as whole, whole.open(first) as source:
            yield _nested(source, further)
    elif archive.suffix == ".deb":
        with _deb_as_tar(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield _nested(_next_of(tar, first), further)
    else:
        with tarfile.open(archive) as tar:
            yield _nested(_member(tar, first), further)


def _nested(source: IO[bytes], inside: list[str]) -> IO[bytes]:
    for name in inside:
        with tarfile.open(fileobj=io.BytesIO(source.read(_NESTED_BYTES_MAX))) as tar:
            source = io.BytesIO(_member(tar, name).read(_NESTED_BYTES_MAX))
    return source


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    source = tar.extractfile(name)
    if source is None:
        raise KeyError(f"{name} is no file")
    return source


def _next_of(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """A stream can only be read forwards."""
    for member in tar:
        if member.isfile() and member.name.removeprefix("./") == name:
            source = tar.extractfile(member)
            assert source is not None
            return source
    raise KeyError(f"{name} is not there")


@contextmanager
def _deb_as_tar(archive: Path) -> Iterator[IO[bytes]]:
    """The files of a Debian package as a tar stream; ``dpkg-deb`` runs none of the package's scripts."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reading:
        assert reading.stdout is not None
        try:
            yield reading.stdout
        finally:
            reading.terminate()
