"""Can forward passes of an encoder's client half be made cheaper? Three ideas, each beside the plain float32 pass of the same run.

``python -m benchmarks.reduced_precision [--rounds 15] [--probes 16] [--json]``: a random BERT encoder of MiniLM's shape (4 blocks of 384,
12 heads, LoRA r=8 in theta_c), batch 8, 32 tokens, one thread. Rounds alternate between the ways; times are medians, ratios against
float32.

* together: the P perturbed forwards as one pass over P times the batch, each with its own adapters (``torch.func.vmap``);
* all bfloat16: weights and arithmetic in bfloat16, theta_c and its replay in float32;
* bfloat16: frozen matrices alone, ``client_matrices = "bfloat16"``;
* int8: frozen matrices by torch's dynamic quantisation, adapters in float32: a half that nothing can back-propagate through.

For the roundings it also tells what the probes are worth: the correlation of projected gradients with those of float32 at mu = 1e-3,
along the same directions with the same dual, and their spread over float32's, at several mu.
"""

from __future__ import annotations

import copy
import io
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import new_parser
from hosfl_async.learning.models import build_model
from hosfl_async.learning.quantised import with_wanted_matrices
from hosfl_async.learning.settings import ModelSettings
from hosfl_async.learning.split_model import Half, initial_theta_c
from hosfl_async.learning.zeroth_order import forward, project

BATCH, TOKENS, VOCABULARY = 8, 32, 1000
MUS = (1e-3, 1e-2, 3e-2)
"""The default, and how far a probe may have to go to be heard above the rounding."""
MODEL = ModelSettings(name="encoder", blocks=6, cut_block=4, hidden=384, heads=12, trainable="lora")
SMALL = ModelSettings(name="encoder", blocks=2, cut_block=1, hidden=96, heads=2, lora_rank=2, trainable="lora")
SCALARS = 64
"""Directions of which a correlation is taken."""


class World:
    """The client half, its parameters, a batch, a dual and the perturbed parameters of P probes."""

    def __init__(self, probes: int, model: ModelSettings) -> None:
        torch.manual_seed(0)
        self.half = build_model(model, (TOKENS,), 2, VOCABULARY).client
        self.theta = initial_theta_c(_Whole(self.half), 0)  # type: ignore[arg-type]
        self.theta += np.random.default_rng(0).normal(0, 0.02, self.theta.size).astype(np.float32)  # adapters that do something
        self.batch = torch.randint(0, VOCABULARY, (BATCH, TOKENS), dtype=torch.int32)
        self.anchor = forward(self.half, self.half.views(self.theta), self.batch)
        self.dual = np.random.default_rng(1).normal(0, 1e-3, self.anchor.shape).astype(np.float32)
        self.perturbed = self.moved(probes, MUS[0])

    def moved(self, probes: int, mu: float) -> list[np.ndarray[Any, Any]]:
        """theta_c + mu u_p for each probe: the same signs for every mu."""
        signs = np.random.default_rng(2).choice(np.array([-1, 1], np.float32), (probes, self.theta.size))
        return [self.theta + np.float32(mu) * each for each in signs]

    def scalars(self, run: Forward, mu: float) -> np.ndarray[Any, Any]:
        """The projected gradients along ``SCALARS`` directions that these forward passes give."""
        anchor = run(self.theta, self.batch)
        return np.array(project(np.stack([run(each, self.batch) - anchor for each in self.moved(SCALARS, mu)]), self.dual, mu))


class _Whole:
    """As much of a split model as ``initial_theta_c`` looks at."""

    tail = None

    def __init__(self, half: Half) -> None:
        self.client = half


class Forward:
    """Forward passes of a changed copy of the half at any theta_c."""

    def __init__(self, half: Half, module: nn.Module, cast: Callable[[Tensor], Tensor]) -> None:
        self.half, self.module, self.cast = half, module, cast
        named = dict(module.named_parameters())
        self.places = [named[name] for name in half.names]

    def __call__(self, theta: np.ndarray[Any, Any], batch: Tensor) -> np.ndarray[Any, Any]:
        for place, view in zip(self.places, self.half.views(theta), strict=True):
            place.data = self.cast(view)
        with torch.inference_mode():
            activations: np.ndarray[Any, Any] = self.module(batch).float().numpy()
        return activations


def in_bfloat16(half: Half) -> nn.Module:
    """Everything in bfloat16; the adapters are cast anew for each theta_c."""
    return copy.deepcopy(half.module).to(torch.bfloat16)


