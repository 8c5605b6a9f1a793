"""Golden vectors: the proof that a machine derives keys, draws signs, scales and replays exactly as everybody else does.

``golden.json`` was written once and never changes: a machine whose ``golden_digest()`` differs would follow the log to other
parameters, so the aggregator refuses it when it joins. The test suite checks every intermediate value in the file, too.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from hosfl_async.learning.perturbation import Perturber, Vector
from hosfl_async.learning.settings import UpdateSettings
from hosfl_async.learning.update_rule import UpdateRule
from hosfl_async.learning.version_store import parameter_digest
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import LogEntry, StepId, Term


def golden_vectors() -> dict[str, Any]:
    """The content of ``golden.json``: ``directions``, ``coefficients``, ``entries``, and the ``digest`` after their replay."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())
    return content


def golden_start(size: int) -> Vector:
    """The fixed vector on which the golden entries are replayed: multiples of 2^-16 in [-1, 1), exact in float32."""
    return ((np.arange(size, dtype=np.int64) * 40503 % 131072 - 65536) / 65536).astype(np.float32)


def golden_entries(vectors: dict[str, Any]) -> tuple[LogEntry, ...]:
    """The golden records as log entries."""
    return tuple(
        LogEntry(
            version=entry["version"],
            terms=tuple(
                Term(
                    step=StepId(term["client"], term["incarnation"], term["number"]),
                    base_version=term["base_version"],
                    coefficients=bytes.fromhex(term["coefficients"]),
                )
                for term in entry["terms"]
            ),
            chain=bytes.fromhex(entry["chain"]),
        )
        for entry in vectors["entries"]
    )


@cache
def golden_digest() -> bytes:
    """Replay the three golden records here and now (once for each process) and digest the result."""
    vectors = golden_vectors()
    theta = golden_start(vectors["size"])
    replay(theta, golden_entries(vectors), bytes.fromhex(vectors["run_key"]), Perturber())
    return parameter_digest(theta)


@cache
def joining_proof(update: UpdateSettings, learning_rate: float) -> bytes:
    """What a machine shows when it joins: ``golden_digest``; under another update rule than plain SGD also the golden records replayed
    by that rule with the run's own constants, so that a machine that would replay by others is refused at once.
    """
    if update.rule == "sgd":
        return golden_digest()
    vectors = golden_vectors()
    rule = UpdateRule(update, vectors["size"], learning_rate)
    state = rule.initial(golden_start(vectors["size"]))
    rule.replay(state, golden_entries(vectors), bytes.fromhex(vectors["run_key"]), Perturber())
    return blake2b(golden_digest() + parameter_digest(state), digest_size=32).digest()
