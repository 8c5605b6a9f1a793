"""The methods: ours, the paper's, the control and the rivals. Each is a few settings of the very same agents, and its source.

A method *fixes* what it means by definition: a scenario file may not say otherwise. docs/methods.md tells what each one does, and where
ours deviates from what was published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal[
    "hosfl_async",
    "hosfl_sync",
    "hosfl_sync_over_selected",
    "frozen_client",
    "sfl_first_order",
    "sfl_first_order_sync",
    "skip_feedback",
    "activity_perturbation",
    "mu_splitfed",
    "sfl_zeroth_order",
    "fedbuff_first_order",
    "decomfl",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One method. ``fixes``: dotted key -> value that the method means by definition. ``defaults``: what a file may say otherwise."""

    source: str
    """Where it was published."""
    synchronous: bool = False
    """One log entry per step of the whole fleet, or of the cohort, without weights for staleness."""
    over_selected: bool = False
    """Takes the first of a cohort that is larger than the entry."""
    fixes: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


_HOSFL = "HO-SFL, arXiv:2603.14773"
_SPLITFED = "SplitFed, arXiv:2004.12088"
_SPLIT = {"task.model.cut": "layer"}
_FIRST_ORDER = {"shared.estimator": "gradient", **_SPLIT}
_SKIP_FEEDBACK = {"shared.estimator": "skip_feedback", **_SPLIT}
_ACTIVITIES = {"shared.estimator": "activity_slopes", **_SPLIT}
_PROJECTION = {"shared.estimator": "dual_projection", **_SPLIT}
_FORWARD_ONLY = {
    "shared.estimator": "server_losses",
    **_SPLIT,
    "cut.activations": "float32",
    "client.dual_reuse": 1,
    "server.micro_batch_max": 1,
}
"""Slopes are differences of a thousandth of what crosses the cut: rounding it would leave nothing of them."""
_LOCAL_TRAINING = {"shared.estimator": "local_training", "task.model.cut": "end", "shared.directions": "per_step"}
_SENT_WHOLE = {"aggregator.snapshot_every_versions": 1, "aggregator.snapshot_behind_versions": 1}
"""Where contributions are dense: a client fetches the newest client half whole, and not K dense vectors for every version it missed."""
_LOCAL_LOSSES = {"shared.estimator": "local_losses", "task.model.cut": "end", "shared.directions": "per_version"}

METHODS: dict[str, Entry] = {
    "hosfl_async": Entry(f"ours, from {_HOSFL}, and FedBuff, arXiv:2106.06639", fixes=_PROJECTION),
    "hosfl_sync": Entry(f"{_HOSFL}, algorithm 1", synchronous=True, fixes=_PROJECTION),
    "hosfl_sync_over_selected": Entry(f"{_HOSFL}, with the over-selection of arXiv:1902.01046", True, True, fixes=_PROJECTION),
    "frozen_client": Entry("the control", fixes={"shared.probes": 0, "update.rule": "sgd", "update.decay_versions": 0, **_PROJECTION}),
    "sfl_first_order": Entry(f"{_SPLITFED}, in the schedule of FedBuff, arXiv:2106.06639", fixes=_FIRST_ORDER, defaults=_SENT_WHOLE),
    "sfl_first_order_sync": Entry(
        f"{_SPLITFED}, the client halves averaged after every step", synchronous=True, fixes=_FIRST_ORDER, defaults=_SENT_WHOLE
    ),
    "skip_feedback": Entry(
        f"ours, from {_HOSFL}, and direct feedback alignment, arXiv:1609.01596",
        fixes=_SKIP_FEEDBACK,
        defaults={"task.model.trainable": "lora_writers", **_SENT_WHOLE},
    ),
    "activity_perturbation": Entry(f"ours, from {_HOSFL}, and arXiv:2210.03310", fixes=_ACTIVITIES, defaults=_SENT_WHOLE),
    "mu_splitfed": Entry("MU-SplitFed, arXiv:2510.21155", synchronous=True, fixes=_PROJECTION, defaults={"server.steps_per_activation": 4}),
    "sfl_zeroth_order": Entry("MU-SplitFed, arXiv:2510.21155, in the schedule of FedBuff, arXiv:2106.06639", fixes=_FORWARD_ONLY),
    "fedbuff_first_order": Entry(
        "FedBuff, arXiv:2106.06639",
        fixes=_LOCAL_TRAINING,
        defaults={"client.local_steps": 4, "shared.evaluate_every_versions": 50, **_SENT_WHOLE},
    ),
    "decomfl": Entry("DeComFL, arXiv:2405.15861", synchronous=True, fixes=_LOCAL_LOSSES, defaults={"shared.evaluate_every_versions": 10}),
}


def fixed_by_method(method: str, clients: int, cohort: int = 0) -> dict[str, Any]:
    """Dotted key -> value that ``method`` means by definition, for a fleet of ``clients`` of whom ``cohort`` are granted for each
    version (0: all); nothing for a method there is not."""
    entry = METHODS.get(method)
    if entry is None:
        return {}
    return {**(_synchronous(clients, cohort) if entry.synchronous else {}), **entry.fixes}


def defaults_of_method(method: str) -> dict[str, Any]:
    """Dotted key -> value that ``method`` takes where a file says nothing; nothing for a method there is not."""
    entry = METHODS.get(method)
    return entry.defaults if entry else {}


def is_dense(method: str) -> bool:
    """Whether entries hold vectors, so that a client half is by default sent whole rather than replayed."""
    return defaults_of_method(method).items() >= _SENT_WHOLE.items()


def _synchronous(clients: int, cohort: int) -> dict[str, Any]:
    """What a cohort brings after its version was committed is refused; of the whole fleet only a deadline can make a step late."""
    late = {"aggregator.staleness.rule": "cutoff", "aggregator.staleness.versions_max": 0}
    return {
        "aggregator.buffer_contributions": cohort or clients,
        **(late if cohort else {"aggregator.staleness.rule": "constant"}),
        "client.steps_unanswered_max": 1,
        "server.staleness.rule": "constant",
    }
