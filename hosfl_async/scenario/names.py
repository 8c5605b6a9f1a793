"""The scenarios that come with the package, by their names: ``quickstart`` is as good as the path of its file, wherever one stands."""

from __future__ import annotations

from pathlib import Path

from hosfl_async.errors import SettingsError, meant

_PACKAGE = Path(__file__).parents[1]


def gallery_folder() -> Path:
    """Where they lie: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "gallery"
    return installed if installed.is_dir() else _PACKAGE.parent / "scenarios"


def gallery() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    return {file.stem: file for file in sorted(gallery_folder().glob("*.toml"))}


def scenario_file(given: str | Path) -> Path:
    """The file that ``given`` means: a path, or the name of a scenario of the gallery. What exists as a path is one.

    Raises ``SettingsError`` for a bare word that is neither.
    """
    path = Path(given)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    known = gallery()
    if str(given) not in known:
        raise SettingsError(
            str(given), "no such scenario", expected=f"a TOML file, or one of {', '.join(known)}", mend=meant(str(given), known)
        )
    return known[str(given)]
