"""Every method trains: through the same agents, codec and hosts, the clients lift the accuracy above the frozen control."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosfl_async.assembly import simulate
from hosfl_async.scenario import load_scenario
from hosfl_async.scenario.methods import METHODS

SCENARIO = Path(__file__).parents[2] / "scenarios" / "quickstart.toml"

RUNS: dict[str, list[str]] = {
    "hosfl_async": [],
    "hosfl_sync": ["aggregator.buffer_deadline_s=600"],
    "hosfl_sync_over_selected": ["aggregator.cohort=8", "aggregator.cohort_extra=4"],
    "sfl_first_order": ["aggregator.learning_rate=1.0"],
    "skip_feedback": [
        *('task.data="toy_tokens"', "task.toy_samples=600", 'task.model={name="encoder", blocks=3, cut_block=2, hidden=16, heads=2}'),
        *('task.model.server_trainable="norms"', 'task.model.trainable="writers"', "aggregator.learning_rate=0.25"),
    ],
    "activity_perturbation": ["aggregator.learning_rate=1.0"],
    "mu_splitfed": ["aggregator.buffer_deadline_s=600"],
    "sfl_zeroth_order": ["aggregator.learning_rate=1.0"],
    "fedbuff_first_order": ["aggregator.learning_rate=1.0"],
    "decomfl": ["aggregator.cohort=5", "aggregator.buffer_deadline_s=6000", "aggregator.learning_rate=0.05"],
    "sfl_first_order_sync": ["aggregator.buffer_deadline_s=600", "aggregator.learning_rate=2.0"],
}
"""Method -> what it needs beside the scenario to learn in few steps."""

BYTES_OF = {
    "sfl_first_order": "gradients",
    "sfl_first_order_sync": "gradients",
    "fedbuff_first_order": "gradients",
    "skip_feedback": "gradients",
    "activity_perturbation": "gradients",
}


def test_every_method_but_the_control_is_run_here() -> None:
    assert set(RUNS) == set(METHODS) - {"frozen_client"}


@pytest.mark.parametrize("method", RUNS)
def test_it_trains_and_everyone_agrees(method: str) -> None:
    steps = f"aggregator.client_steps={STEPS.get(method, 600)}"
    fast = [] if METHODS[method].synchronous else ["aggregator.staleness.rule=constant"]
    scenario = load_scenario(SCENARIO, [f"method={method}", steps, *fast, *RUNS[method]])
    summary = simulate(scenario, validate=True)
    assert summary.digests_agree
    assert summary.clients_confirmed == scenario.clients
    assert summary.bytes[BYTES_OF.get(method, "scalars")] > 0
    assert summary.accuracy_final > summary.accuracy_frozen_control + 0.03


STEPS: dict[str, int] = {"decomfl": 3000, "mu_splitfed": 1200}
"""What learns slowly: P probes in all dimensions of the model; a server half that runs ahead, which swings at first."""


def test_a_dual_used_again_divides_the_cut_traffic_and_still_trains() -> None:
    changes = ["aggregator.client_steps=600", "aggregator.staleness.rule=constant"]
    once = simulate(load_scenario(SCENARIO, changes), control=False)
    thrice = simulate(load_scenario(SCENARIO, [*changes, "client.dual_reuse=3"]), validate=True)
    assert thrice.digests_agree
    assert thrice.bytes["duals"] < once.bytes["duals"] / 2.5
    assert thrice.accuracy_final > thrice.accuracy_frozen_control + 0.03
