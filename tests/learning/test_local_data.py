"""Folders of images, tables of texts and Hugging Face data sets as they lie on a user's disk; and the ways in which they are of no use."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hosfl_async.errors import SettingsError
from hosfl_async.learning import local_data
from hosfl_async.learning.data import load_dataset, partition
from hosfl_async.learning.local_data import _classes, from_hugging_face
from hosfl_async.learning.settings import PartitionSettings, TaskSettings
from hosfl_async.scenario import load_scenario

WORDS = [*"abcdefgh", "good", "bad", "fine", "poor", "film", "was", "the", "very"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real tokenizer of a few words, in the place of a fetched one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({word: number for number, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(local_data, "tokenizer_file", lambda model: tmp_path / "tokenizer.json")


def picture(value: int, size: tuple[int, int] = (4, 6), mode: str = "L") -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, 0, 255))


def class_folders(root: Path, names: tuple[str, ...] = ("ant", "bee"), count: int = 10) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(10 * label + number).save(root / name / f"{number:02}.png")
    return root


def test_class_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    class_folders(tmp_path / "pictures", ("bee", "ant"), 10)
    (tmp_path / "pictures" / ".hidden").mkdir()
    (tmp_path / "pictures" / "ant" / "notes.txt").write_text("not an image")
    data = load_dataset(TaskSettings(data=str(tmp_path / "pictures")), 0)
    assert data.classes == 2 and data.train_images.shape == (16, 1, 6, 4) and len(data.test_labels) == 4
    values = {(round(float(image[0, 0, 0]) * 255), int(label)) for image, label in zip(data.train_images, data.train_labels, strict=True)}
    assert all((value >= 10) == (label == 0) for value, label in values), "ant, written second, is class 0"
    again = load_dataset(TaskSettings(data=str(tmp_path / "pictures")), 0)
    assert (again.train_images == data.train_images).all()


def test_train_and_test_folders_are_the_split(tmp_path: Path) -> None:
    class_folders(tmp_path / "p" / "train", count=3)
    class_folders(tmp_path / "p" / "test", ("bee",), 2)
    data = load_dataset(TaskSettings(data=f"{tmp_path}/p"), 0)
    assert (len(data.train_labels), data.test_labels.tolist()) == (6, [1, 1])


def test_a_coloured_image_among_grey_ones_and_a_common_size(tmp_path: Path) -> None:
    class_folders(tmp_path / "p")
    picture(7, (8, 8), "RGB").save(tmp_path / "p" / "ant" / "big.png")
    data = load_dataset(TaskSettings(data=f"{tmp_path}/p", image_side=5), 0)
    assert data.train_images.shape[1:] == (3, 5, 5) and 0.0 <= data.train_images.min() <= data.train_images.max() <= 1.0


def spoil_size(root: Path) -> None:
    picture(1, (5, 5)).save(root / "ant" / "odd.png")


def spoil_file(root: Path) -> None:
    (root / "bee" / "03.png").write_bytes(b"not a png")


def spoil_class(root: Path) -> None:
    (root / "cat").mkdir()


def spoil_all(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / name).rename(root.parent / name)


@pytest.mark.parametrize(
    ("spoil", "words_"),
    [
        (spoil_size, r"images of several sizes; expected 4x6; found 5x5 in .*odd\.png; task\.image_side"),
        (spoil_file, r"an image that cannot be read.*03\.png"),
        (spoil_class, r"a class without images.*cat"),
        (spoil_all, r"no classes"),
    ],
)
def test_folders_that_cannot_be_used_are_told(spoil: Any, words_: str, tmp_path: Path) -> None:
    spoil(class_folders(tmp_path / "p"))
    with pytest.raises(SettingsError, match=words_):
        load_dataset(TaskSettings(data=f"{tmp_path}/p"), 0)


def rows(count: int = 20) -> list[dict[str, Any]]:
    return [
        {"text": f"the film was {['bad', 'good'][i % 2]} {WORDS[i % 8]}", "label": ["no", "yes"][i % 2], "who": f"p{i % 3}"}
        for i in range(count)
    ]


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_of_texts(suffix: str, tmp_path: Path, words: None) -> None:
    table = [*rows(), {"text": 'very "fine",\nthe film', "label": "yes", "who": "p0"}]
    path = write(tmp_path / f"t{suffix}", table)
    data = load_dataset(TaskSettings(data=str(path), owner_column="who"), 0)
    assert data.classes == 2 and data.vocabulary == len(WORDS) + 1 and len(data.train_labels) + len(data.test_labels) == 21
    assert data.train_owners is not None and set(data.train_owners.tolist()) == {0, 1, 2}
    order, bounds = partition(data.train_labels, 3, PartitionSettings(rule="natural"), 0, data.train_owners)
    assert [len(set(data.train_owners[order[a:b]].tolist())) for a, b in pairwise(bounds)] == [1, 1, 1]


BAD_TABLES: dict[str, tuple[str, str, str]] = {
    "no rows": ("t.csv", "text,label\n", "without rows"),
    "no header": ("t.csv", "", "no column 'text'"),
    "another column": ("t.csv", "words,label\na,1\n", "no column 'text'.*found words, label"),
    "a short row": ("t.csv", "text,label\na b,1\nc\n", "line 3"),
    "one label": ("t.csv", "text,label\na,1\nb,1\n", "at least two different labels"),
    "labels that are none": ("t.csv", "text,label\n" + "".join(f"a,w{i}\n" for i in range(9)), "hardly two samples share a label"),
    "not utf-8": ("t.csv", "text,label\n\xe9,1\n", "cannot be read"),
    "not json": ("t.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "line 2"),
    "a list": ("t.jsonl", "[1]\n", "not an object"),
    "a number for a text": ("t.jsonl", '{"text": 3, "label": 1}\n', "without text or label"),
    "a nested label": ("t.jsonl", '{"text": "a", "label": [1]}\n', "without text or label"),
    "no label": ("t.jsonl", '{"text": "a", "label": null}\n', "without text or label"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_cannot_be_used_are_told(case: str, tmp_path: Path, words: None) -> None:
    name, content, text = BAD_TABLES[case]
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=text):
        load_dataset(TaskSettings(data=str(tmp_path / name)), 0)


@given(st.lists(st.integers(0, 6) | st.sampled_from(["yes", "no", "7"]), min_size=2, max_size=60))
def test_labels_become_numbers_that_tell_classes_apart(raw: list[Any]) -> None:
    try:
        labels, classes = _classes(raw, "t")
    except SettingsError:
        assert len(set(map(str, raw))) < 2 or len(set(map(str, raw))) > max(2, len(raw) // 2)
        return
    assert set(labels.tolist()) == set(range(classes)) and classes == len(set(map(str, raw)))
    for one, label in zip(raw, labels, strict=True):
        assert all((str(one) == str(other)) == (label == its) for other, its in zip(raw, labels, strict=True))


def hugging_face() -> Any:
    return pytest.importorskip("datasets", reason="the extra data is not installed")


def test_a_saved_data_set_of_images_with_its_own_split(tmp_path: Path) -> None:
    datasets = hugging_face()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    train = datasets.Dataset.from_dict({"image": [picture(i) for i in range(6)], "label": [0, 2, 0, 2, 0, 2]}, features=features)
    test = datasets.Dataset.from_dict({"image": [picture(9)], "label": [2]}, features=features)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "hf"))
    data = load_dataset(TaskSettings(data=f"{tmp_path}/hf", input_column="image"), 0)
    assert data.classes == 3, "a class that nobody has is one all the same"
    assert data.train_images.shape == (6, 1, 6, 4) and data.test_labels.tolist() == [2] and data.train_labels.tolist() == [0, 2, 0, 2, 0, 2]


def test_a_saved_data_set_of_texts_and_one_of_numbers(tmp_path: Path, words: None) -> None:
    datasets = hugging_face()
    table = rows()
    datasets.Dataset.from_list(table).save_to_disk(str(tmp_path / "texts"))
    data = load_dataset(TaskSettings(data=f"{tmp_path}/texts", owner_column="who"), 0)
    write(tmp_path / "t.csv", table)
    same = load_dataset(TaskSettings(data=f"{tmp_path}/t.csv", owner_column="who"), 0)
    assert (data.train_images == same.train_images).all() and (data.train_labels == same.train_labels).all()
    numbers = datasets.Dataset.from_dict({"x": [[float(i), 1.0] for i in range(8)], "label": [0, 1] * 4})
    samples = from_hugging_face(numbers, TaskSettings(input_column="x"), "numbers")
    assert samples.images.shape == (8, 2) and samples.classes == 2
    ragged = datasets.Dataset.from_dict({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]})
    with pytest.raises(SettingsError, match="as many numbers in each row"):
        from_hugging_face(ragged, TaskSettings(input_column="x"), "ragged")


def test_data_sets_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    datasets = hugging_face()
    made = datasets.Dataset.from_dict({"x": [[1.0], [2.0]], "label": [0, None]})
    with pytest.raises(SettingsError, match=r"is a stream.*expected a datasets.Dataset; found IterableDataset"):
        from_hugging_face(made.to_iterable_dataset(), TaskSettings(input_column="x"), "made")
    with pytest.raises(SettingsError, match=r"no column 'text'; .* found x, label"):
        from_hugging_face(made, TaskSettings(), "made")
    with pytest.raises(SettingsError, match="without x or label"):
        from_hugging_face(made, TaskSettings(input_column="x"), "made")
    with pytest.raises(SettingsError, match="no split called train; found test"):
        from_hugging_face(datasets.DatasetDict({"test": made}), TaskSettings(input_column="x"), "made")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "dataset_info.json").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_dataset(TaskSettings(data=f"{tmp_path}/hf"), 0)


def test_a_function_may_return_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hugging_face()
    name = f"my_set_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from datasets import Dataset\n"
        "def made(seed):\n"
        "    return Dataset.from_dict({'x': [[float(i)] for i in range(20)], 'label': [0, 1] * 10})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_dataset(TaskSettings(data=f"{name}:made", input_column="x"), 0).train_images.shape == (16, 1)


def test_without_the_extra_it_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    class_folders(tmp_path / "p")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for folder in ("p", "hf"):
        with pytest.raises(SettingsError, match=r"pip install 'hosfl-async\[data\]'"):
            load_dataset(TaskSettings(data=f"{tmp_path}/{folder}"), 0)


def test_a_scenario_names_a_path_with_a_slash(tmp_path: Path) -> None:
    assert load_scenario("quickstart", {"task.data": f"{tmp_path}/p"}).task.data == f"{tmp_path}/p"
    with pytest.raises(SettingsError, match=r"unknown name.*or ./FOLDER"):
        load_scenario("quickstart", {"task.data": "photos"})
    with pytest.raises(SettingsError, match="no such folder"):
        load_dataset(TaskSettings(data="./nowhere"), 0)
