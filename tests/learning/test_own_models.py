"""A user's own module and data: cut where they say, the same numbers as the whole module, and every mistake told."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hosfl_async import jobs
from hosfl_async.errors import SettingsError
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.data import load_dataset
from hosfl_async.learning.models import build_model
from hosfl_async.learning.samples import Samples
from hosfl_async.learning.sequences import as_samples, lengths_of
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.learning.split_model import SplitModel, initial_theta_c, initial_theta_s
from hosfl_async.messages import StepId

PLUGIN = """
import numpy as np
import torch
from torch import nn

def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, classes))

def broken(shape, classes):
    raise RuntimeError("no such weights")

def five(shape, classes):
    return 5

def too_narrow(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, classes - 1))

class Picky(nn.Linear):
    def forward(self, batch):
        raise ValueError("images of 224x224 wanted")

def picky(shape, classes):
    return nn.Sequential(nn.Flatten(), Picky(16, 6), nn.Linear(6, classes))

def points(seed):
    return np.random.default_rng(seed).random((60, 1, 4, 4)), np.arange(60) % 3

number = 5
"""


def whole() -> nn.Sequential:
    torch.manual_seed(3)
    stem = nn.Sequential()
    stem.add_module("conv", nn.Conv2d(1, 4, 3, padding=1))
    stem.add_module("norm", nn.BatchNorm2d(4))
    model = nn.Sequential()
    for name, part in (
        ("stem", stem),
        ("layer1", nn.ReLU()),
        ("layer2", nn.Conv2d(4, 2, 3)),
        ("flat", nn.Flatten()),
        ("head", nn.Linear(8, 3)),
    ):
        model.add_module(name, part)
    return model.eval()


@pytest.mark.parametrize(("cut", "names"), [("stem", 2), ("stem.conv", 1), ("layer1", 3), ("layer2", 4), (4, 4)])
def test_both_halves_are_the_whole_module(cut: str | int, names: int) -> None:
    model, samples = whole(), torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(samples)
    split = SplitModel.from_module(whole(), cut, (1, 4, 4))
    assert len(split.client.module) == names  # type: ignore[arg-type]
    split.client.bind(split.client.views(initial_theta_c(split, 0)))
    split.server.bind(split.server.views(initial_theta_s(split, 0)))
    with torch.no_grad():
        at_cut = split.client.module(samples)
        assert at_cut.shape[1:] == split.cut_shape
        assert torch.equal(split.server.module(at_cut), expected)
    assert split.client.size + split.server.size == sum(each.numel() for each in model.parameters())


def test_values_are_kept_or_drawn_from_the_seed() -> None:
    kept, drawn = (SplitModel.from_module(whole(), "layer2", (1, 4, 4), keep_values=keep) for keep in (True, False))
    assert (initial_theta_c(kept, 0) == initial_theta_c(kept, 1)).all()
    assert (initial_theta_c(drawn, 0) != initial_theta_c(drawn, 1)).any()


def test_a_list_of_blocks_and_frozen_parts() -> None:
    blocks = list(whole())
    blocks[0].requires_grad_(False)
    split = SplitModel.from_module([(f"block{i}", block) for i, block in enumerate(blocks)], "block2", (1, 4, 4))
    assert split.client.size == 4 * 2 * 9 + 2


def test_a_list_in_a_module_and_a_dict_have_an_order_too() -> None:
    for cut, blocks in (
        (2, nn.ModuleList(whole())),
        ("layer1", dict(whole().named_children())),
        ("layer1", nn.ModuleDict(dict(whole().named_children()))),
    ):
        assert SplitModel.from_module(blocks, cut, (1, 4, 4)).cut_shape == (4, 4, 4)


class Attention(nn.Module):
    """A block of a user's own that looks at other tokens, and therefore masks."""

    def __init__(self, width: int, *, careful: bool = True) -> None:
        super().__init__()
        self.inner, self.careful = nn.MultiheadAttention(width, 2, batch_first=True), careful

    def forward(self, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        beyond = torch.arange(rows.shape[1]) >= lengths[:, None] if self.careful else None
        mixed: torch.Tensor = self.inner(rows, rows, rows, key_padding_mask=beyond, need_weights=False)[0]
        return rows + mixed


class Mean(nn.Module):
    def forward(self, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        there = torch.arange(rows.shape[1]) < lengths[:, None]
        return (rows * there[:, :, None]).sum(1) / lengths[:, None]


def of_tokens(*, careful: bool = True) -> list[nn.Module]:
    torch.manual_seed(4)
    return [nn.Embedding(20, 8), Attention(8, careful=careful), nn.LayerNorm(8), Attention(8), Mean(), nn.Linear(8, 3)]


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_users_own_token_model_is_cut_where_it_has_rows(cut: int) -> None:
    whole_model, rows = of_tokens(), [[3, 1, 19, 4, 4], [7, 2]]
    split = SplitModel.from_module(of_tokens(), cut, (6,), vocabulary=20, classes=3)
    assert split.sequences and split.cut_shape == (8,)
    split.client.bind(split.client.views(initial_theta_c(split, 0)))
    split.server.bind(split.server.views(initial_theta_s(split, 0)))
    batch = torch.from_numpy(as_samples(rows))
    with torch.no_grad():
        at_cut = split.client.module(batch)
        assert at_cut.shape == (7, 8), "padding does not cross"
        logits = split.server.module(at_cut, lengths_of(batch))
        for row, logit in zip(rows, logits, strict=True):
            alone = torch.tensor([row])
            for part in whole_model:
                alone = part(alone, lengths=torch.tensor([len(row)])) if isinstance(part, Attention | Mean) else part(alone)
            torch.testing.assert_close(alone[0], logit)


def test_token_models_that_cannot_be_cut_are_told() -> None:
    for blocks, cut, text in (
        (of_tokens(careful=False), 2, "padding changes what a sample gives"),
        (of_tokens(), 5, r"rows \(batch, longest, width\) are wanted at the cut"),
        ([nn.Embedding(10, 8), *of_tokens()[1:]], 2, "does not take samples of up to 6 tokens below 20: IndexError"),
    ):
        with pytest.raises(SettingsError, match=text):
            SplitModel.from_module(blocks, cut, (6,), vocabulary=20)


def test_a_users_own_token_model_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
        import torch
        from torch import nn

        class Mean(nn.Module):
            def forward(self, rows, lengths):
                there = torch.arange(rows.shape[1]) < lengths[:, None]
                return (rows * there[:, :, None]).sum(1) / lengths[:, None]

        def network(shape, classes, vocabulary):
            return nn.Sequential(nn.Embedding(vocabulary, 8), nn.Tanh(), Mean(), nn.Linear(8, classes))
    """
    (tmp_path / "my_token_model.py").write_text(dedent(code))
    monkeypatch.chdir(tmp_path)
    task = TaskSettings(
        data="toy_tokens", toy_samples=400, batch_size=16, model=ModelSettings(name="my_token_model:network", cut_after="2")
    )
    made = LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(learning_rate=1.0), seed=0, clients=["a"])
    server, client = made.server(), made.client("a")
    before = server.run(jobs.Evaluate())
    for number in range(1, 61):
        step = StepId("a", 1, number)
        sent = client.run(jobs.Forward(step, 0))
        client.run(jobs.Probe(step, 2))
        dual = server.run(jobs.Backward(step, sent.activations, sent.labels)).dual
        assert len(client.run(jobs.Project(step, dual)).projected_gradients) == 2
    assert server.run(jobs.Evaluate()).loss < before.loss - 0.1


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return (batch - batch.mean(dim=0)) * self.weight


def tied() -> nn.Sequential:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    return nn.Sequential(one, two)


WRONG: dict[str, tuple[Any, str | int, tuple[int, ...], str]] = {
    "no such part": (whole(), "layer9", (1, 4, 4), "no part has this name; expected stem.conv, stem.norm, layer1"),
    "nothing behind": (whole(), "head", (1, 4, 4), "nothing is left on one side"),
    "nothing before": (whole(), 0, (1, 4, 4), "nothing is left on one side; expected 1 to 5 parts"),
    "beyond the end": (whole(), 9, (1, 4, 4), "nothing is left on one side; expected 1 to 5 parts; found 9"),
    "no module": ("resnet", 1, (1, 4, 4), "str does not say in which order"),
    "a function among the blocks": ([nn.Flatten(), torch.relu, nn.Linear(16, 3)], 1, (1, 4, 4), "part 1 is no module"),
    "no logits": (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Flatten(0)), 1, (4,), "gives no logits of the classes"),
    "not a chain": (nn.Bilinear(2, 2, 2), 1, (2,), "does not say in which order"),
    "another shape": (whole(), "layer2", (3, 4, 4), "does not take samples of 3x4x4"),
    "nothing to learn": (whole(), "flat", (1, 4, 4), ""),
    "a frozen half": (nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), 1, (4,), "one half has nothing to learn"),
    "a batch that mixes": (nn.Sequential(Mixing(), nn.Linear(4, 2)), 1, (4,), "mixes the samples of a batch"),
    "tied parameters": (tied(), 1, (4,), "share parameters"),
}


@pytest.mark.parametrize("case", [case for case, values in WRONG.items() if values[3]])
def test_what_cannot_be_cut_is_told(case: str) -> None:
    model, cut, shape, text = WRONG[case]
    with pytest.raises(SettingsError, match=text):
        SplitModel.from_module(model, cut, shape)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"my_models_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_run_with_a_users_model_and_data(plugin: str) -> None:
    task = TaskSettings(data=f"{plugin}:points", batch_size=4, model=ModelSettings(name=f"{plugin}:small", cut_after="2"))

    def factory() -> LearnerFactory:
        return LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), seed=0, clients=["a", "b"])

    torch.manual_seed(5)
    first = initial_theta_c(factory().model, 0)
    torch.manual_seed(6)
    assert (initial_theta_c(factory().model, 0) == first).all(), "what the caller drew before must not matter"
    assert factory().data.classes == 3 and factory().model.client.size == 16 * 6 + 6


def test_mistakes_with_functions_are_told(plugin: str) -> None:
    cases = {
        "nowhere_at_all:small": "cannot be imported",
        f"{plugin}:nothing": "has no nothing",
        f"{plugin}:number": "is no function",
        f"{plugin}:broken": "RuntimeError: no such weights",
        f"{plugin}:small": "where is .* cut",
        "resnet": "one of mlp, cnn",
        f"{plugin}:five": "int does not say in which order",
    }
    for name, text in cases.items():
        with pytest.raises(SettingsError, match=text):
            build_model(ModelSettings(name=name), (1, 4, 4), 3)
    for name, text in (("too_narrow", r"no logits of the classes; expected \(3,\)"), ("picky", "ValueError: images of 224x224 wanted")):
        with pytest.raises(SettingsError, match=text):
            build_model(ModelSettings(name=f"{plugin}:{name}", cut_after="2"), (1, 4, 4), 3)


def test_a_file_of_arrays(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((40, 2, 3)), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    data = load_dataset(TaskSettings(data=str(tmp_path / "a.npz")), 0)
    assert data.classes == 4 and len(data.test_labels) == 8 and data.train_images.dtype == np.float32
    np.savez(tmp_path / "b.npz", images=images, labels=labels, test_images=images[:5], test_labels=labels[:5], owners=labels)
    data = load_dataset(TaskSettings(data=str(tmp_path / "b.npz")), 0)
    assert len(data.train_labels) == 40 and (data.test_images == images[:5].astype(np.float32)).all()
    assert data.train_owners is not None and (data.train_owners == labels).all()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"images": np.zeros((3, 2))}, "images and labels"),
    "too few labels": ({"images": np.zeros((3, 2)), "labels": np.zeros(2, int)}, "shapes"),
    "negative label": ({"images": np.zeros((3, 2)), "labels": np.array([0, -1, 1])}, "labels from 0"),
    "infinite": ({"images": np.full((3, 2), np.inf), "labels": np.zeros(3, int)}, "finite"),
    "labels in words": ({"images": np.zeros((3, 2)), "labels": np.array(["a", "b", "c"])}, "whole numbers"),
    "objects": ({"images": np.array([{}, {}], object), "labels": np.zeros(2, int)}, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_cannot_be_are_told(case: str, tmp_path: Path) -> None:
    arrays, text = BAD[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SettingsError, match=text):
        load_dataset(TaskSettings(data=str(tmp_path / "a.npz")), 0)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.npz"):
        load_dataset(TaskSettings(data="nowhere.npz"), 0)


def test_samples_say_all_that_a_source_may() -> None:
    assert {"images", "labels", "classes", "vocabulary", "held_out", "owners"} == set(Samples.__dataclass_fields__)
