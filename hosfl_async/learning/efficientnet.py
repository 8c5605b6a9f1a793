"""EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; Lite: ReLU6, no squeeze-and-excitation), cut between two of its 16 blocks.

The client half is the stem and the first blocks, the server half the other blocks, the last convolution, the mean over the places and a new
linear layer onto the classes. Explicitly:

* Batch normalisation is frozen: its running mean and variance are buffers with their ImageNet values, in evaluation mode on both sides, so
  that no sample depends on who shares its batch. Its scales and shifts are learnt like other parameters.
* Images of one channel are shown as grey ones in three; small ones are enlarged to ``image_side``. Both are part of the client half, as is
  the normalisation to ImageNet's mean and spread, so that a data set stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from hosfl_async.assets import files_of
from hosfl_async.errors import SettingsError
from hosfl_async.learning.randomness import named_key, uniform_stream
from hosfl_async.learning.settings import ModelSettings, Trainable
from hosfl_async.learning.split_model import Half, Shape, SplitModel

_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
"""(blocks, kernel, stride of the first one, widening, channels out)."""
_STEM, _LAST = 32, 1280
BLOCKS = sum(stage[0] for stage in _STAGES)
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Same(nn.Conv2d):
    """A convolution that pads as TensorFlow does: an odd row or column goes to the end, and none is wasted."""

    def forward(self, values: Tensor) -> Tensor:
        around = []
        for side, kernel, stride in zip(values.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            around += [missing // 2, missing - missing // 2]
        return super().forward(pad(values, around) if any(around) else values)


class Block(nn.Module):
    """Widen, convolve each channel, narrow; added to what came in if that has the same shape."""

    def __init__(self, given: int, made: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = given * widening
        self.widen = nn.Sequential(*_normed(nn.Conv2d(given, wide, 1, bias=False)), nn.ReLU6()) if widening > 1 else nn.Identity()
        self.within = nn.Sequential(*_normed(_Same(wide, wide, kernel, stride, groups=wide, bias=False)), nn.ReLU6())
        self.narrow = nn.Sequential(*_normed(nn.Conv2d(wide, made, 1, bias=False)))
        self.skips = stride == 1 and given == made

    def forward(self, values: Tensor) -> Tensor:
        made: Tensor = self.narrow(self.within(self.widen(values)))
        return made + values if self.skips else made


class AsImageNet(nn.Module):
    """Images in [0, 1] of one or three channels -> normalised, of three channels and the wanted side."""

    mean: Tensor
    spread: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("spread", torch.tensor(_SPREAD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.side or images.shape[-2] != self.side:
            images = interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)
        shown: Tensor = (images.expand(-1, 3, -1, -1) - self.mean) / self.spread
        return shown


class _Pool(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean(dim=(2, 3))


def build_efficientnet(settings: ModelSettings, sample_shape: Shape, classes: int) -> SplitModel:
    """EfficientNet-Lite0 for images of ``sample_shape`` (1 or 3 channels, height, width), cut after ``settings.cut_block`` blocks."""
    if len(sample_shape) != 3 or sample_shape[0] not in (1, 3) or min(sample_shape[1:]) < 2:
        found = "x".join(map(str, sample_shape))
        raise SettingsError("task.model.name", f"{settings.name} reads images", expected="1 or 3 channels", found=found)
    if settings.cut_block >= BLOCKS:
        expected = f"at most {BLOCKS - 1}, so that a block is left to the server"
        raise SettingsError("task.model.cut_block", f"{settings.name} has {BLOCKS} blocks", expected=expected)
    stem, *blocks, last = _parts()
    values = _pretrained() if settings.name == "efficientnet_lite0" else _random()
    for index, part in enumerate((stem, *blocks, last)):
        prefix = f"{index}."
        part.load_state_dict({name.removeprefix(prefix): each for name, each in values.items() if name.startswith(prefix)}, assign=True)
    client = nn.Sequential(AsImageNet(settings.image_side), stem, *blocks[: settings.cut_block])
    head = nn.Linear(_LAST, classes)
    server = nn.Sequential(*blocks[settings.cut_block :], last, _Pool(), head)
    _choose(client, settings.trainable)
    _choose(server, settings.server_trainable)
    head.requires_grad_(True)
    client.eval()
    server.eval()
    with torch.inference_mode():
        cut_shape = tuple(client(torch.zeros(1, *sample_shape)).shape[1:])
    of_head = f"{len(server) - 1}."

    def drawn(name: str) -> bool:
        return name.startswith(of_head)

    return SplitModel(client=Half(client, lambda name: False), server=Half(server, drawn), input_shape=sample_shape, cut_shape=cut_shape)


def _choose(half: nn.Sequential, learnt: Trainable) -> None:
    """Let exactly the chosen parameters require gradients. Convolutions have no adapters: lora is refused."""
    blocks = [name for name, part in half.named_children() if isinstance(part, Block)]
    norms = {f"{name}." for name, part in half.named_modules() if isinstance(part, nn.BatchNorm2d)}
    names: dict[str, str] = {
        "all": "",
        "blocks": rf"^({'|'.join(blocks)})\.",
        "last_block": rf"^{blocks[-1]}\.",
        "writers": rf"^({'|'.join(blocks)})\.narrow\.0\.",
        "norms": "|".join(map(re.escape, sorted(norms))),
    }
    if learnt not in names:
        expected = ", ".join(names)
        raise SettingsError("task.model.trainable", "a convolutional network has no such adapters", expected=expected, found=learnt)
    for name, parameter in half.named_parameters():
        parameter.requires_grad_(bool(re.search(names[learnt], name)))


def _parts() -> list[nn.Module]:
    """Stem, blocks, and what comes after them; without values of their own."""
    parts: list[nn.Module] = [nn.Sequential(*_normed(_Same(3, _STEM, 3, 2, bias=False)), nn.ReLU6())]
    channels = _STEM
    for count, kernel, stride, widening, made in _STAGES:
        for index in range(count):
            parts.append(Block(channels, made, kernel, stride if index == 0 else 1, widening))
            channels = made
    parts.append(nn.Sequential(*_normed(nn.Conv2d(channels, _LAST, 1, bias=False)), nn.ReLU6()))
    return [part.requires_grad_(False) for part in parts]


def _normed(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels, eps=1e-3)


@lru_cache(maxsize=1)
def _pretrained() -> dict[str, Tensor]:
    """Values by our names; one copy for all models of this process."""
    file = files_of("efficientnet_lite0", "task.model.name") / "efficientnet-lite0.pth"
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    return {ours: theirs[name] for ours, name in names_in_file().items()}


def names_in_file() -> dict[str, str]:
    """Our name of each value -> its name in the package's file."""
    names = {}
    parts = _parts()
    for index, part in enumerate(parts):
        for ours in part.state_dict():
            place, kind = ours.rsplit(".", 1)
            if index in (0, len(parts) - 1):
                end = index > 0
                layer = ("_conv_head" if end else "_conv_stem") if place == "0" else ("_bn1" if end else "_bn0")
            else:
                layer = f"_blocks.{index - 1}.{_IN_BLOCK[place]}"
            names[f"{index}.{ours}"] = f"{layer}.{kind}"
    return names


_IN_BLOCK = {
    "widen.0": "_expand_conv",
    "widen.1": "_bn0",
    "within.0": "_depthwise_conv",
    "within.1": "_bn1",
    "narrow.0": "_project_conv",
    "narrow.1": "_bn2",
}


@lru_cache(maxsize=1)
def _random() -> dict[str, Tensor]:
    """The same values in every process, scaled so that activations keep their size."""
    stream = uniform_stream(named_key("efficientnet", 0))
    values = {}
    for index, part in enumerate(_parts()):
        for name, value in part.state_dict().items():
            if value.ndim == 4:
                drawn = (stream(value.numel()) * 2 - 1) * (6 / value[0].numel()) ** 0.5
                value = torch.from_numpy(drawn).float().view(value.shape)
            values[f"{index}.{name}"] = value
    return values
