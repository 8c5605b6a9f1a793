"""Splits, shards and batches: every sample exactly once, and everything a pure function of its name."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.errors import SettingsError
from hosfl_async.learning.data import BatchSampler, load_dataset, partition
from hosfl_async.learning.settings import PartitionSettings, TaskSettings
from hosfl_async.messages import StepId

RULES = st.sampled_from(["iid", "dirichlet", "shards", "quantity"])


@given(
    rule=RULES,
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=200),
    clients=st.integers(1, 12),
    alpha=st.sampled_from([0.01, 0.5, 100.0]),
    shards=st.integers(1, 5),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_every_sample_goes_to_exactly_one_client(
    rule: str, labels: list[int], clients: int, alpha: float, shards: int, seed: int, data: st.DataObject
) -> None:
    samples_min = data.draw(st.integers(1, len(labels) // clients))
    settings = PartitionSettings(rule=rule, dirichlet_alpha=alpha, shards_per_client=shards, samples_min=samples_min)
    order, bounds = partition(np.array(labels), clients, settings, seed)
    assert sorted(order) == list(range(len(labels)))
    assert len(bounds) == clients + 1 and bounds[0] == 0 and bounds[-1] == len(labels)
    assert min(np.diff(bounds)) >= samples_min
    again = partition(np.array(labels), clients, settings, seed)
    assert (order == again[0]).all() and (bounds == again[1]).all()


def shares_of(rule: str, **more: float) -> np.ndarray:
    """Label counts of each of 10 clients, 2,000 samples of 4 classes."""
    labels = np.arange(2000) % 4
    order, bounds = partition(labels, 10, PartitionSettings(rule=rule, **more), 1)
    return np.array([np.bincount(labels[order[a:b]], minlength=4) for a, b in pairwise(bounds)])


def test_rules_differ_in_skew() -> None:
    iid, dirichlet, shards = shares_of("iid"), shares_of("dirichlet", dirichlet_alpha=0.1), shares_of("shards", shards_per_client=1)
    assert (iid.sum(axis=1) == 200).all() and iid.min() > 30
    assert np.median(dirichlet.max(axis=1) / dirichlet.sum(axis=1)) > 0.6
    assert ((shards > 0).sum(axis=1) <= 2).all()


def test_promising_more_samples_than_there_are_is_refused() -> None:
    with pytest.raises(SettingsError, match="samples_min"):
        partition(np.zeros(9, np.int64), 10, PartitionSettings(), 0)


@given(client=st.text("ab", min_size=1, max_size=3), number=st.integers(0, 9), samples=st.integers(1, 100), seed=st.integers(0, 2))
def test_a_batch_is_a_pure_function_of_seed_and_step(client: str, number: int, samples: int, seed: int) -> None:
    sampler, other = BatchSampler(seed, 16), BatchSampler(seed, 16)
    other.draw(StepId("c", 1, 1), 50)
    batch = sampler.draw(StepId(client, 1, number), samples)
    assert batch == other.draw(StepId(client, 1, number), samples)
    assert len(batch) == 16 and min(batch) >= 0 and max(batch) < samples
    assert samples < 16 or len(set(batch)) == 16, "without replacement where the shard is large enough"
    if samples > 30:
        assert batch != BatchSampler(seed + 1, 16).draw(StepId(client, 1, number), samples)
        assert batch != sampler.draw(StepId(client, 1, number + 1), samples)


def test_batches_visit_all_samples_evenly() -> None:
    sampler = BatchSampler(0, 8)
    for samples in (5, 40):
        visits = np.bincount(np.concatenate([sampler.draw(StepId("c", 1, n), samples) for n in range(2000)]), minlength=samples)
        expected = 2000 * 8 / samples
        assert np.abs(visits - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(("name", "shape", "classes"), [("digits", (1, 8, 8), 10), ("toy", (1, 4, 4), 4)])
def test_data_sets_are_split_by_class_and_repeatable(name: str, shape: tuple[int, ...], classes: int) -> None:
    task = TaskSettings(data=name, test_fraction=0.2)
    data, again, other = load_dataset(task, 1), load_dataset(task, 1), load_dataset(task, 2)
    assert data.image_shape == shape and data.classes == classes
    assert data.train_images.dtype == np.float32 and data.train_images.min() >= 0 and data.train_images.max() <= 1
    assert data.train_images.tobytes() == again.train_images.tobytes() != other.train_images.tobytes()
    total = np.bincount(data.train_labels) + np.bincount(data.test_labels)
    assert np.abs(np.bincount(data.test_labels) - 0.2 * total).max() <= 0.5
    assert {row.tobytes() for row in data.train_images}.isdisjoint({row.tobytes() for row in data.test_images})


def test_nothing_held_out_is_refused() -> None:
    with pytest.raises(SettingsError, match="test_fraction"):
        load_dataset(TaskSettings(data="toy", toy_samples=40, test_fraction=0.01), 0)
