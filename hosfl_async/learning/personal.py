"""Personal fine-tuning: a client goes on with its own copy of the client half when the run is over.

The steps are those of the run (HO-SFL, arXiv:2603.14773, section 3): a batch of the client's own training samples, activations to the
split server, the dual back, P perturbed forward passes, and theta moves by their scalars. Two things differ. The server half stands still,
at its final parameters. And the scalars go nowhere: they are a branch of the update log that this client alone writes and replays.

Steps are named ``CLIENT.personal``, which is no client's name, so batches and directions are drawn anew and nobody else's change. The tuned
copy is measured on samples that its client has never trained on, before or now (``personal.held_out``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hosfl_async import jobs
from hosfl_async.errors import LearnerError
from hosfl_async.learning.learners import ClientLearner, ServerLearner
from hosfl_async.learning.settings import PersonalSettings
from hosfl_async.messages import LogEntry, StepId, Term, chain_hash
from hosfl_async.scaling import coefficients

EVALUATED_TOGETHER = 1024
"""Samples of a client's own test in one forward pass, at most."""


class Tuned(NamedTuple):
    """Accuracies on the client's own test, and whether a number that was not finite ended the tuning."""

    before: float
    after: float
    broken_off: bool


def fine_tune(
    client: ClientLearner, server: ServerLearner, settings: PersonalSettings, name: str, own_test: NDArray[np.int64], chain: bytes
) -> Tuned:
    """Tune the copy that ``client`` holds, ``settings.steps`` steps long; ``server`` is only asked. ``chain``: where the branch begins.

    Whose numbers leave the finite ones goes back to the common half, so it is no better and no worse than before.
    """
    before, broken_off = accuracy(client, server, own_test), False
    for number in range(1, settings.steps + 1):
        try:
            term = _term(client, server, settings, StepId(f"{name}.personal", 1, number))
            chain = chain_hash(chain, client.version + 1, (term,))
            client.run(jobs.Replay((LogEntry(client.version + 1, (term,), chain),)))
        except (LearnerError, OverflowError):
            broken_off = True
            break
    return Tuned(before, before if broken_off else accuracy(client, server, own_test), broken_off)


def _term(client: ClientLearner, server: ServerLearner, settings: PersonalSettings, step: StepId) -> Term:
    base_version = client.version
    sent = client.run(jobs.Forward(step, base_version))
    client.run(jobs.Probe(step, settings.probes))
    dual = server.run(jobs.EvaluateDual(step, sent.activations, sent.labels)).dual
    projected = client.run(jobs.Project(step, dual)).projected_gradients
    return Term(step, base_version, coefficients(projected, learning_rate=settings.learning_rate, weight=1.0, contributions=1))


def accuracy(client: ClientLearner, server: ServerLearner, positions: Sequence[int] | NDArray[np.int64]) -> float:
    """Of the copy that ``client`` holds, with the server half as it stands, on these of the training samples."""
    chosen = np.asarray(positions, np.int64)
    parts = (chosen[begin : begin + EVALUATED_TOGETHER] for begin in range(0, len(chosen), EVALUATED_TOGETHER))
    return sum(server.correct(*client.activations(part)) for part in parts) / len(chosen)
