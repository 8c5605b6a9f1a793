"""Memory of one client step with pretrained models: forward only, zeroth-order in two ways, skip feedback, first-order in two ways.

``python -m benchmarks.memory_truth [--picture memory.png] [--models minilm] [--json]`` runs each way in three processes of its own and
tells the median. Each loads the client half, passes one sample forward, gives freed memory back and lets the kernel forget the peak that
loading had; then it works three steps on random samples, and tells its peak resident set size (Linux). Ways:

* loaded: what is resident before these steps;
* forward: forward passes alone, what any client must hold;
* layer-wise: a step of ours (anchor, P = 2 probes, projection), one layer perturbed at a time, the default where that saves 4 MiB;
* scratch copy: the same with a perturbed copy of all that is learnt (``zeroth_order.signs = "independent"``);
* skip feedback: a step by ``learning.skip_feedback``, where the residual writers' adapters are learnt (it has no others);
* first order: back-propagation of the client half, with the gradient as one vector (the first-order method's own code);
* recomputed: the same with activations recomputed block by block (torch.utils.checkpoint), the first-order rival in memory.

No optimiser's moments are counted on either side. A model that was not fetched is left out, which is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks import begin_peak_bytes, in_own_process, new_parser, peak_bytes
from hosfl_async.assets import CATALOGUE, cached
from hosfl_async.learning.directions import new_prober
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.layerwise_prober import LayerwiseProber
from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import FED_BACK_CAUSAL, ModelSettings, ZerothOrderSettings
from hosfl_async.learning.skip_feedback_causal import new_feedback
from hosfl_async.learning.split_model import initial_theta_c
from hosfl_async.learning.zeroth_order import DifferenceMaker, forward, project
from hosfl_async.messages import StepId

RUN_KEY, PROBES = b"k" * 16, 2


class Size(NamedTuple):
    """Of the samples: how many, how long or wide; token ids below ``vocabulary``. And of the work."""

    batch: int
    tokens: int
    side: int
    vocabulary: int
    steps: int


FULL, SMALL = Size(8, 64, 224, 1000, 3), Size(2, 8, 32, 30, 1)
WAYS = {"baseline": "loaded", "forward": "forward", "layerwise": "layer-wise", "scratch": "scratch copy"}
WAYS |= {"skip": "skip feedback", "first_order": "first order", "recomputed": "recomputed"}

_MINILM, _SMOLLM2 = {"name": "minilm", "cut_block": 4}, {"name": "smollm2", "cut_block": 15}
_EFFICIENTNET = {"name": "efficientnet_lite0", "cut_block": 10}
CASES = {
    "MiniLM, 4 of 6 blocks, LoRA": ModelSettings(**_MINILM, trainable="lora"),  # type: ignore[arg-type]
    "MiniLM, 4 of 6 blocks, LoRA of writers": ModelSettings(**_MINILM, trainable="lora_writers"),  # type: ignore[arg-type]
    "MiniLM, 4 of 6 blocks, all": ModelSettings(**_MINILM, trainable="all"),  # type: ignore[arg-type]
    "SmolLM2, 15 of 30 blocks, LoRA": ModelSettings(**_SMOLLM2, trainable="lora"),  # type: ignore[arg-type]
    "SmolLM2, 15 of 30 blocks, LoRA of writers": ModelSettings(**_SMOLLM2, trainable="lora_writers"),  # type: ignore[arg-type]
    "SmolLM2, 15 of 30 blocks, all": ModelSettings(**_SMOLLM2, trainable="all"),  # type: ignore[arg-type]
    "EfficientNet-Lite0, 10 of 16 blocks, all": ModelSettings(**_EFFICIENTNET, trainable="all"),  # type: ignore[arg-type]
}


def run_way(case: str, way: str, size: Size = FULL) -> dict[str, int]:
    """In a fresh process: load the client half, work a few steps of one way, and report their peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings, image = CASES[case], (3, size.side, size.side)
    if settings.name == "efficientnet_lite0":
        model, batch = build_model(replace(settings, image_side=size.side), image, 10), torch.rand(size.batch, *image)
    else:
        model = build_model(settings, (size.tokens,), 2, size.vocabulary)
        batch = torch.randint(0, size.vocabulary, (size.batch, size.tokens), dtype=torch.int32)
    half = model.client
    theta = initial_theta_c(model, 0)
    views = half.views(theta)
    half.bind(views)
    del model  # the server half, as far as nothing of it is shared
    prober: DifferenceMaker = LayerwiseProber(half, RUN_KEY, 1e-3, LowRankPerturber(half.shapes, 16))
    if way == "scratch":
        prober = new_prober(half, RUN_KEY, ZerothOrderSettings(signs="independent"))
    feedback = new_feedback(half, "skip") if way == "skip" else None
    if way == "recomputed":
        _recompute(half.module)
    forward(half, views, batch[:1])
    resident = begin_peak_bytes()
    if way == "baseline":
        return {"peak_bytes": resident, "learnt": half.size}
    for number in range(size.steps):
        step = StepId("client-0", 1, number)
        if feedback:
            anchor, noted = feedback.forward(views, batch)
            feedback.gradient(views, batch, torch.full(anchor.shape, 1e-3), noted)
            continue
        anchor = forward(half, views, batch)
        if way in ("layerwise", "scratch"):
            differences = prober.differences(theta, views, batch, anchor, step, PROBES)
            project(differences, anchor, 1e-3)
        elif way in ("first_order", "recomputed"):
            client_gradient(half, views, batch, torch.full(anchor.shape, 1e-3))
    return {"peak_bytes": peak_bytes(), "learnt": half.size}


