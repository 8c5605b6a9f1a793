"""A user's own data that need no code: class folders of images, tables of texts, and data sets that Hugging Face ``datasets`` has saved.

What kind it is follows from the path: ``*.csv`` and ``*.jsonl`` are tables; a folder with ``dataset_info.json`` or ``dataset_dict.json``
was written by ``save_to_disk``; any other folder holds one folder for each class. Everything is read at once, in an order that the names
alone decide, so that every process has the same samples. Whatever cannot be used is told with the file, and the row where there are rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hosfl_async.errors import SettingsError
from hosfl_async.learning.plugins import TABLE_SUFFIXES
from hosfl_async.learning.samples import Samples
from hosfl_async.learning.settings import TaskSettings
from hosfl_async.learning.texts import tokenized, tokenizer_file

_WHERE = "task.data"
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_HELD_OUT = ("test", "validation")
"""Splits that are the test set, the first that is there; ``train`` is the other."""
FIELD_CHARACTERS_MAX = 10 * 2**20
"""Longest field of a table."""


def local_samples(path: Path, task: TaskSettings) -> Samples:
    """The samples in a file or folder. Raises ``SettingsError`` saying what cannot be used."""
    if path.suffix in TABLE_SUFFIXES:
        return _from_table(path, task)
    if not path.is_dir():
        raise SettingsError(_WHERE, "there is no such folder", expected="a folder, *.csv, *.jsonl or *.npz", found=str(path))
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return from_hugging_face(_saved(path), task, str(path))
    return _from_class_folders(path, task)


# -- class folders of images --------------------------------------------------------------------------


def _from_class_folders(path: Path, task: TaskSettings) -> Samples:
    """``path/CLASS/image.png``, or ``path/train/CLASS/...`` beside ``path/test/CLASS/...``."""
    splits = [path]
    if (path / "train").is_dir() and (held := [path / name for name in _HELD_OUT if (path / name).is_dir()]):
        splits = [path / "train", held[0]]
    names = sorted({folder.name for split in splits for folder in _folders(split)})
    if len(names) < 2:
        expected = "a folder of images for each of at least two classes"
        raise SettingsError(_WHERE, "no classes", expected=expected, found=f"{len(names)} in {path}")
    files, labels, held_out = [], [], []
    for number, split in enumerate(splits):
        for label, name in enumerate(names):
            of_class = _images_in(split / name)
            if not of_class and number == 0:
                raise SettingsError(_WHERE, "a class without images", expected=", ".join(IMAGE_SUFFIXES), found=str(split / name))
            files += of_class
            labels += [label] * len(of_class)
            held_out += [number > 0] * len(of_class)
    images = _stacked((_read_image(file, task.image_side) for file in files), files)
    return Samples(images, np.array(labels, np.int64), len(names), held_out=np.array(held_out) if len(splits) > 1 else None)


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith("."))


def _read_image(file: Path, side: int) -> NDArray[np.uint8]:
    image_class = _pillow()
    try:
        with image_class.open(file) as image:
            return _pixels(image, side)
    except Exception as problem:  # Pillow's plugins raise what they like
        raise SettingsError(_WHERE, f"an image that cannot be read: {type(problem).__name__}: {problem}", found=str(file)) from problem


def _pixels(image: Any, side: int) -> NDArray[np.uint8]:
    """uint8 (1 or 3, height, width): grey stays grey, everything else becomes red, green and blue."""
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if side:
        image = image.resize((side, side))
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _stacked(images: Iterable[NDArray[np.uint8]], names: Sequence[object]) -> NDArray[np.float32]:
    """float32 (n, channels, height, width) in [0, 1]; a grey image among coloured ones gets three equal channels."""
    read = list(images)
    for name, image in zip(names, read, strict=True):
        if image.shape[1:] != read[0].shape[1:]:
            raise SettingsError(
                _WHERE,
                "images of several sizes",
                expected=_size(read[0]),
                found=f"{_size(image)} in {name}",
                mend="task.image_side scales them all",
            )
    channels = max(image.shape[0] for image in read)
    stacked = np.empty((len(read), channels, *read[0].shape[1:]), np.float32)
    for place, image in zip(stacked, read, strict=True):
        place[:] = image
    stacked /= 255
    return stacked


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[2]}x{image.shape[1]}"


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as problem:
        raise SettingsError(_WHERE, f"images need pillow: {problem}", mend="pip install 'hosfl-async[data]'") from problem
    return Image


# -- tables of texts ----------------------------------------------------------------------------------


def _from_table(path: Path, task: TaskSettings) -> Samples:
    """One sample a row: ``input_column`` is its text, ``label_column`` its class, ``owner_column`` perhaps whose it is."""
    wanted = [task.input_column, task.label_column, *([task.owner_column] if task.owner_column else [])]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_csv_rows(file, path, wanted) if path.suffix == ".csv" else _jsonl_rows(file, path, wanted))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise SettingsError(_WHERE, f"cannot be read: {problem}", expected="a table in UTF-8", found=str(path)) from problem
    if not rows:
        raise SettingsError(_WHERE, "a table without rows", found=str(path))
    texts, labels, *owners = map(list, zip(*rows, strict=True))
    return _of_texts(texts, *_classes(labels, str(path)), task, owners[0] if owners else None, str(path))


def _csv_rows(file: Any, path: Path, wanted: list[str]) -> Iterator[list[Any]]:
    csv.field_size_limit(FIELD_CHARACTERS_MAX)
    reader = csv.DictReader(file)
    _check_columns(reader.fieldnames or [], wanted, str(path))
    for row in reader:
        yield _picked(row, wanted, f"{path}, line {reader.line_num}")


def _jsonl_rows(file: Any, path: Path, wanted: list[str]) -> Iterator[list[Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise SettingsError(_WHERE, f"not JSON: {problem}", expected="one object a line", found=where) from problem
        if not isinstance(row, dict):
            raise SettingsError(_WHERE, "not an object", expected="one object a line", found=where)
        _check_columns(list(row), wanted, where)
        yield _picked(row, wanted, where)


def _check_columns(there: Sequence[str], wanted: list[str], where: str) -> None:
    for name in wanted:
        if name not in there:
            raise SettingsError(
                _WHERE,
                f"{where} has no column {name!r}",
                expected="what task.input_column, label_column and owner_column name",
                found=", ".join(map(str, there[:12])) or "no columns",
            )


def _picked(row: dict[str, Any], wanted: list[str], where: str) -> list[Any]:
    values = [row[name] for name in wanted]
    if not isinstance(values[0], str) or any(isinstance(each, dict | list) or each in (None, "") for each in values):
        raise SettingsError(_WHERE, "a row without text or label", expected=f"{' and '.join(wanted)} in each", found=where)
    return values


def _classes(labels: Sequence[Any], name: str) -> tuple[NDArray[np.int64], int]:
    """Labels from 0: whole numbers as they are, words in the order of the alphabet."""
    texts = [str(label) for label in labels]
    if all(text.isdecimal() for text in texts):
        numbers = np.array([int(text) for text in texts], np.int64)
        classes = int(numbers.max()) + 1
        if len(np.unique(numbers)) == classes > 1:
            return numbers, classes
    names = sorted(set(texts), key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text))
    if len(names) < 2:
        raise SettingsError(_WHERE, "no classes", expected="at least two different labels", found=f"{names} in {name}")
    if len(names) > max(2, len(texts) // 2):
        found = f"{len(names)} labels for {len(texts)} samples in {name}"
        raise SettingsError(_WHERE, "hardly two samples share a label", expected="classes", found=found, mend="task.label_column")
    place = {text: number for number, text in enumerate(names)}
    return np.array([place[text] for text in texts], np.int64), len(names)


def _of_texts(
    texts: list[str], labels: NDArray[np.int64], classes: int, task: TaskSettings, owners: Sequence[Any] | None, name: str
) -> Samples:
    ids, vocabulary = tokenized(texts, tokenizer_file(task.model), task.tokens_max)
    empty = np.flatnonzero((ids < 0).all(axis=1))
    if empty.size:
        raise SettingsError(_WHERE, "a text without tokens", found=f"{texts[empty[0]][:40]!r} in {name}")
    return Samples(ids, labels, classes, vocabulary, owners=None if owners is None else _numbered(owners))


def _numbered(owners: Sequence[Any]) -> NDArray[np.int64]:
    return np.unique([str(owner) for owner in owners], return_inverse=True)[1].astype(np.int64)


# -- Hugging Face datasets ----------------------------------------------------------------------------


def _saved(path: Path) -> Any:
    """What ``save_to_disk`` wrote; nothing in the folder is executed."""
    try:
        from datasets import load_from_disk
    except ImportError as problem:
        raise SettingsError(_WHERE, f"{path} needs datasets: {problem}", mend="pip install 'hosfl-async[data]'") from problem
    try:
        return load_from_disk(str(path))
    except Exception as problem:  # arrow's and fsspec's own
        text = str(problem).partition("\n")[0]
        raise SettingsError(_WHERE, f"cannot be read: {type(problem).__name__}: {text}", found=str(path)) from problem


def from_hugging_face(given: Any, task: TaskSettings, name: str) -> Samples:
    """A ``datasets.Dataset``, or a ``DatasetDict`` with ``train`` and ``test`` (or ``validation``). ``input_column`` holds texts, images or
    numbers."""
    if isinstance(given, dict):
        held = next((split for split in _HELD_OUT if split in given), None)
        if "train" not in given:
            raise SettingsError(_WHERE, f"{name} has no split called train", found=", ".join(map(str, given)))
        parts = [given["train"], *([given[held]] if held else [])]
    else:
        parts = [given]
    wanted = [task.input_column, task.label_column, *([task.owner_column] if task.owner_column else [])]
    for part in parts:
        if not hasattr(part, "__len__"):
            problem = f"{name} is a stream, which nobody can deal to clients"
            raise SettingsError(_WHERE, problem, expected="a datasets.Dataset", found=type(part).__name__, mend="load it without streaming")
        _check_columns(part.column_names, wanted, name)
    inputs, raw, *owners = ([value for part in parts for value in part[column]] for column in wanted)
    if not inputs or any(value is None for value in (*inputs, *raw)):
        raise SettingsError(_WHERE, f"{name} has no samples, or some without {' or '.join(wanted)}")
    named = getattr(parts[0].features[task.label_column], "names", None)
    labels, classes = (np.array(raw, np.int64), len(named)) if named else _classes(raw, name)
    if isinstance(inputs[0], str):
        samples = _of_texts(inputs, labels, classes, task, owners[0] if owners else None, name)
    else:
        whose = _numbered(owners[0]) if owners else None
        samples = Samples(_numbers(inputs, task, name), labels, classes, owners=whose)
    if len(parts) == 1:
        return samples
    held_out = np.arange(len(labels)) >= len(parts[0])
    return Samples(samples.images, labels, classes, samples.vocabulary, held_out, samples.owners)


def is_hugging_face(given: Any) -> bool:
    """Whether this is such an object, without importing the package that would say."""
    return type(given).__module__.partition(".")[0] == "datasets" and hasattr(given, "column_names")


def _numbers(inputs: list[Any], task: TaskSettings, name: str) -> NDArray[np.float32]:
    if hasattr(inputs[0], "convert"):
        return _stacked((_pixels(image, task.image_side) for image in inputs), [f"{name}, row {row}" for row in range(len(inputs))])
    try:
        return np.asarray(inputs, np.float32)
    except (ValueError, TypeError) as problem:
        expected = "texts, images, or as many numbers in each row"
        raise SettingsError(_WHERE, f"{task.input_column} of {name} cannot be used: {problem}", expected=expected) from problem
