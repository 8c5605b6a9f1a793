"""Where fetched files lie: one folder for each asset, complete or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

from hosfl_async.assets.catalogue import CATALOGUE, Asset
from hosfl_async.errors import SettingsError

CACHE_VARIABLE = "HOSFL_CACHE"
"""Environment variable that moves the cache."""


def cache_folder() -> Path:
    """``$HOSFL_CACHE``, or ``hosfl_async`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``). It need not exist."""
    if moved := os.environ.get(CACHE_VARIABLE):
        return Path(moved).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hosfl_async"


def cached(asset: Asset) -> Path | None:
    """The asset's folder if all its files are there with their sizes. Digests were checked when they were written."""
    folder = cache_folder() / asset.folder
    whole = all((folder / file.name).is_file() and (folder / file.name).stat().st_size == file.size for file in asset.files)
    return folder if whole else None


def files_of(name: str, where: str) -> Path:
    """The folder of a fetched asset. Raises ``SettingsError``, saying how to fetch it; ``where`` is the setting that wants it."""
    folder = cached(CATALOGUE[name])
    if folder is None:
        raise SettingsError(where, f"{name} is not on this machine", mend=f"fetch it once: hosfl data fetch {name}")
    return folder
