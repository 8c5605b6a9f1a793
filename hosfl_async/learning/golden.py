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

from hosfl_async.learning.low_rank import LowRankPerturber
from hosfl_async.learning.perturbation import DirectionAdder, Perturber, Vector
from hosfl_async.learning.settings import UpdateSettings
from hosfl_async.learning.update_rule import UpdateRule
from hosfl_async.learning.version_store import parameter_digest
from hosfl_async.learning.zeroth_order import replay
from hosfl_async.messages import LogEntry, StepId, Term


def golden_vectors() -> dict[str, Any]:
    """The content of ``golden.json``: ``directions``, ``coefficients``, ``entries``, and the ``digest`` after their replay; under
    ``low_rank`` the ``shapes``, ``rank`` and ``digest`` of the same replay along low-rank directions."""
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


def replayed_digest(vectors: dict[str, Any], perturber: DirectionAdder) -> bytes:
    """Replay the golden records here and now along one kind of direction, and digest the result."""
    theta = golden_start(vectors["size"])
    replay(theta, golden_entries(vectors), bytes.fromhex(vectors["run_key"]), perturber)
    return parameter_digest(theta)


@cache
def golden_digest() -> bytes:
    """One digest of the golden records replayed along each kind of direction, computed once for each process."""
    vectors = golden_vectors()
    kinds = (Perturber(), LowRankPerturber(map(tuple, vectors["low_rank"]["shapes"]), vectors["low_rank"]["rank"]))
    return blake2b(b"".join(replayed_digest(vectors, kind) for kind in kinds), digest_size=32).digest()


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
