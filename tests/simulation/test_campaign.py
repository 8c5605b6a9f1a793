"""The campaign of generated worlds: 2,000 small scenarios of every method, with habits, losses and fault plans, hold every invariant.

The worlds are the same at every run of the suite; ``make soak`` runs ten times as many. HOSFL_CAMPAIGN=N, with any other N, draws others.
A world that breaks something is made small, written as a scenario file, and the command that replays it is printed.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings

from hosfl_async.agents.membership import Member
from hosfl_async.assembly.hunt import Found, world_problems
from hosfl_async.assembly.worlds import small_scenarios, small_worlds
from hosfl_async.cli import main
from hosfl_async.scenario import Scenario, load_scenario, to_toml
from hosfl_async.scenario.methods import METHODS
from hosfl_async.simulation.faults import FaultKind

SLICES = 20
WORLDS = 100 * (10 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1)
"""In each slice."""
FIRST_SEED = int(os.environ.get("HOSFL_CAMPAIGN", "0")) * SLICES

PHASES = [Phase.generate] if os.environ.get("HOSFL_NO_SHRINK") else [Phase.generate, Phase.shrink]
"""Whoever only asks whether something breaks need not make it small."""

drawing = settings(
    max_examples=WORLDS, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False, phases=PHASES
)


def hold(world: Scenario, folder: Path) -> None:
    """Fails with what is broken and the command that replays it."""
    if problems := world_problems(world):
        path = folder / "breaks.toml"
        path.write_text(Found(1, tuple(problems), world).toml)
        pytest.fail("\n".join([*problems, f"again: hosfl simulate {path} --check --no-control"]), pytrace=False)


@pytest.mark.parametrize("part", range(SLICES))
def test_generated_worlds_hold_every_invariant(part: int, tmp_path: Path) -> None:
    @seed(FIRST_SEED + part)
    @settings(drawing)
    @given(small_worlds())
    def campaign(world: Scenario) -> None:
        hold(world, tmp_path)

    campaign()


def test_the_campaign_meets_every_method_and_every_kind_of_fault() -> None:
    """Nothing is left out unseen: what is counted here is drawn in a quarter of the campaign."""
    met: Counter[str] = Counter()

    @seed(FIRST_SEED)
    @settings(drawing, max_examples=500, phases=[Phase.generate])
    @given(small_worlds())
    def draw(world: Scenario) -> None:
        assert 2 <= world.clients <= 6
        met.update(
            {world.method, world.client.dual_policy, world.cut.activations, world.cut.duals, world.first_order.optimizer, world.update.rule}
        )
        met.update({fault.kind for fault in world.fault} | {fault.lie for fault in world.fault if fault.kind == "byzantine"})
        met.update({group.availability.rule for group in world.fleet} | {group.availability.kind for group in world.fleet})
        met.update({outage.agent for outage in world.outages})
        met.update({world.client.catch_up, world.aggregator.trust.rule})
        met.update({f"share of {name}" for name in ("server", "aggregator") if getattr(world, name).device_share_max < 1})
        met.update({name for name in ("loss", "duplication", "reordering", "burst_begin") if getattr(world.network, name)})

    draw()
    wanted = {*METHODS, *FaultKind.__args__, "fresh", "eager", "float32", "bfloat16", "int8", "int4", "momentum", "adamw", "sgd"}
    wanted |= {"silent", "sign_flip", "random", "huge", "nan", "replayed", "duty_cycle", "markov", "diurnal", "pause", "crash"}
    wanted |= {"measured", "peers", "share of server", "share of aggregator"}
    wanted |= {"aggregator", "split_server", "client-1", "loss", "duplication", "reordering", "burst_begin"}
    assert wanted <= set(met), wanted - set(met)


@seed(1)
@settings(drawing, max_examples=50)
@given(small_worlds())
def test_a_generated_world_is_a_scenario_file_that_reads_back_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, world: Scenario
) -> None:
    path = tmp_path_factory.mktemp("worlds") / "world.toml"
    path.write_text(to_toml(world))
    assert load_scenario(path) == world


def test_what_breaks_is_printed_as_a_command_that_breaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bug planted here: the aggregator forgets what it has admitted, and admits a repetition."""
    monkeypatch.setattr(Member, "remember", lambda self, number, answer: None)
    world = plain_scenario()
    with pytest.raises(pytest.fail.Exception) as failure:
        hold(world, tmp_path)
    told = str(failure.value)
    assert "is in the log 2 times" in told
    command = told.splitlines()[-1].removeprefix("again: ")
    assert command.startswith("hosfl simulate ") and "--check" in command
    monkeypatch.setattr("sys.argv", [*command.split(), "--out", str(tmp_path / "again")])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    assert "is in the log 2 times" in " ".join(capsys.readouterr().out.split())
    monkeypatch.undo()
    assert world_problems(world) == []


def plain_scenario() -> Scenario:
    """The simplest asynchronous one that is drawn, over links that repeat most messages."""

    def plain(drawn: Scenario) -> bool:
        return drawn.method == "hosfl_async" and drawn.aggregator.buffer_contributions == 1

    base = find(small_scenarios(), plain, settings=settings(drawing, max_examples=1000))
    return replace(base, aggregator=replace(base.aggregator, client_steps=12), network=replace(base.network, duplication=0.8))
