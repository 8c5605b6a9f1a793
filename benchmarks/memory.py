"""Memory of a client step, against inference and against back-propagation.

``python -m benchmarks.memory [--json]`` runs each of these in a process of its own and compares what each adds to the resident
memory of a process that has the parameters loaded (peak resident set size, Linux):

* inference: forward passes of the client half;
* a client step: anchor, probes, projection (P = 5), through the learner;
* back-propagation of the same client half on the same batch with SGD (a first-order split client).

Bar: the peak of the client step is at most 1.2 times that of inference plus one copy of the client half.
The peaks are those of whole processes, interpreter and libraries included; what is added above the loaded model is printed too.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable

import torch

from benchmarks import in_own_process, new_parser
from benchmarks.client_step import BATCH, PROBES, RUN_KEY, new_client
from hosfl_async import jobs
from hosfl_async.learning.models import build_model
from hosfl_async.learning.settings import ModelSettings
from hosfl_async.learning.tensors import to_data
from hosfl_async.messages import StepId

CASES = {
    "mlp, 29.9 million parameters": (ModelSettings(name="mlp", client_widths=(2048,) * 8, activation="relu"), (1, 16, 16)),
    "cnn, 64x64, 32, 64 and 64 channels": (ModelSettings(name="cnn", client_widths=(32, 64, 64), activation="relu"), (1, 64, 64)),
}
SMALL_CASES = {
    "mlp, 64-8": (ModelSettings(name="mlp", client_widths=(8,), activation="relu"), (1, 8, 8)),
    "cnn, 16x16, 8 channels": (ModelSettings(name="cnn", client_widths=(8,), activation="relu"), (1, 16, 16)),
}
STEPS = 3


def peak_bytes() -> int:
    """Highest resident set size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_way(case: str, way: str) -> dict[str, int]:
    """In a fresh process: load the model, do the work of one way a few times, and report the peaks."""
    torch.set_num_threads(1)
    model = build_model(*(CASES | SMALL_CASES)[case], 10)
    if way == "client_step":
        learner, batch = new_client(model)
    else:
        theta = model.client.initial(RUN_KEY)
        model.client.bind(model.client.views(theta))
        batch = torch.rand(BATCH, *model.input_shape)
    module = model.client.module
    dual = torch.full((BATCH, *model.cut_shape), 1e-3)

    def inference() -> None:
        with torch.inference_mode():
            module(batch)

    def client_step() -> None:
        step = StepId("client-0", 1, 1)
        learner.run(jobs.Forward(step, 0))
        learner.run(jobs.Probe(step, PROBES))
        learner.run(jobs.Project(step, to_data(dual.numpy())))

    def back_propagation() -> None:
        module.requires_grad_(True)
        module(batch).backward(dual)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
                parameter.grad = None

    ways: dict[str, Callable[[], None]] = {"inference": inference, "client_step": client_step, "back_propagation": back_propagation}
    before = peak_bytes()
    for _ in range(STEPS):
        ways[way]()
    return {"peak_bytes": peak_bytes(), "added_bytes": peak_bytes() - before, "client_half_bytes": model.client.size * 4}


def measure(case: str) -> dict[str, float]:
    """Peaks of the three ways, and the ratio that the bar is about."""
    result: dict[str, float] = {}
    for way in ("inference", "client_step", "back_propagation"):
        found = in_own_process("benchmarks.memory", "--case", case, "--way", way)
        result |= {f"{way}_peak_bytes": found["peak_bytes"], f"{way}_added_bytes": found["added_bytes"]}
        result["client_half_bytes"] = found["client_half_bytes"]
    result["step_over_inference_plus_copy"] = result["client_step_peak_bytes"] / (
        result["inference_peak_bytes"] + result["client_half_bytes"]
    )
    return result


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--case", choices=CASES | SMALL_CASES, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run_way(options.case, options.way)))
        return
    results = {case: measure(case) for case in (SMALL_CASES if options.small else CASES)}
    if options.json:
        print(json.dumps(results))
        return
    print(f"Peak resident memory in MB (added by the work above the loaded model), batch {BATCH}, P = {PROBES}, one process each")
    for case, result in results.items():
        shown = ", ".join(
            f"{way.replace('_', ' ')} {result[f'{way}_peak_bytes'] / 1e6:.1f} (+{result[f'{way}_added_bytes'] / 1e6:.1f})"
            for way in ("inference", "client_step", "back_propagation")
        )
        copy = result["client_half_bytes"] / 1e6
        print(f"{case}: {shown}; one copy of the client half {copy:.1f}; ratio {result['step_over_inference_plus_copy']:.3f}")
    print("Bar: client step at most 1.2 x (inference + one copy of the client half).")


if __name__ == "__main__":
    main()
