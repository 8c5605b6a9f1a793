"""Fetched images and sensor recordings, read without running anything that their files contain."""

from __future__ import annotations

import gzip
import pickle
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hosfl_async.assets import files_of
from hosfl_async.errors import SettingsError

WINDOW = 100
"""Samples of a window of ``watch``: two seconds at 50 Hz."""
_WINDOW_STEP = 50
_LATE_SHARE = 0.2
"""Of each recording, held out at its end when nobody is held out."""

_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("_codecs", "encode"): ("_codecs", "encode"),
}
"""All that a pickled array names: each builds an array and does nothing else."""


def fashion_mnist() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """70,000 images 1x28x28 in [0, 1], labels of 10 kinds of clothes, and which 10,000 are the test set (Xiao et al., arXiv:1708.07747)."""
    folder = files_of("fashion_mnist", "task.data")
    images = [_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28) for part in ("train", "t10k")]
    labels = [_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8) for part in ("train", "t10k")]
    held_out = np.arange(len(labels[0]) + len(labels[1])) >= len(labels[0])
    return (np.concatenate(images) / np.float32(255)).astype(np.float32), np.concatenate(labels).astype(np.int64), held_out


def _idx(path: Path, head: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=head)


def watch(
    test_people: tuple[int, ...], train_people: tuple[int, ...] = ()
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Windows 6x1x100 of a smartwatch's acceleration and rotation, labels of 7 exercises, which are held out, and whose they are.

    Held out are all windows of ``test_people`` (1 to 10), or without any the last fifth of each recording. Of the others those of
    ``train_people`` are there, without any all. Windows overlap by half, and never one in training with one that is held out. (Burns et
    al., "Shoulder physiotherapy exercise recognition", arXiv:1802.01489.)
    """
    if not set(test_people) < set(range(1, 11)):
        raise SettingsError("task.test_people", "no such person, or nobody is left", expected="some of 1 to 10", found=str(test_people))
    if not set(train_people) <= set(range(1, 11)) - set(test_people):
        wanted = "some of 1 to 10 who are not in task.test_people"
        raise SettingsError("task.train_people", "cannot train", expected=wanted, found=str(train_people))
    with (files_of("watch", "task.data") / "watch_dataset.npy").open("rb") as file:
        recordings = _harmless(file)
    windows, labels, held_out, people = [], [], [], []
    for values, label, person in zip(recordings["X"], recordings["y"], recordings["subject"], strict=True):
        if train_people and person not in (*train_people, *test_people):
            continue
        late = len(values) - int(len(values) * _LATE_SHARE)
        parts = [(values, person in test_people)] if test_people else [(values[:late], False), (values[late:], True)]
        for part, away in parts:
            for begin in range(0, len(part) - WINDOW + 1, _WINDOW_STEP):
                windows.append(part[begin : begin + WINDOW].T[:, None, :])
                labels.append(label)
                held_out.append(away)
                people.append(person)
    return np.array(windows, np.float32), np.array(labels, np.int64), np.array(held_out, bool), np.array(people, np.int64)


def _harmless(file: IO[bytes]) -> dict[str, Any]:
    """The one object of a pickled ``.npy``."""
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    whole = _Unpickler(file, encoding="latin1").load()
    content: dict[str, Any] = whole.item()
    return content


class _Unpickler(pickle.Unpickler):
    """Builds arrays and plain containers; whatever else a pickle asks for is refused before anything is built."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise SettingsError("task.data", f"the file asks for {module}.{name}, which no array needs")
        where, what = _HARMLESS[module, name]
        return getattr(import_module(where), what)
