"""Data sets by name, how they are dealt to the clients, and how a step's batch is drawn.

Everything is a pure function of names: the same seed gives the same split, the same shards and, for each ``StepId``, the same batch,
whatever was drawn before and on whichever machine. So a step can be repeated, and a run can be computed again by the oracle.

A data set is added by writing one function that returns its ``Samples`` and entering it in ``_SOURCES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from hosfl_async.errors import SettingsError
from hosfl_async.learning.own_data import own_samples
from hosfl_async.learning.perturbation import aligned_vector
from hosfl_async.learning.randomness import KEY_BYTES, named_key, permutation, raw_stream, step_name, uniform_stream
from hosfl_async.learning.samples import Images, Indices, Labels, Samples
from hosfl_async.learning.sequences import PADDING, as_samples
from hosfl_async.learning.settings import PartitionSettings, TaskSettings
from hosfl_async.learning.signals import fashion_mnist, watch
from hosfl_async.messages import StepId


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training and held-out samples: ``Images``, and labels (n,) int64 below ``classes``."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: int
    vocabulary: int = 0
    """Token ids are below it. 0: these are no tokens."""
    train_owners: Indices | None = None
    """Whose each training sample is, where the data say so."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train_images.shape[1:]

    def shaped(self, input_shape: tuple[int, ...]) -> Dataset:
        """The same samples, each in the shape that a model takes."""
        train, test = (images.reshape(-1, *input_shape) for images in (self.train_images, self.test_images))
        return replace(self, train_images=train, test_images=test)


def load_dataset(task: TaskSettings, seed: int) -> Dataset:
    """The named data set, split into training and held-out samples; each class gives ``test_fraction`` of its own, if nothing is fixed."""
    samples = _SOURCES[task.data](task, seed) if task.data in _SOURCES else own_samples(task, seed)
    held_out = _held_out(samples, task.test_fraction, seed) if samples.held_out is None else samples.held_out
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if samples.vocabulary:  # sequences of about one length are evaluated together, with little padding
        test = test[np.argsort((samples.images[test] != PADDING).sum(axis=1), kind="stable")]
    if 0 < task.samples_max < len(train):
        train = np.sort(train[permutation(named_key("samples kept", seed), len(train))[: task.samples_max]])
    if 0 < task.test_samples_max < len(test):
        test = test[np.sort(permutation(named_key("held-out samples kept", seed), len(test))[: task.test_samples_max])]
    images, labels = samples.images, samples.labels
    owners = None if samples.owners is None else samples.owners[train]
    parts = (_aligned(images[train]), labels[train], _aligned(images[test]), labels[test])
    return Dataset(*parts, samples.classes, samples.vocabulary, owners)


def _held_out(samples: Samples, test_fraction: float, seed: int) -> NDArray[np.bool_]:
    held_out = np.zeros(len(samples.labels), bool)
    for label in range(samples.classes):
        members = np.flatnonzero(samples.labels == label)
        order = permutation(named_key("held out", seed, str(label)), len(members))
        held_out[members[order[: round(len(members) * test_fraction)]]] = True
    if not held_out.any():
        raise SettingsError("task.test_fraction", "no sample is held out", found=str(test_fraction))
    return held_out


def _aligned(images: Images) -> Images:
    """A copy that starts at a cache line in every process, since alignment can change how a product rounds."""
    copy = aligned_vector(images.size).view(images.dtype).reshape(images.shape)
    copy[:] = images
    return copy


def _digits(task: TaskSettings, seed: int) -> Samples:
    """1,797 handwritten digits of 8x8 pixels, bundled with scikit-learn (BSD); grey levels 0..16 scaled to [0, 1]."""
    from sklearn.datasets import load_digits  # half a second of imports that other data do not need

    images, labels = load_digits(return_X_y=True)
    return Samples((images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64), 10)


def _toy(task: TaskSettings, seed: int) -> Samples:
    """Four noisy patterns of 1x4x4 pixels: learnt in a moment, as many samples as wanted."""
    labels = np.arange(task.toy_samples, dtype=np.int64) % 4
    patterns = uniform_stream(named_key("toy patterns", seed))(64).reshape(4, 16)
    noise = uniform_stream(named_key("toy noise", seed))(task.toy_samples * 16).reshape(-1, 16)
    return Samples((0.6 * patterns[labels] + 0.4 * noise).astype(np.float32).reshape(-1, 1, 4, 4), labels, 4)


