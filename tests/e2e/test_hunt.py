"""``hosfl hunt``: it finds what is there, makes it small, writes what replays, and says so when nothing breaks."""

from __future__ import annotations

from pathlib import Path

from command import SCENARIOS, hosfl

from hosfl_async.assembly import hunt as hunting
from hosfl_async.assembly.hunt import HORIZON_MIN_S
from hosfl_async.scenario import Scenario, load_scenario

TINY = ("fleet[0].count=3", "fleet[1].count=1", "aggregator.buffer_contributions=2", "shared.probes=2", "aggregator.client_steps=12")


def test_nothing_breaks_in_a_sound_system() -> None:
    found = hunting.hunt(load_scenario(SCENARIOS / "quickstart.toml", TINY), tries=8)
    assert found.problems == () and found.tried == 9


def test_what_breaks_is_made_small() -> None:
    """A world counts as broken here if messages are lost and the split server crashes."""

    def problems_of(world: Scenario) -> list[str]:
        crashed = any(outage.agent == "split_server" and outage.kind == "crash" for outage in world.outages)
        return ["planted"] if world.network.loss > 0.05 and crashed else []

    found = hunting.hunt(load_scenario(SCENARIOS / "quickstart.toml", TINY), tries=3000, problems_of=problems_of)
    assert found.problems == ("planted",)
    [outage] = found.scenario.outages
    assert (outage.agent, outage.kind, outage.at_s, outage.absence_s) == ("split_server", "crash", 0, HORIZON_MIN_S / 10)
    assert found.scenario.fault == () and found.scenario.fleet == load_scenario(SCENARIOS / "quickstart.toml", TINY).fleet
    assert found.scenario.network.loss == 0.06
    assert found.scenario.network.duplication == found.scenario.network.reordering == 0
    assert found.scenario.seed == 0


def test_a_budget_that_breaks_is_written_as_a_file_that_replays(tmp_path: Path) -> None:
    overrides = [word for each in TINY for word in ("--set", each)]
    out = tmp_path / "hunted.toml"
    overrides += ["--set", "network.loss=0.3"]
    done = hosfl("hunt", SCENARIOS / "quickstart.toml", *overrides, "--budgets", "--tries", "5", "--out", out)
    assert done.returncode == 1, done.stderr
    assert "expect.dropped_max = 0, but counts.dropped is" in done.stdout
    again = hosfl("hunt", out, "--budgets", "--tries", "0", "--out", tmp_path / "again.toml")
    assert again.returncode == 1
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]
    assert load_scenario(tmp_path / "again.toml") == load_scenario(out)
    fine = hosfl("hunt", SCENARIOS / "quickstart.toml", *overrides, "--tries", "0", "--out", tmp_path / "none.toml")
    assert fine.returncode == 0 and "nothing broke in 1 worlds" in fine.stdout and not (tmp_path / "none.toml").exists()