def _recompute(module: nn.Module) -> None:
    """Let each block of the client half keep nothing but what goes into it while a graph is recorded."""
    for block in _blocks_of(module):
        plain = block.forward

        def forward_of(block: nn.Module, *given: Any, _plain: Any = plain, **named: Any) -> Tensor:
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                return _plain(*given, **named)  # type: ignore[no-any-return]
            return checkpoint(_plain, *given, use_reentrant=False, **named)  # type: ignore[no-any-return]

        block.forward = MethodType(forward_of, block)


def _blocks_of(module: nn.Module) -> list[nn.Module]:
    for place in ("blocks", "body.layers"):
        try:
            return list(module.get_submodule(place).children())
        except AttributeError:
            continue
    return list(module.children())


class Measured(NamedTuple):
    """Of one client half: peaks in bytes by way, of each process, and how many parameters are learnt."""

    learnt: int
    peaks: dict[str, list[int]]

    def median(self, way: str) -> float:
        return median(self.peaks[way])

    def spread(self) -> float:
        """The largest share of its median by which processes of one way differ."""
        return max((max(each) - min(each)) / median(each) for each in self.peaks.values())


def measure(case: str, repetitions: int, *more: str) -> Measured:
    """The peaks of each way that there is for it; the ways take turns."""
    learnt, peaks = 0, {way: [] for way in WAYS if way != "skip" or CASES[case].trainable in FED_BACK_CAUSAL}  # type: ignore[var-annotated]
    for _ in range(repetitions):
        for way, found in peaks.items():
            told = in_own_process("benchmarks.memory_truth", "--case", case, "--way", way, *more)
            found.append(told["peak_bytes"])
            learnt = told["learnt"]
    return Measured(learnt, peaks)


def draw(results: dict[str, Measured], path: Path) -> None:
    """Bars: what each way adds to the process that has the client half loaded."""
    from matplotlib.figure import Figure

    shown = [way for way in WAYS if way != "baseline"]
    figure = Figure(figsize=(7.0, 0.6 + 0.9 * len(results)), dpi=100, layout="constrained")
    axes = figure.subplots()
    colours = ("#8a8a8a", "#0b6e99", "#7fb3cc", "#4a8f5c", "#c8553d", "#e3a892")
    for index, (way, colour) in enumerate(zip(shown, colours, strict=True)):
        those = [(row, found) for row, found in enumerate(results.values()) if way in found.peaks]
        places = [row + 0.14 * (index - 2.5) for row, _ in those]
        added = [(found.median(way) - found.median("baseline")) / 1e6 for _, found in those]
        bars = axes.barh(places, added, 0.13, color=colour, label=WAYS[way])
        axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=2)
    axes.set_yticks(range(len(results)), list(results), fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("MB added to the process that has the client half loaded", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--picture", type=Path, help="draw what each way adds, into this file")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="processes of each way")
    parser.add_argument("--models", nargs="+", choices=sorted({case.name for case in CASES.values()}), help="these models only")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    options.repetitions = 1 if options.small else options.repetitions
    if options.way:
        print(json.dumps(run_way(options.case, options.way, size)))
        return
    results = {}
    for case, settings in CASES.items():
        if options.models and settings.name not in options.models:
            continue
        if cached(CATALOGUE[settings.name]) is None:
            print(f"{case}: left out, {settings.name} is not here (hosfl data fetch {settings.name})", file=sys.stderr)
            continue
        results[case] = measure(case, options.repetitions, *(["--small"] if options.small else []))
    if options.picture and results:
        draw(results, options.picture)
    if options.json:
        print(json.dumps({case: {"learnt": found.learnt, **found.peaks} for case, found in results.items()}))
        return
    sizes = f"batch {size.batch}, {size.tokens} tokens or {size.side}x{size.side} pixels"
    print(f"Peak resident MB, median of {options.repetitions} processes; {sizes}, P = {PROBES}, one thread")
    print("| client half | learnt | " + " | ".join(WAYS.values()) + " |\n|---|---:|" + "---:|" * len(WAYS))
    for case, found in results.items():
        cells = (f"{found.median(way) / 1e6:,.0f}" if way in found.peaks else "" for way in WAYS)
        print(f"| {case} | {found.learnt:,} | {' | '.join(cells)} |")
    if results:
        print(f"Processes of one way differ by up to {max(found.spread() for found in results.values()):.1%} of their median.")


if __name__ == "__main__":
    main()
