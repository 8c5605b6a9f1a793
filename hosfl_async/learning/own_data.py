"""A user's own data: a function by its path or entry point, an ``.npz`` file, or what ``local_data`` reads. Whatever it is, it is checked
before it is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hosfl_async.errors import SettingsError
from hosfl_async.learning.local_data import from_hugging_face, is_hugging_face, local_samples
from hosfl_async.learning.plugins import DATA, called, find_plugin, is_path
from hosfl_async.learning.samples import Samples
from hosfl_async.learning.settings import DATA_NAMES, TaskSettings

_WHERE = "task.data"


def own_samples(task: TaskSettings, seed: int) -> Samples:
    """What ``task.data`` gives: a file or folder, or a function of the seed that returns ``Samples``, (images, labels) or a Hugging Face
    data set."""
    name = task.data
    if name.endswith(".npz"):
        return checked(_from_file(Path(name)), name)
    if is_path(name):
        return checked(local_samples(Path(name), task), name)
    given = called(find_plugin(DATA, name, _WHERE, DATA_NAMES), _WHERE, name, seed)
    hugging_face = is_hugging_face(given) or (isinstance(given, dict) and any(map(is_hugging_face, given.values())))
    return checked(from_hugging_face(given, task, name) if hugging_face else given, name)


def _from_file(path: Path) -> Samples:
    """Arrays ``images`` and ``labels``; perhaps ``test_images`` and ``test_labels``, and ``owners`` of the training samples."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as problem:
        raise SettingsError(_WHERE, f"cannot be read: {problem}", expected=".npz with images and labels", found=str(path)) from problem
    owners = arrays.get("owners")
    if "test_images" not in arrays:
        return Samples(images, labels, _classes(labels), owners=owners)
    whole = np.concatenate([images, arrays["test_images"]]), np.concatenate([labels, arrays["test_labels"]])
    held_out = np.arange(len(whole[1])) >= len(labels)
    if owners is not None:
        owners = np.concatenate([owners, np.full(len(whole[1]) - len(labels), -1)])
    return Samples(*whole, _classes(whole[1]), held_out=held_out, owners=owners)


def checked(given: Any, name: str) -> Samples:
    """The same with the dtypes that the package computes with. Raises ``SettingsError`` saying what is wrong."""
    if isinstance(given, tuple) and len(given) == 2:
        images, labels = map(np.asarray, given)
        given = Samples(images, labels, _classes(labels))
    if not isinstance(given, Samples):
        _refuse(name, "Samples or (images, labels)", type(given).__name__)
    images, labels = np.asarray(given.images), np.asarray(given.labels)
    if images.ndim < 2 or labels.shape != images.shape[:1] or not len(labels):
        _refuse(name, "images (n, ...) and labels (n,)", f"shapes {images.shape} and {labels.shape}")
    if images.dtype.kind not in "fiub" or labels.dtype.kind not in "iu":
        _refuse(name, "numbers, and whole numbers as labels", f"{images.dtype} and {labels.dtype}")
    if labels.min() < 0 or labels.max() >= given.classes:
        _refuse(name, f"labels from 0 to {given.classes - 1}", f"{labels.min()} to {labels.max()}")
    if given.vocabulary and (images.ndim != 2 or images.min() < -1 or images.max() >= given.vocabulary):
        _refuse(name, f"tokens (n, longest) below {given.vocabulary}, -1 as padding", f"{images.shape}, {images.min()} to {images.max()}")
    if not given.vocabulary and not np.isfinite(images).all():
        _refuse(name, "finite numbers", "some that are not")
    for what, array in (("held_out", given.held_out), ("owners", given.owners)):
        if array is not None and np.shape(array) != labels.shape:
            _refuse(name, f"{what} for each of {len(labels)} samples", f"shape {np.shape(array)}")
    kind = np.int32 if given.vocabulary else np.float32
    held_out = None if given.held_out is None else np.asarray(given.held_out, bool)
    return Samples(images.astype(kind), labels.astype(np.int64), given.classes, given.vocabulary, held_out, given.owners)


def _classes(labels: Any) -> int:
    return int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" else 1


def _refuse(name: str, expected: str, found: str) -> None:
    raise SettingsError(_WHERE, f"{name} gives data that cannot be used", expected=expected, found=found)
