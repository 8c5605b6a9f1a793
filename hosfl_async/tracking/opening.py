"""From ``mlflow=sqlite:///runs.db`` to a tracker; says which extra is missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from hosfl_async.errors import SettingsError, meant
from hosfl_async.tracking.tracker import Tracker


def _tensorboard(place: str) -> Tracker:
    from hosfl_async.tracking.to_tensorboard import TensorBoardTracker

    return TensorBoardTracker(place or "tensorboard")


def _mlflow(place: str) -> Tracker:
    from hosfl_async.tracking.to_mlflow import MlflowTracker

    return MlflowTracker(place)


def _wandb(place: str) -> Tracker:
    from hosfl_async.tracking.to_wandb import WandbTracker

    return WandbTracker(place or ".")


def _parquet(place: str) -> Tracker:
    from hosfl_async.tracking.to_parquet import ParquetTracker

    return ParquetTracker(place or "curves")


TOOLS: dict[str, tuple[Callable[[str], Tracker], tuple[str, ...]]] = {
    "tensorboard": (_tensorboard, ("tensorboard",)),
    "mlflow": (_mlflow, ("mlflow", "sqlalchemy", "alembic")),
    "wandb": (_wandb, ("wandb",)),
    "parquet": (_parquet, ("pyarrow",)),
}
"""Each tool's tracker, and the packages of the extra that bears its name."""


def open_tracker(wish: str) -> Tracker:
    """``wish``: the name of a tool, or ``NAME=PLACE``. Raises ``SettingsError`` for an unknown tool, or one that is not installed."""
    name, _, place = wish.partition("=")
    if name not in TOOLS:
        expected = f"{', '.join(TOOLS)}, or NAME=PLACE"
        raise SettingsError("tracking", "no such tool", expected=expected, found=repr(wish[:100]), mend=meant(name, TOOLS))
    make, packages = TOOLS[name]
    if missing := [package for package in packages if not _installed(package)]:
        mend = f"pip install 'hosfl-async[{name}]'"
        raise SettingsError(f"tracking: {name}", f"not installed: {', '.join(missing)}", mend=mend)
    return make(place)


def _installed(package: str) -> bool:
    """A folder of that name where somebody works, such as the one that wandb makes, is no package: it has no origin."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
