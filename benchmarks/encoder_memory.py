"""Memory and time of a client step on a text encoder: forward only, skip feedback, back-propagation with and without recomputation.

``python -m benchmarks.encoder_memory [--trainable lora_writers] [--json]`` runs each way in a process of its own, on four blocks of
MiniLM's size (hidden 384, random values, nothing to fetch) and 32 sequences of 48 tokens. It prints by how much the peak exceeds what is
resident with the parameters loaded and after a step on one sequence (Linux), and the median CPU time as a ratio to that of a forward pass
in the same process.

* inference: a forward pass of the client half;
* probes: anchor, five perturbed forward passes, projection;
* skip feedback: the anchor's forward pass with its notes, and the second one with the outer products; gated: with the way down through the
  feed-forward branches;
* back-propagation: of the whole client half;
* recomputed: back-propagation that keeps the boundaries of the blocks and runs each block's forward pass again
  (activation checkpointing, arXiv:1604.06174): first order's honest rival in memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from benchmarks import begin_peak_bytes, in_own_process, new_parser, peak_bytes
from hosfl_async.learning.directions import new_prober
from hosfl_async.learning.first_order import client_gradient
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import FED_BACK, ModelSettings, ZerothOrderSettings
from hosfl_async.learning.skip_feedback import SkipFeedback
from hosfl_async.learning.split_model import initial_theta_c
from hosfl_async.learning.zeroth_order import forward, project
from hosfl_async.messages import StepId

VOCABULARY, PROBES = 1000, 5


class Size(NamedTuple):
    samples: int
    tokens: int
    hidden: int
    repeats: int


FULL, SMALL = Size(32, 48, 384, 5), Size(2, 8, 48, 1)
WAYS = ("inference", "probes", "skip_feedback", "gated_feedback", "back_propagation", "recomputed")


def run_way(way: str, trainable: str, size: Size = FULL) -> dict[str, float]:
    """In a fresh process: load the model, take a few steps of one way, and report."""
    torch.set_num_threads(1)
    samples, tokens, hidden, repeats = size
    settings = ModelSettings(name="encoder", blocks=5, cut_block=4, hidden=hidden, heads=12, trainable=trainable)  # type: ignore[arg-type]
    model = build_model(settings, (tokens,), 2, VOCABULARY)
    half, theta = model.client, initial_theta_c(model, 0)
    views = half.views(theta)
    batch = torch.arange(samples * tokens, dtype=torch.int32).view(samples, tokens) % VOCABULARY
    dual = torch.full((samples * tokens, hidden), 1e-3)
    feedback = SkipFeedback(half, "gated" if way == "gated_feedback" else "skip") if way.endswith("_feedback") else None
    prober = new_prober(half, bytes(16), ZerothOrderSettings()) if way == "probes" else None
    if way == "recomputed":
        for block in half.module.blocks:  # type: ignore[union-attr]
            block.forward = _checkpointed(block.forward)

    def probes() -> None:
        anchor = forward(half, views, batch)
        project(prober.differences(theta, views, batch, anchor, StepId("client-1", 1, 1), PROBES), dual.numpy(), 1e-3)  # type: ignore[union-attr]

    def feed_back() -> None:
        _, noted = feedback.forward(views, batch)  # type: ignore[union-attr]
        feedback.gradient(views, batch, dual, noted)  # type: ignore[union-attr]

    def first_order() -> None:
        forward(half, views, batch)
        client_gradient(half, views, batch, dual)

    ways: dict[str, Callable[[], object]] = {
        "inference": lambda: forward(half, views, batch),
        "probes": probes,
        "skip_feedback": feed_back,
        "gated_feedback": feed_back,
        "back_propagation": lambda: client_gradient(half, views, batch, dual),
        "recomputed": first_order,
    }
    whole, whole_dual = batch, dual
    batch, dual = whole[:1], whole_dual[:tokens]
    ways[way]()
    batch, dual = whole, whole_dual
    before = begin_peak_bytes()
    ways[way]()
    added = peak_bytes() - before
    times = {name: [_cpu_s(ways[name]) for _ in range(repeats)] for name in (way, "inference")}
    return {"added_bytes": added, "time_ratio": median(times[way]) / median(times["inference"]), "parameters": half.size}


def _checkpointed(inner: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda hidden, mask: checkpoint(inner, hidden, mask, use_reentrant=False) if torch.is_grad_enabled() else inner(hidden, mask)


def _cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure(trainable: str, *more: str) -> dict[str, dict[str, float]]:
    words = ["--trainable", trainable, *more]
    return {way: in_own_process("benchmarks.encoder_memory", "--way", way, *words) for way in WAYS}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--trainable", choices=FED_BACK, default="lora_writers")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SMALL if options.small else FULL
    if options.way:
        print(json.dumps(run_way(options.way, options.trainable, size)))
        return
    found = measure(options.trainable, *(["--small"] if options.small else []))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.trainable}, {found['inference']['parameters']:,} parameters, {size.samples} sequences of {size.tokens} tokens")
    for way, each in found.items():
        print(f"{way:18} added {each['added_bytes'] / 1e6:8.1f} MB   {each['time_ratio']:.2f} forward passes")


if __name__ == "__main__":
    main()
