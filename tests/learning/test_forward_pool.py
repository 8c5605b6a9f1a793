"""Forward passes that are computed together: the same numbers, to rounding, in any order, and nothing kept for the dead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import jobs
from hosfl_async.assembly.building import Parts
from hosfl_async.assembly.simulated import build_simulation
from hosfl_async.errors import SettingsError
from hosfl_async.learning.build import LearnerFactory
from hosfl_async.learning.forward_pool import TOLERANCE, VERSIONS_KEPT_MAX, ForwardPool
from hosfl_async.learning.settings import FirstOrderSettings, ModelSettings, TaskSettings, ZerothOrderSettings
from hosfl_async.messages import AGGREGATOR, StepId
from hosfl_async.report import Recorder
from hosfl_async.scenario import Scenario, load_scenario

NAMES = [f"client-{number}" for number in range(1, 9)]


def factory(together_max: int, **model: Any) -> LearnerFactory:
    torch.set_num_threads(1)
    task = TaskSettings(data="digits", batch_size=8, model=ModelSettings(**(model or {"client_widths": (7,)})))
    options: Any = {"seed": 3, "clients": NAMES, "shared": True, "forwards_together_max": together_max}
    return LearnerFactory(task, ZerothOrderSettings(), FirstOrderSettings(), **options)


def numbers(done: jobs.ForwardDone) -> np.ndarray:
    return np.frombuffer(done.activations.data, "<f4")


@pytest.mark.parametrize("model", [{"client_widths": (7,)}, {"client_widths": (33, 5)}, {"name": "cnn"}], ids=["thin", "two layers", "cnn"])
@given(order=st.permutations(range(8)), together=st.integers(2, 9), told=st.sets(st.integers(0, 7)))
def test_together_they_give_what_each_gives_alone(model: dict[str, Any], order: list[int], together: int, told: set[int]) -> None:
    """Whoever is due first, however many go together, and whether or not the pool was told of them all."""
    alone, pooled = ALONE.setdefault(str(model), factory(1, **model)), factory(together, **model)
    learners = [pooled.client(name) for name in NAMES]
    wanted = [jobs.Forward(StepId(name, 1, 1), 0) for name in NAMES]
    for index in told:
        learners[index].begin(wanted[index])
    for index in order:
        expected, found = alone.client(NAMES[index]).run(wanted[index]), learners[index].run(wanted[index])
        assert found.labels == expected.labels and found.activations.shape == expected.activations.shape
        largest = np.abs(numbers(expected)).max()
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=0, atol=TOLERANCE * largest)


ALONE: dict[str, LearnerFactory] = {}


class Drawn:
    """A learner that only draws: its batch is its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0

    def batch_of(self, job: jobs.Forward) -> tuple[torch.Tensor, np.ndarray]:
        self.asked += 1
        return torch.full((2, 64), self.number / 100), np.array([self.number, self.number])


def begun(pool: ForwardPool, count: int, version: int = 0) -> list[tuple[Drawn, jobs.Forward]]:
    made = [(Drawn(number), jobs.Forward(StepId(f"client-{number}", 1, 1), version)) for number in range(count)]
    for learner, job in made:
        pool.begin(learner, job)
    return made


def test_as_many_go_together_as_the_switch_says() -> None:
    made = factory(1)
    pool, views = ForwardPool(made.model.client, 4), made.client(NAMES[0])._held.views
    for learner, job in begun(pool, 10):
        (_, labels), activations = pool.forward(learner, job, views)
        assert labels[0] == learner.number and len(activations) == 2
        assert learner.asked == 1
    assert (pool.calls, pool.passes) == (3, 10)
    assert not pool._begun and not pool._computed


def test_a_pass_at_another_version_does_not_go_along() -> None:
    made = factory(1)
    pool, views = ForwardPool(made.model.client, 4), made.client(NAMES[0])._held.views
    (first, job), *_ = begun(pool, 1, version=0)
    (other, later), *_ = [(Drawn(7), jobs.Forward(StepId("client-7", 1, 1), 1))]
    pool.begin(other, later)
    pool.forward(first, job, views)
    assert pool.passes == 1 and other.asked == 0


def test_what_the_dead_have_begun_is_forgotten() -> None:
    made = factory(1)
    pool, views = ForwardPool(made.model.client, 4), made.client(NAMES[0])._held.views
    for version in range(3 * VERSIONS_KEPT_MAX):
        (learner, job), *_ = begun(pool, 5, version)
        pool.forward(learner, job, views)
        assert len(pool._begun) <= VERSIONS_KEPT_MAX and len(pool._computed) <= 4 * VERSIONS_KEPT_MAX
    late, job = Drawn(4), jobs.Forward(StepId("client-4", 1, 1), 0)
    assert len(pool.forward(late, job, views)[1]) == 2, "computed alone"


def test_a_half_that_mixes_samples_is_refused() -> None:
    mixing = factory(1).model.client
    mixing.module.append(torch.nn.BatchNorm1d(7))
    with pytest.raises(SettingsError, match="forwards_together_max: the client half is not a chain of layers"):
        ForwardPool(mixing, 4)


def run(scenario: Scenario) -> tuple[Any, Recorder, Parts, Any]:
    parts, recorder = Parts(scenario), Recorder()
    simulation = build_simulation(scenario, parts, recorder)
    outcome = simulation.run()
    return outcome, recorder, parts, simulation.agent(AGGREGATOR)


def test_a_run_with_passes_together_is_the_same_run_to_rounding_and_repeats_to_the_bit() -> None:
    settings = ["fleet_size=40", "task.toy_samples=400", "aggregator.client_steps=400", "aggregator.buffer_contributions=10"]
    path = Path(__file__).parents[2] / "scenarios" / "fleet_10k.toml"
    alone, curve, _, _ = run(load_scenario(path, settings))
    together, pooled_curve, parts, aggregator = run(load_scenario(path, [*settings, "simulation.forwards_together_max=16"]))
    assert (together.messages, together.events, together.modelled_time_s) == (alone.messages, alone.events, alone.modelled_time_s)
    assert abs(pooled_curve.evaluations[-1].loss - curve.evaluations[-1].loss) < 1e-4
    pool = parts.learners._shared[1].pool  # type: ignore[index]
    assert pool is not None and 3 * pool.calls < pool.passes >= 400
    again = run(load_scenario(path, [*settings, "simulation.forwards_together_max=16"]))[3]
    assert again.final_digest == aggregator.final_digest is not None
