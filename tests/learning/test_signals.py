"""Images and recordings out of files made here: what is read, what is held out, whose it is; a hostile pickle is not run."""

from __future__ import annotations

import gzip
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from stand_ins import HEAD, write_watch

from hosfl_async.errors import SettingsError
from hosfl_async.learning import signals
from hosfl_async.learning.data import load_dataset, own_test, partition
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import ModelSettings, PartitionSettings, TaskSettings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signals, "files_of", lambda name, where: tmp_path)
    return tmp_path


def test_people_are_held_out_whole_and_are_the_natural_clients(folder: Path) -> None:
    for away in ((), (3, 7)):
        write_watch(folder)
        data = load_dataset(TaskSettings(data="watch", test_people=away), 0)
        assert data.train_images.shape[1:] == (6, 1, 100) and data.classes == 7
        in_test = set((data.test_images[:, 0, 0, 0] // 100).astype(int))
        in_training = set((data.train_images[:, 0, 0, 0] // 100).astype(int))
        assert in_test == (set(away) or set(range(1, 11))) and in_training == set(range(1, 11)) - set(away)
        assert data.train_owners is not None
        assert ((data.train_images[:, 0, 0, 0] // 100).astype(int) == data.train_owners).all()
        order, bounds = partition(data.train_labels, len(in_training), PartitionSettings(rule="natural"), 0, data.train_owners)
        for begin, end in pairwise(bounds):
            assert len(set(data.train_owners[order[begin:end]])) == 1


def test_no_window_in_training_overlaps_one_that_is_held_out(folder: Path) -> None:
    write_watch(folder)
    data = load_dataset(TaskSettings(data="watch", test_people=()), 0)
    training, test = (images[:, 0, 0, :] for images in (data.train_images, data.test_images))
    assert len(test) and not set(training.ravel().tolist()) & set(test.ravel().tolist())


@pytest.mark.parametrize("gap", [0, 1])
def test_a_persons_own_test_overlaps_no_window_it_trains_on_where_a_gap_is_left(folder: Path, gap: int) -> None:
    write_watch(folder)
    data = load_dataset(TaskSettings(data="watch"), 0)
    order, bounds = partition(data.train_labels, 8, PartitionSettings(rule="natural"), 0, data.train_owners)
    for begin, end in pairwise(bounds):
        training, test = (data.train_images[part, 0, 0, :] for part in own_test(order[begin:end], data.train_labels, 0.2, gap))
        assert len(test) and bool(set(training.ravel().tolist()) & set(test.ravel().tolist())) == (gap == 0)


def test_chosen_people_train_alone_and_the_test_stays(folder: Path) -> None:
    write_watch(folder)
    all_there, alone = (load_dataset(TaskSettings(data="watch", train_people=chosen), 0) for chosen in ((), (4,)))
    assert alone.train_owners is not None and set(alone.train_owners) == {4}
    np.testing.assert_array_equal(alone.test_images, all_there.test_images)
    with pytest.raises(SettingsError, match=r"task\.train_people"):
        load_dataset(TaskSettings(data="watch", train_people=(9,)), 0)


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_and_not_run(folder: Path) -> None:
    with (folder / "watch_dataset.npy").open("wb") as file:
        file.write(HEAD)
        file.write(pickle.dumps(_Hostile(folder / "ran"), protocol=2))
    with pytest.raises(SettingsError, match="which no array needs"):
        signals.watch((9,))
    assert not (folder / "ran").exists()


def test_nobody_left_to_train_is_told(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"task\.test_people"):
        signals.watch(tuple(range(1, 11)))


def test_clothes_keep_their_own_test_set(folder: Path) -> None:
    for part, count, grey in (("train", 50, 0), ("t10k", 10, 255)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + bytes([grey]) * (count * 784)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + bytes(i % 10 for i in range(count))))
    data = load_dataset(TaskSettings(data="fashion_mnist"), 0)
    assert data.train_images.shape == (50, 1, 28, 28) and not data.train_images.any() and (data.test_images == 1).all()
    assert data.test_labels.tolist() == list(range(10))
    few = load_dataset(TaskSettings(data="fashion_mnist", samples_max=20), 0)
    fewer, other = (load_dataset(TaskSettings(data="fashion_mnist", test_samples_max=3), seed) for seed in (0, 1))
    assert len(fewer.test_labels) == 3 and len(fewer.train_labels) == len(data.train_labels)
    assert sorted({*fewer.test_labels}) == fewer.test_labels.tolist() != other.test_labels.tolist()
    assert few.train_images.shape[0] == 20 and len(few.test_labels) == 10


def test_natural_needs_owners_and_enough_of_them() -> None:
    labels, natural = np.zeros(12, np.int64), PartitionSettings(rule="natural")
    with pytest.raises(SettingsError, match="do not say whose"):
        partition(labels, 2, natural, 0)
    with pytest.raises(SettingsError, match="at most 3"):
        partition(labels, 4, natural, 0, np.arange(12) % 3)
    order, bounds = partition(labels, 2, natural, 0, np.arange(12) % 3)
    assert np.diff(bounds).tolist() == [8, 4] and sorted(order) == list(range(12))


def test_quantity_skews_sizes_and_not_labels() -> None:
    labels = np.arange(4000) % 4
    order, bounds = partition(labels, 8, PartitionSettings(rule="quantity", dirichlet_alpha=0.5), 1)
    sizes = np.diff(bounds)
    assert sizes.max() > 4 * sizes.min() and sorted(order) == list(range(4000))
    for begin, end in pairwise(bounds):
        if end - begin > 400:
            assert np.bincount(labels[order[begin:end]], minlength=4).max() / (end - begin) < 0.35


def test_a_signal_is_convolved_along_time_only() -> None:
    model = build_model(ModelSettings(name="cnn", client_widths=(8, 16), server_widths=(32,)), (6, 1, 100), 7)
    assert model.cut_shape == (16, 1, 25) and model.client.size == 6 * 8 * 5 + 8 + 8 * 16 * 5 + 16
    with pytest.raises(SettingsError, match="leave nothing"):
        build_model(ModelSettings(name="cnn", client_widths=(2,) * 7), (6, 1, 100), 7)
