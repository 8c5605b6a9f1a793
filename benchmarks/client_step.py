"""What a client step costs beside its forward passes.

``python -m benchmarks.client_step [--json]`` compares, in one run, in alternation, by medians, one thread:

* P + 1 pure forward passes of the client half (inference mode, same batch of 32, P = 5);
* a whole client step through the learner: batch, anchor, P probes with fresh directions, projection on a dual,
  and all conversions from and to messages;
* the floor of what writes perturbed parameters to memory: the same forwards with one bare addition of the client half into a scratch
  vector before each probe. Low-rank directions (``learning/low_rank_prober.py``) go below it, as they write none.

CPU time of the process, since machines are shared.

Bar: the step takes at most 1.25 times its forwards, for a fully connected client half of a million parameters and a small CNN.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from time import process_time

import numpy as np
import torch

from benchmarks import new_parser
from hosfl_async import jobs
from hosfl_async.learning.activity_prober import ActivityProber
from hosfl_async.learning.cut_traffic import CutTraffic
from hosfl_async.learning.data import BatchSampler
from hosfl_async.learning.directions import new_prober
from hosfl_async.learning.learners import ClientLearner, Workbench
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import DEFAULT_CUT, DEFAULT_ZEROTH_ORDER, ModelSettings
from hosfl_async.learning.skip_feedback import SkipFeedback
from hosfl_async.learning.split_model import SplitModel
from hosfl_async.learning.tensors import to_data
from hosfl_async.learning.version_store import VersionStore
from hosfl_async.messages import StepId

BATCH, PROBES, REPETITIONS, WARM = 32, 5, 61, 3
RUN_KEY = bytes(16)
CASES = {
    "mlp, 784-1024-256": (ModelSettings(name="mlp", client_widths=(1024, 256), activation="relu"), (1, 28, 28)),
    "mlp, 8 layers of 360": (ModelSettings(name="mlp", client_widths=(360,) * 8, activation="relu"), (1, 18, 20)),
    "cnn, 28x28, 16 and 32 channels": (ModelSettings(name="cnn", client_widths=(16, 32), activation="relu"), (1, 28, 28)),
    "mlp, 64-8 (quickstart)": (ModelSettings(name="mlp", client_widths=(8,), activation="relu"), (1, 8, 8)),
}


def new_client(model: SplitModel) -> tuple[ClientLearner, torch.Tensor]:
    """A client learner over random images, and a batch of them."""
    images = torch.rand(256, *model.input_shape, generator=torch.Generator().manual_seed(1))
    labels = np.arange(256, dtype=np.int64) % 10
    store = VersionStore(model.client, lambda: model.client.initial(RUN_KEY), RUN_KEY)
    prober = new_prober(model.client, RUN_KEY, DEFAULT_ZEROTH_ORDER)
    bench = Workbench(
        model,
        prober,
        BatchSampler(0, BATCH),
        images,
        labels,
        1e-3,
        CutTraffic(DEFAULT_CUT, RUN_KEY),
        lambda: ActivityProber(model.client, RUN_KEY, 1e-3),
        lambda: SkipFeedback(model.client, "skip"),
    )
    return ClientLearner(store, bench, np.arange(256)), images[:BATCH].clone()


def measure(settings: ModelSettings, image_shape: tuple[int, ...], repetitions: int = REPETITIONS) -> dict[str, float]:
    """Median milliseconds of P + 1 forwards and of a step, their ratio, and the size of the client half."""
    model = build_model(settings, image_shape, 10)
    learner, batch = new_client(model)
    pure = build_model(settings, image_shape, 10).client
    pure.bind(pure.views(pure.initial(RUN_KEY)))
    dual = to_data(np.random.default_rng(1).normal(size=(BATCH, *model.cut_shape)).astype(np.float32))

    def forwards(number: int) -> None:
        with torch.inference_mode():
            for _ in range(PROBES + 1):
                pure.module(batch)

    def step(number: int) -> None:
        name = StepId("client-0", 1, number)
        learner.run(jobs.Forward(name, 0))
        learner.run(jobs.Probe(name, PROBES))
        learner.run(jobs.Project(name, dual))

    theta = pure.initial(RUN_KEY)
    scratch = np.empty_like(theta)

    def floor(number: int) -> None:
        with torch.inference_mode():
            pure.module(batch)
            for _ in range(PROBES):
                np.add(theta, np.float32(1e-3), out=scratch)
                pure.module(batch)

    taken: dict[Callable[[int], None], list[float]] = {forwards: [], floor: [], step: []}
    for repetition in range(repetitions + WARM):
        for work, times in taken.items():
            start = process_time()
            work(repetition)
            if repetition >= WARM:
                times.append((process_time() - start) * 1e3)
    pure_ms, floor_ms, step_ms = median(taken[forwards]), median(taken[floor]), median(taken[step])
    return {
        "parameters": model.client.size,
        "forwards_ms": pure_ms,
        "step_ms": step_ms,
        "step_over_forwards": step_ms / pure_ms,
        "floor_over_forwards": floor_ms / pure_ms,
    }


def main() -> None:
    options = new_parser(__doc__).parse_args()
    repetitions = 1 if options.small else REPETITIONS
    torch.set_num_threads(1)
    results = {name: measure(*case, repetitions) for name, case in CASES.items()}
    if options.json:
        print(json.dumps(results))
        return
    print(f"A client step against its {PROBES + 1} forward passes, batch {BATCH}, medians of {repetitions} alternating repetitions")
    for name, result in results.items():
        print(
            f"{name:>32} ({int(result['parameters']):>9,} parameters): forwards {result['forwards_ms']:7.3f} ms, "
            f"step {result['step_ms']:7.3f} ms, ratio {result['step_over_forwards']:.2f} (floor {result['floor_over_forwards']:.2f})"
        )
    print("Bar: at most 1.25 for a million fully connected parameters and for a small CNN.")


if __name__ == "__main__":
    main()