def _toy_tokens(task: TaskSettings, seed: int) -> Samples:
    """Sequences of 4 to 12 of 32 tokens, and four classes that each prefer eight of them."""
    labels = np.arange(task.toy_samples, dtype=np.int64) % 4
    draws = uniform_stream(named_key("toy tokens", seed))(task.toy_samples * 25).reshape(-1, 25)
    lengths = np.minimum(4 + (draws[:, 24] * 9).astype(np.int64), task.tokens_max)
    anything, own = (draws[:, :12] * 32).astype(np.int64), labels[:, None] * 8 + (draws[:, :12] * 8).astype(np.int64)
    ids = np.where(draws[:, 12:24] < 0.5, own, anything)
    return Samples(as_samples([row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]), labels, 4, 32)


def _snippets(task: TaskSettings, seed: int) -> Samples:
    """Sentences of film reviews, good or bad; see ``texts``."""
    from hosfl_async.learning.texts import snippets, tokenized, tokenizer_file

    texts, labels, held_out = snippets()
    ids, vocabulary = tokenized(texts, tokenizer_file(task.model), task.tokens_max)
    return Samples(ids, labels, 2, vocabulary, held_out)


def _fashion_mnist(task: TaskSettings, seed: int) -> Samples:
    """Images of clothes; see ``signals``."""
    images, labels, held_out = fashion_mnist()
    return Samples(images, labels, 10, held_out=held_out)


def _watch(task: TaskSettings, seed: int) -> Samples:
    """Windows of a smartwatch's sensors; see ``signals``."""
    windows, labels, held_out, people = watch(task.test_people, task.train_people)
    return Samples(windows, labels, 7, held_out=held_out, owners=people)


_SOURCES: dict[str, Callable[[TaskSettings, int], Samples]] = {
    "digits": _digits,
    "toy": _toy,
    "toy_tokens": _toy_tokens,
    "snippets": _snippets,
    "fashion_mnist": _fashion_mnist,
    "watch": _watch,
}


# -- dealing the samples to the clients ---------------------------------------------------------------


def partition(
    labels: Labels, clients: int, settings: PartitionSettings, seed: int, owners: Indices | None = None
) -> tuple[Indices, Indices]:
    """Deal every sample to exactly one of ``clients`` clients. ``owners``: whose each sample is, for the natural rule.

    Returns ``(order, bounds)``: client k owns ``order[bounds[k] : bounds[k + 1]]``. Two arrays serve any number of clients.
    """
    if clients * settings.samples_min > len(labels):
        raise SettingsError(
            "task.partition.samples_min",
            "more samples are promised than there are",
            expected=f"at most {len(labels)} training samples in all",
            found=f"{clients} clients x {settings.samples_min}",
        )
    if settings.rule == "dirichlet":
        shares = _dirichlet(labels, clients, settings.dirichlet_alpha, seed)
    elif settings.rule == "natural":
        shares = _natural(owners, clients, settings.samples_min)
    elif settings.rule == "quantity":
        shares = _dirichlet(np.zeros_like(labels), clients, settings.dirichlet_alpha, seed)
    else:
        shuffled = permutation(named_key("deal", seed), len(labels))
        if settings.rule == "iid":
            shares = np.array_split(shuffled, clients)
        else:
            shares = _shards(shuffled[np.argsort(labels[shuffled], kind="stable")], clients, settings.shards_per_client, seed)
    _level(shares, settings.samples_min)
    return np.concatenate(shares), np.cumsum([0, *map(len, shares)])


