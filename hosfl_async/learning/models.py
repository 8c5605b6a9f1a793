"""Models by name: what ``task.model.name`` stands for.

A model is added by writing one function that returns its two modules and entering it in ``_MODELS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import prod

import torch
from torch import nn

from hosfl_async.errors import SettingsError
from hosfl_async.learning.efficientnet import build_efficientnet
from hosfl_async.learning.pretrained import ENCODER_FAMILIES, family_of
from hosfl_async.learning.settings import DECODERS, ENCODERS, ModelSettings
from hosfl_async.learning.split_model import Half, Shape, SplitModel
from hosfl_async.learning.splitting import own_model

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def build_model(
    settings: ModelSettings, sample_shape: Shape, classes: int, vocabulary: int = 0, *, client_only: bool = False
) -> SplitModel:
    """Build the named model for images of ``sample_shape`` (channels, height, width), or sequences of up to (tokens,) of a ``vocabulary``.

    The client half is in inference mode and records no graph. Trainable parameters are not set: ``bind`` them first. ``client_only``: the
    server half is not kept, and never takes memory where the model is one of ours; pretrained weights are read in whole, then it goes.
    """
    if settings.name not in _MODELS and settings.cut == "end":
        raise SettingsError("task.model.cut", f"{settings.name} is not built in one piece", expected="layer", found="end")
    if settings.name in ENCODERS or (settings.name == "transformers" and family_of(settings) in ENCODER_FAMILIES):
        from hosfl_async.learning.encoders import build_encoder  # and with it transformers, which the other models do not need

        model = build_encoder(settings, sample_shape, classes, vocabulary)
    elif settings.name in DECODERS:
        from hosfl_async.learning.decoders import build_decoder

        model = build_decoder(settings, sample_shape, classes, vocabulary)
    elif settings.name in ("efficientnet", "efficientnet_lite0"):
        model = build_efficientnet(settings, sample_shape, classes)
    elif settings.name not in _MODELS:
        model = own_model(settings, sample_shape, classes, vocabulary)
    elif vocabulary:
        raise SettingsError("task.model.name", "it does not read tokens", expected=" or ".join((*ENCODERS, *DECODERS)), found=settings.name)
    else:
        nowhere = client_only and settings.cut == "layer"
        input_shape, cut_shape, client, server = _MODELS[settings.name](settings, sample_shape, classes, "meta" if nowhere else "cpu")
        if nowhere:
            server = nn.Identity()
        tail = Half(deepcopy(server)) if settings.cut == "end" else None
        if tail is not None:
            client, server, cut_shape = nn.Sequential(client, server), nn.Identity(), (classes,)
        model = SplitModel(client=Half(client), server=Half(server), input_shape=input_shape, cut_shape=cut_shape, tail=tail)
    model.client.module.eval()
    model.client.record_graph(False)
    return replace(model, server=Half(nn.Identity())) if client_only else model


def _mlp(settings: ModelSettings, image_shape: Shape, classes: int, server_on: str) -> tuple[Shape, Shape, nn.Module, nn.Module]:
    inputs, cut = prod(image_shape), settings.client_widths[-1]
    client = _dense((inputs, *settings.client_widths), settings.activation, last=True)
    with torch.device(server_on):
        return (inputs,), (cut,), client, _dense((cut, *settings.server_widths, classes), settings.activation)


def _cnn(settings: ModelSettings, image_shape: Shape, classes: int, server_on: str) -> tuple[Shape, Shape, nn.Module, nn.Module]:
    channels, height, width = image_shape
    halvings = len(settings.client_widths)
    kernel, pool = ((3, 3), (2, 2)) if height > 1 else ((1, 5), (1, 2))
    if min(height >> halvings * (pool[0] == 2), width >> halvings) == 0:
        raise SettingsError("task.model.client_widths", f"{halvings} poolings leave nothing of a {height}x{width} image")
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *settings.client_widths)):
        around = nn.Conv2d(before, after, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
        layers += [around, _ACTIVATIONS[settings.activation](), nn.MaxPool2d(pool)]
    cut = (settings.client_widths[-1], height >> halvings if height > 1 else 1, width >> halvings)
    with torch.device(server_on):
        server = nn.Sequential(nn.Flatten(), _dense((prod(cut), *settings.server_widths, classes), settings.activation))
    return image_shape, cut, nn.Sequential(*layers), server


def _dense(widths: Sequence[int], activation: str, last: bool = False) -> nn.Sequential:
    """Fully connected layers with an activation between them, and after the last if asked for."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _ACTIVATIONS[activation]()]
    return nn.Sequential(*(layers if last else layers[:-1]))


_MODELS: dict[str, Callable[[ModelSettings, Shape, int, str], tuple[Shape, Shape, nn.Module, nn.Module]]] = {"mlp": _mlp, "cnn": _cnn}