def matrices_in(half: Half, form: Literal["bfloat16", "int8"]) -> nn.Module:
    """The frozen matrices in fewer bits; adapters as they are."""
    return with_wanted_matrices(copy.deepcopy(half.module), replace(MODEL, client_matrices=form))


def weight_bytes(module: nn.Module) -> int:
    """Of a serialised copy, so that packed weights count."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.tell()


def back_propagates(world: World, module: nn.Module) -> str:
    """ "yes", or what torch says when asked for the gradient of the adapters."""
    run = Forward(world.half, module, lambda each: each)
    for place, view in zip(run.places, world.half.views(world.theta), strict=True):
        place.data = view.clone()
        place.requires_grad_(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (module(world.batch).float() * torch.from_numpy(world.dual)).sum().backward()
    except RuntimeError as problem:
        return f"no: {str(problem).splitlines()[0]}"
    finally:
        for place in run.places:
            place.requires_grad_(False)
    missing = sum(place.grad is None or not place.grad.any() for place in run.places)
    return "yes" if not missing else f"no: {missing} of {len(run.places)} adapters get none"


def together(world: World) -> Callable[[], Any]:
    """The P perturbed forwards in one pass by vmap over the adapters."""
    from torch.func import functional_call, vmap

    views = [torch.stack(each) for each in zip(*(world.half.views(theta) for theta in world.perturbed), strict=True)]
    stacked = dict(zip(world.half.names, views, strict=True))
    module = copy.deepcopy(world.half.module)
    rest = {name: value.detach() for name, value in module.named_parameters() if name not in stacked}

    def one(adapters: dict[str, Tensor]) -> Tensor:
        answer: Tensor = functional_call(module, {**rest, **adapters}, (world.batch,))
        return answer

    mapped = vmap(one)

    def run() -> Any:
        with torch.no_grad():
            return mapped(stacked)

    return run


def timed(act: Callable[[], Any]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(rounds: int, probes: int, model: ModelSettings = MODEL) -> dict[str, Any]:
    """All figures by name; times in seconds for P forward passes."""
    torch.set_num_threads(1)
    world = World(probes, model)
    plain = Forward(world.half, copy.deepcopy(world.half.module), lambda each: each)
    halves = {"all bfloat16": in_bfloat16(world.half)}
    halves |= {"bfloat16": matrices_in(world.half, "bfloat16"), "int8": matrices_in(world.half, "int8")}
    casts: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(halves, lambda each: each)
    casts["all bfloat16"] = Tensor.bfloat16

    def each_probe(run: Forward) -> Callable[[], Any]:
        return lambda: [run(theta, world.batch) for theta in world.perturbed]

    ways = {"float32": each_probe(plain)} | {name: each_probe(Forward(world.half, half, casts[name])) for name, half in halves.items()}
    found: dict[str, Any] = {}
    try:
        mapped = together(world)
        difference = float(np.abs(mapped().numpy() - np.stack(ways["float32"]())).max())
        ways["together"] = mapped
        found["together"] = {"difference_max": difference}
    except (RuntimeError, ValueError, NotImplementedError) as problem:
        found["together"] = {"problem": str(problem).splitlines()[0]}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, act in ways.items():
            taken = timed(act)
            if number:  # the first round warms up
                times[name].append(taken)
    exact = world.scalars(plain, MUS[0])
    for name in ways:
        found.setdefault(name, {})["seconds"] = median(times[name])
        found[name]["against_float32"] = median(a / b for a, b in zip(times[name], times["float32"], strict=True))
    for name, half in halves.items():
        for mu in MUS:
            rough = world.scalars(Forward(world.half, half, casts[name]), mu)
            found[name][f"correlation_{mu:g}"] = float(np.corrcoef(exact, rough)[0, 1])
            found[name][f"spread_{mu:g}"] = float(rough.std() / exact.std())
        found[name]["back_propagates"] = back_propagates(world, half)
        found[name]["weight_bytes"] = weight_bytes(half)
    for mu in MUS[1:]:
        found["float32"][f"correlation_{mu:g}"] = float(np.corrcoef(exact, world.scalars(plain, mu))[0, 1])
    found["float32"] |= {"weight_bytes": weight_bytes(plain.module), "back_propagates": back_propagates(world, plain.module)}
    return found


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--probes", type=int, default=16)
    options = parser.parse_args()
    if options.small:
        options.rounds, options.probes = 1, min(options.probes, 2)
    found = measure(options.rounds, options.probes, SMALL if options.small else MODEL)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.probes} forward passes of {BATCH} x {TOKENS} tokens, medians of {options.rounds} rounds, one thread")
    for name, figures in found.items():
        print(
            f"{name:12s} "
            + "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items())
        )


if __name__ == "__main__":
    main()