def _dirichlet(labels: Labels, clients: int, alpha: float, seed: int) -> list[Indices]:
    """Each class is cut at the cumulated shares of one Dirichlet(alpha) draw over the clients.

    numpy's own Dirichlet is used, which no other machine promises to repeat in the last bit; the rounding to whole samples absorbs it.
    """
    pieces: list[list[Indices]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        key = named_key("deal", seed, str(label))
        members = np.flatnonzero(labels == label)
        members = members[permutation(key, len(members))]
        shares = Generator(Philox(key=int.from_bytes(key, "little"))).dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for owned, piece in zip(pieces, np.split(members, cuts), strict=True):
            owned.append(piece)
    return [np.concatenate(owned) for owned in pieces]


def _natural(owners: Indices | None, clients: int, samples_min: int) -> list[Indices]:
    """Owner i's samples go to client i, counted round again where there are more owners than clients; nobody's are mixed to level sizes."""
    if owners is None:
        raise SettingsError("task.partition.rule", "these data do not say whose they are", expected="any rule but natural")
    names = np.unique(owners)
    if clients > len(names):
        raise SettingsError("fleet", "more clients than owners of the data", expected=f"at most {len(names)}", found=str(clients))
    shares = [np.flatnonzero(np.isin(owners, names[client::clients])) for client in range(clients)]
    if min(map(len, shares)) < samples_min:
        raise SettingsError("task.partition.samples_min", "an owner has fewer samples", found=str(samples_min))
    return shares


def _shards(by_label: Indices, clients: int, shards_per_client: int, seed: int) -> list[Indices]:
    """Samples sorted by label are cut into equal shards; each client gets ``shards_per_client`` of them at random."""
    shards = np.array_split(by_label, clients * shards_per_client)
    order = permutation(named_key("deal shards", seed), len(shards)).reshape(clients, shards_per_client)
    return [np.concatenate([shards[i] for i in own]) for own in order]


def _level(shares: list[Indices], samples_min: int) -> None:
    """Move samples from the richest client to each that has fewer than ``samples_min``."""
    richest = [(-len(share), client) for client, share in enumerate(shares)]
    heapify(richest)
    for poor in range(len(shares)):
        while (missing := samples_min - len(shares[poor])) > 0:
            surplus, rich = heappop(richest)
            moved = min(missing, -surplus - samples_min)
            shares[poor] = np.concatenate([shares[poor], shares[rich][-moved:]])
            shares[rich] = shares[rich][:-moved]
            heappush(richest, (surplus + moved, rich))


def own_test(shard: Indices, labels: Labels, held_out: float, gap: int) -> tuple[Indices, Indices]:
    """One client's samples, parted: what it trains on, and the last ``held_out`` of each class in the data's own order, rounded down.

    ``gap`` samples before these are in neither. ``labels`` are those of all samples.
    """
    kept, tests = [shard[:0]], [shard[:0]]
    ordered = np.sort(shard)
    for label in np.unique(labels[ordered]):
        members = ordered[labels[ordered] == label]
        count = int(len(members) * held_out)
        tests.append(members[len(members) - count :])
        kept.append(members[: max(len(members) - count - gap, 0)] if count else members)
    return np.concatenate(kept), np.concatenate(tests)


# -- one step's batch ---------------------------------------------------------------------------------


class BatchSampler:
    """Draws each step's batch from a shard, as a pure function of the seed and the ``StepId``."""

    __slots__ = ("_key", "_size", "_start")

    def __init__(self, seed: int, batch_size: int) -> None:
        self._key = named_key("batch", seed)
        self._size = batch_size
        self._start = raw_stream()

    def draw(self, step: StepId, samples: int, local: int = 0) -> list[int]:
        """``batch_size`` positions below ``samples``: all different, or with replacement if there are fewer samples than that.

        ``local``: a further batch of the same step, for clients that train locally.
        Floyd's sampling: as many random words as the batch has samples, however large the shard.
        """
        key = blake2b(self._key + step_name(step) + (local.to_bytes(4, "little") if local else b""), digest_size=KEY_BYTES).digest()
        words: list[int] = self._start(key).random_raw(self._size).tolist()
        if samples < self._size:
            return [word * samples >> 64 for word in words]
        chosen: dict[int, None] = {}
        for last, word in zip(range(samples - self._size, samples), words, strict=True):
            pick = word * (last + 1) >> 64
            chosen[last if pick in chosen else pick] = None
        return list(chosen)
