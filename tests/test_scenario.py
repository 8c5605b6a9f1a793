"""Scenario files: what is read is what is meant, what is wrong is said where it stands, and what is written reads back as the same."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Len, Lt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hosfl_async.errors import SettingsError
from hosfl_async.scenario import Expectations, Scenario, find_problems, load_scenario, scenario_digest, schema, sweep_points, to_toml
from hosfl_async.scenario.inheritance import read_tables
from hosfl_async.scenario.methods import METHODS, is_dense
from hosfl_async.scenario.problems import key_lines
from hosfl_async.scenario.schema import SHARED
from hosfl_async.simulation.settings import FleetGroup

SCENARIOS = sorted((Path(__file__).parent.parent / "scenarios").glob("*.toml"))
SMALL = 'name = "small"\n[[fleet]]\ncount = 5\n'


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "a.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems_of(path: Path, *overrides: str, seed: int | None = None) -> list[str]:
    return [str(problem).removeprefix(f"{path}") for problem in find_problems(path, overrides, seed)]


# -- what is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_shipped_scenario_is_sound_and_says_what_it_shows(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.name == path.stem
    assert path.read_text().startswith("# ")
    assert any(getattr(scenario.expect, bound.name) != bound.default for bound in fields(Expectations))


def test_shared_settings_reach_every_agent(write) -> None:
    path = write(SMALL + "[shared]\nprobes = 3\ndigest_every_versions = 7\nretry = { first_s = 1.5 }\n")
    scenario = load_scenario(path)
    assert scenario.client.probes == scenario.aggregator.probes == 3
    assert scenario.client.digest_every_versions == scenario.server.digest_every_versions == scenario.aggregator.digest_every_versions == 7
    assert scenario.client.retry == scenario.server.retry == scenario.aggregator.retry == scenario.shared.retry
    assert scenario.shared.retry.first_s == 1.5


def test_shared_bounds_are_those_of_the_agents() -> None:
    shared = get_type_hints(type(load_scenario(SCENARIOS[0]).shared), include_extras=True)
    for table, keys in SHARED.items():
        own = get_type_hints(get_type_hints(Scenario)[table], include_extras=True)
        assert {key: own[key] for key in keys} == {key: shared[key] for key in keys}


def test_clients_are_numbered_through_the_groups(write) -> None:
    path = write('name = "groups"\n[[fleet]]\ncount = 3\n[[fleet]]\ncount = 2\nspeed_factor = 10\n')
    devices = list(load_scenario(path).devices())
    assert [name for name, _ in devices] == ["client-1", "client-2", "client-3", "client-4", "client-5"]
    assert [group.speed_factor for _, group in devices] == [1, 1, 1, 10, 10]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_shares_of_the_fleet_lose_nobody(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    path, size = tmp_path_factory.getbasetemp() / "shares.toml", sum(counts)
    path.write_text(f'name = "shares"\nfleet_size = {size}\n' + "".join(f"[[fleet]]\nshare = {count / size!r}\n" for count in counts))
    scenario = load_scenario(path, ["aggregator.buffer_contributions=1"])
    assert [group.count for group in scenario.fleet] == counts
    path.write_text(to_toml(scenario))
    assert load_scenario(path) == scenario


def test_overrides_and_seed_come_first(write) -> None:
    path = write(SMALL)
    scenario = load_scenario(
        path, ["fleet[0].count=7", "task.data=toy", "client.steps_unanswered_max = 2", "shared.retry.first_s=2"], seed=9
    )
    assert (scenario.clients, scenario.task.data, scenario.client.steps_unanswered_max, scenario.seed) == (7, "toy", 2, 9)
    assert scenario.aggregator.retry.first_s == 2


def test_synchronous_method_fixes_what_it_means(write) -> None:
    scenario = load_scenario(write('method = "hosfl_sync"\n' + SMALL))
    assert scenario.aggregator.buffer_contributions == scenario.clients == 5
    assert scenario.aggregator.staleness.rule == scenario.server.staleness.rule == "constant"
    assert scenario.client.steps_unanswered_max == 1


def test_method_on_the_command_line_wins_over_the_file(write) -> None:
    path = write('name = "b"\n[shared]\nprobes = 4\n[aggregator]\nbuffer_contributions = 2\n[[fleet]]\ncount = 3\n')
    assert load_scenario(path, ["method=hosfl_sync"]).aggregator.buffer_contributions == 3
    frozen = load_scenario(path, ["method=frozen_client"])
    assert frozen.client.probes == frozen.aggregator.probes == 0
    assert frozen.aggregator.buffer_contributions == 2
    assert ["--set shared.probes" in text for text in problems_of(path, "method=frozen_client", "shared.probes=4")] == [True]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_control_of_every_scenario_can_be_asked_for_by_its_name(path: Path) -> None:
    asked = load_scenario(path, ["method=frozen_client"])
    assert asked.update == replace(asked.update, rule="sgd", decay_versions=0)
    assert not asked.shared.probes


def test_frozen_control_changes_nothing_else() -> None:
    scenario = load_scenario(SCENARIOS[0])
    control = scenario.frozen_control()
    assert control.client.probes == control.aggregator.probes == 0
    back = replace(control, method=scenario.method, shared=scenario.shared).agree()
    assert back == scenario


NEEDS = {
    "skip_feedback": ["task.data=toy_tokens", "task.model.name=encoder"],
    "hosfl_sync_over_selected": ["aggregator.cohort=2", "aggregator.cohort_extra=1"],
}
"""Method -> what a file of a few lines has to say as well before it fits."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("written", ["", "[aggregator]\nsnapshot_every_versions = 7\n"], ids=["nothing", "versions"])
def test_a_control_fetches_halves_as_a_frozen_client_does(write, method: str, written: str) -> None:
    """Where entries are vectors, halves are sent whole; the control's never change, and its bytes must not say otherwise."""
    scenario = load_scenario(write(SMALL + written), [f"method={method}", *NEEDS.get(method, [])])
    frozen = load_scenario(write(SMALL + ("" if is_dense(method) else written)), ["method=frozen_client"])
    log, expected = scenario.frozen_control().aggregator, frozen.aggregator
    assert log.snapshot_every_versions == expected.snapshot_every_versions
    assert log.snapshot_behind_versions == expected.snapshot_behind_versions
    assert is_dense(method) == (scenario.aggregator.snapshot_behind_versions == 1)


# -- what is wrong --------------------------------------------------------------------------------------

WRONG = {
    "near miss": (SMALL + "[aggregator]\nlearning_rat = 1\n", [":5: aggregator.learning_rat", "mean aggregator.learning_rate?"]),
    "unknown key of another table": (SMALL + "[aggregator]\nmu = 1e-3\n", [":5: aggregator.mu", "did you mean zeroth_order.mu?"]),
    "unknown table": (SMALL + "[netwrok]\nloss = 0.1\n", [":4: netwrok", "did you mean network?"]),
    "shared key in an agent's table": (SMALL + "[client]\nprobes = 3\n", [":5: client.probes", "shared.probes"]),
    "misspelt shared key in an agent's table": (SMALL + "[client]\nretries = 3\n", [":5: client.retries"]),
    "key of the top in a table": (SMALL + 'seed = "1"\n', [":4: fleet[0].seed"]),
    "text for a number": ('seed = "1"\n' + SMALL, [":1: seed", "expected a valid integer", 'found "1"']),
    "boolean for a number": ("seed = true\n" + SMALL, [":1: seed", "expected a valid integer", "found true"]),
    "out of bounds, in an array": ('name = "a"\n[[fleet]]\n\n[[fleet]]\ncount = 0\n', [":5: fleet[1].count", "or equal to 1", "found 0"]),
    "inside an inline table": (SMALL + "dropout = { kind = 'nap' }\n", [":4: fleet[0].dropout.kind", "'pause' or 'crash'", 'found "nap"']),
    "bad name": ('name = "Bad Name"\n[[fleet]]\n', [":1: name", "text matching"]),
    "no name": ("[[fleet]]\n", [": name", "missing"]),
    "no clients": ('name = "a"\n', [": fleet", "missing", "[[fleet]] (groups of client devices"]),
    "an empty fleet": ('name = "a"\nfleet = []\n', [":2: fleet", "at least 1 item"]),
    "table for a value": (SMALL + "[task.data]\nx = 1\n", [":4: task.data"]),
    "value for a table": ("task = 3\n" + SMALL, [":1: task", "an object", "found 3"]),
    "value for a table that the method writes to": ('method = "hosfl_sync"\nclient = 3\n' + SMALL, [":2: client", "an object"]),
    "infinity": (SMALL + "[network]\nlatency_s = inf\n", [":5: network.latency_s", "a finite number"]),
    "not a number": (SMALL + "[network]\nlatency_s = nan\n", [":5: network.latency_s", "a finite number"]),
    "a date": (SMALL + "[network]\nlatency_s = 2026-01-01\n", [":5: network.latency_s", "no date", "2026-01-01"]),
    "endless tables": (SMALL + f"[{'.'.join('a' * 5000)}]\n", ["nested too deeply"]),
    "endless lists": (SMALL + f"x = {'[' * 9000}{']' * 9000}\n", ["nested too deeply"]),
    "async without probes": (SMALL + "[shared]\nprobes = 0\n", [":5: shared.probes", "never move", "frozen_client"]),
    "frozen with probes": (
        'method = "frozen_client"\n' + SMALL + "[shared]\nprobes = 2\n",
        [":6: shared.probes", "method frozen_client fixes this", "expected 0"],
    ),
    "sync with another buffer": (
        'method = "hosfl_sync"\n' + SMALL + "[aggregator]\nbuffer_contributions = 6\n",
        [":6: aggregator.buffer_contributions", "method hosfl_sync fixes this", "expected 5", "found 6"],
    ),
    "a buffer that never fills": (SMALL + "[aggregator]\nbuffer_contributions = 6\n", [":5: aggregator.buffer_contributions", "at most 5"]),
    "sync with a deadline too near": (
        'method = "hosfl_sync"\n' + SMALL + "speed_factor = 1000\n",
        [": aggregator.buffer_deadline_s", "not synchronous", "above 602"],
    ),
    "a fleet too large": (SMALL + "[aggregator]\nclients_max = 4\n", [":5: aggregator.clients_max", "at least 5"]),
    "a retry that shrinks": (SMALL + "[shared.retry]\nfirst_s = 9\nmax_s = 8\n", [":6: shared.retry.max_s", "at least 9"]),
    "a frame that does not pass": (SMALL + "[codec]\nframe_bytes_max = 1_000_000\n", [": broker.payload_bytes_max", "1000000"]),
    "a list of speeds without values": (
        SMALL + 'speed = { distribution = "list" }\n',
        [":4: fleet[0].speed.values", "at least one factor"],
    ),
    "speeds between nothing": (
        SMALL + "speed = { factor_min = 3.0, factor_max = 2.0 }\n",
        [":4: fleet[0].speed.factor_max", "at least 3", "found 2"],
    ),
    "a profile beside a reference device of no time": (
        SMALL + 'device = "phone_low"\n[compute]\nforward_s = 0\n',
        [":6: compute.forward_s", "above 0"],
    ),
    "a trace that is not there": (
        SMALL + 'availability = { rule = "trace", trace = "none.csv" }\n',
        [":4: fleet[0].availability.trace", "cannot be read", "device,begin_s,end_s"],
    ),
    "an unknown device": (SMALL + 'device = "toaster"\n', [":4: fleet[0].device", "'laptop'", "toaster"]),
    "a share of nothing": ('name = "a"\n[[fleet]]\nshare = 0.5\ncount = 9\n', [":3: fleet[0].share", "no device of 0"]),
    "a share beside another count": (
        'name = "a"\nfleet_size = 10\n[[fleet]]\nshare = 0.5\ncount = 4\n[[fleet]]\ncount = 6\n',
        [":5: fleet[0].count", "expected 5", "found 4", "leave it out"],
    ),
    "shares that do not add up": (
        'name = "a"\nfleet_size = 10\n[[fleet]]\nshare = 0.5\n[[fleet]]\nshare = 0.4\n',
        [":2: fleet_size", "expected 9", "found 10"],
    ),
    "a cohort and a concurrency": (
        SMALL + "[aggregator]\nconcurrency = 3\ncohort = 5\n",
        [":5: aggregator.concurrency", "limits the steps in flight already", "found 3"],
    ),
    "a cohort larger than the fleet": (
        SMALL + "[aggregator]\ncohort = 5\ncohort_extra = 1\n",
        [":5: aggregator.cohort", "from 5 (aggregator.buffer_contributions) to 5 (clients)", "found 6"],
    ),
    "a cohort that never fills the buffer": (SMALL + "[aggregator]\ncohort = 4\n", [":5: aggregator.cohort", "from 5", "found 4"]),
    "a cohort of the fastest": (
        SMALL + '[aggregator]\ncohort = 5\nselection = "fastest_first"\n',
        [":6: aggregator.selection", "just been served"],
    ),
    "shares that do not fill the window": (
        SMALL + "[server]\ndevice_share_max = 0.1\n",
        [":5: server.device_share_max", "would stop learning", "at least 1/5"],
    ),
    "a micro-batch beyond the queue": (
        SMALL + "[server]\nqueue_max = 8\nmicro_batch_max = 9\n",
        [":6: server.micro_batch_max", "at most server.queue_max, 8"],
    ),
    "a micro-batch that waits in vain": (
        SMALL + "[server]\nmicro_batch_max = 6\nmicro_batch_wait_s = 0.1\n",
        [":5: server.micro_batch_max", "wait in vain", "at most 5 (clients)"],
    ),
    "matrices in int8 of a model without": (
        SMALL + '[task.model]\nclient_matrices = "int8"\n',
        [":5: task.model.client_matrices", "mlp has no frozen matrices", 'expected float32'],
    ),
    "back-propagation through int8": (
        'method = "sfl_first_order"\n' + SMALL + '[task]\ndata = "toy_tokens"\nmodel = { name = "encoder", client_matrices = "int8" }\n',
        [":7: task.model.client_matrices", "no backward pass", "hosfl_async"],
    ),
    "gates through int8": (
        'method = "skip_feedback"\nzeroth_order = { feedback = "gated" }\n'
        + SMALL
        + '[task]\ndata = "toy_tokens"\nmodel = { name = "encoder", trainable = "lora_writers", client_matrices = "int8" }\n',
        [":2: zeroth_order.feedback", "transposed", "expected skip", "found gated"],
    ),
    "gates through bfloat16": (
        'method = "skip_feedback"\nzeroth_order = { feedback = "gated" }\n'
        + SMALL
        + '[task]\ndata = "toy_tokens"\nmodel = { name = "encoder", trainable = "lora_writers", client_matrices = "bfloat16" }\n',
        [":2: zeroth_order.feedback", "which a half in bfloat16 cannot", "expected skip", "found gated"],
    ),
    "gates of a decoder": (
        'method = "skip_feedback"\nzeroth_order = { feedback = "gated" }\n'
        + SMALL
        + '[task]\ndata = "toy_tokens"\nmodel = { name = "decoder" }\n',
        [":2: zeroth_order.feedback", "encoders only", "expected skip", "found gated"],
    ),
    "normalisations of a decoder": (
        'method = "skip_feedback"\n' + SMALL + '[task]\ndata = "toy_tokens"\nmodel = { name = "decoder", trainable = "norms" }\n',
        [":7: task.model.trainable", "residual writers only", "expected writers or lora_writers", "found norms"],
    ),
    "a place for a cut that the model does not read": (
        SMALL + '[task]\nmodel = { cut_after = "layer2" }\n',
        [":5: task.model.cut_after", "mlp does not read it", "expected nothing", "found layer2"],
    ),
    "what is learnt in a model of one's own": (
        SMALL + '[task]\nmodel = { name = "mine:net", cut_after = "1", trainable = "norms" }\n',
        [":5: task.model.trainable", "mine:net does not read it", "found norms", "requires_grad"],
    ),
    "messages that cannot be put together": (
        SMALL + "[codec]\nmessage_bytes_max = 200_000_000\n",
        [":5: codec.message_bytes_max", "never be put together", "at most 134217728", "found 200000000"],
    ),
    "held for what never comes": (
        SMALL + '[aggregator.clipping]\nrule = "median"\nheld_devices = 6\n',
        [":6: aggregator.clipping.held_devices", "nothing would ever count", "at most 5 (clients)", "found 6"],
    ),
    "a rate that adamw would normalise away": (
        SMALL + '[aggregator]\nlearning_rate_final_share = 0.1\n[update]\nrule = "adamw"\n',
        [":5: aggregator.learning_rate_final_share", "normalised away", "expected 1", "found 0.1", "update.decay_versions"],
    ),
    "a decline where the entries carry the rate": (
        SMALL + "[update]\ndecay_versions = 40\n",
        [":5: update.decay_versions", "update.rule sgd", "expected 0", "found 40", "aggregator.learning_rate_final_share"],
    ),
    "more than no cohort": (SMALL + "[aggregator]\ncohort_extra = 1\n", [":5: aggregator.cohort_extra", "which cohort"]),
    "over-selection without a cohort": (
        'method = "hosfl_sync_over_selected"\n' + SMALL,
        [": aggregator.cohort", "grants a cohort and some more", "at least 1"],
    ),
    "over-selection of none": (
        'method = "hosfl_sync_over_selected"\n' + SMALL + "[aggregator]\ncohort = 3\n",
        [": aggregator.cohort_extra", "grants a cohort and some more"],
    ),
    "over-selection where everybody is waited for": (
        'method = "hosfl_sync"\n' + SMALL + "[aggregator]\ncohort = 3\ncohort_extra = 1\n",
        [":7: aggregator.cohort_extra", "waits for everybody", "hosfl_sync_over_selected"],
    ),
    "a cohort that would weigh the late": (
        'method = "hosfl_sync"\n' + SMALL + "[aggregator]\ncohort = 3\nstaleness = { rule = 'hinge' }\n",
        [":7: aggregator.staleness.rule", "method hosfl_sync fixes this", 'expected "cutoff"'],
    ),
    "a median of one": (
        SMALL + '[aggregator]\nlocation = "median"\n',
        [":5: aggregator.location", "expected mean", "shared.directions"],
    ),
    "trust without peers": (
        SMALL + '[aggregator.trust]\nrule = "peers"\n',
        [":5: aggregator.trust.rule", "no two clients can be compared", "expected none", 'shared.directions = "per_version"'],
    ),
    "more distrusted than trusted": (
        SMALL + "[aggregator.trust]\ndistrusted_share_max = 0.5\n",
        [":5: aggregator.trust.distrusted_share_max", "less than 0.5", "found 0.5"],
    ),
    "directions of a first-order client": (
        'method = "sfl_first_order"\n' + SMALL + '[shared]\ndirections = "per_version"\n',
        [":6: shared.directions", "no directions"],
    ),
    "feedback without a skip connection": (
        'method = "skip_feedback"\n' + SMALL,
        [": task.model.name", "needs skip connections", "encoder or minilm", "found mlp"],
    ),
    "activities of a convolution": (
        'method = "activity_perturbation"\n' + SMALL + '[task.model]\nname = "cnn"\n',
        [":6: task.model.name", "fully connected layers", "expected mlp", "found cnn"],
    ),
    "feedback to what it does not reach": (
        'method = "skip_feedback"\n' + SMALL + '[task.model]\nname = "minilm"\ntrainable = "lora"\n',
        [":7: task.model.trainable", "residual writers only", "writers or lora_writers or norms", "found lora"],
    ),
    "another unit": (SMALL + "[network]\nlatency_ms = 20\n", [":5: network.latency_ms", "unknown key", "mean network.latency_s?"]),
    "a unit in the value": (SMALL + '[network]\nlatency_s = "20 ms"\n', [":5: network.latency_s", "a valid number", 'found "20 ms"']),
    "a negative rate": (
        SMALL + "[network]\nuplink_bytes_per_s = -1\n",
        [":5: network.uplink_bytes_per_s", "greater than or equal to 0", "found -1"],
    ),
    "a negative shared rate": (SMALL + "shared_uplink_bytes_per_s = -5\n", [":4: fleet[0].shared_uplink_bytes_per_s", "found -5"]),
    "a share above all": (
        'name = "a"\nfleet_size = 10\n[[fleet]]\nshare = 1.5\n',
        [":4: fleet[0].share", "less than or equal to 1", "found 1.5"],
    ),
    "a negative share": ('name = "a"\nfleet_size = 10\n[[fleet]]\nshare = -0.5\n', [":4: fleet[0].share", "found -0.5"]),
    "a certain loss": (SMALL + "[network]\nloss = 1\n", [":5: network.loss", "less than 1", "found 1"]),
    "a certain dropout": (SMALL + "dropout = { per_step = 1.0 }\n", [":4: fleet[0].dropout.per_step", "less than 1", "found 1.0"]),
    "a share of a duty cycle above all": (
        SMALL + "availability = { rule = 'duty_cycle', share = 2 }\n",
        [":4: fleet[0].availability.share", "less than or equal to 1", "found 2"],
    ),
    "half a day": (SMALL + "availability = { rule = 'diurnal', curve = [0.5] }\n", [":4: fleet[0].availability.curve", "24"]),
    "an unknown fault": (SMALL + '[[fault]]\nkind = "flood"\n', [":5: fault[0].kind", "'clock_skew'", 'found "flood"']),
    "a fault on no agent": (SMALL + '[[fault]]\nkind = "crash"\nagents = []\n', [":6: fault[0].agents", "nobody"]),
    "a share of a fault": (SMALL + '[[fault]]\nkind = "crash"\nshare = 0\n', [":6: fault[0].share", "greater than 0", "found 0"]),
    "a clog of nothing": (SMALL + '[[fault]]\nkind = "clog"\n', [":4: fault[0]", "slows nothing", "above 1"]),
    "a clock that is right": (SMALL + '[[fault]]\nkind = "clock_skew"\n', [":4: fault[0]", "a clock that is right", "clock_ahead_s"]),
    "a clock that runs backwards": (
        SMALL + '[[fault]]\nkind = "clock_skew"\nclock_rate = -1\n',
        [":6: fault[0].clock_rate", "greater than or equal to 0.01", "found -1"],
    ),
    "a service that lies": (
        SMALL + '[[fault]]\nkind = "byzantine"\nagents = ["aggregator"]\n',
        [":6: fault[0].agents", "only clients lie", "found aggregator"],
    ),
    "a fault of nobody": (SMALL + '[[fault]]\nkind = "crash"\nagents = ["client-6"]\n', [":6: fault[0].agents", "found client-6"]),
    "a fault without end": (SMALL + '[[fault]]\nkind = "partition"\nfor_s = 0\n', [":6: fault[0].for_s", "above 0"]),
    "a fault that never strikes": (
        SMALL + '[[fault]]\nkind = "crash"\nmean_between_s = 5\nat_s = 9\n',
        [":4: fault[0].until_s", "above at_s, 9"],
    ),
    "an outage of nobody": (
        SMALL + '[[outages]]\nagent = "client-6"\nat_s = 1\nabsence_s = 1\n',
        [":5: outages[0].agent", "client-1 to client-5", "found client-6"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), WRONG.values(), ids=WRONG.keys())
def test_wrong_scenario_is_explained(write, text: str, parts: list[str]) -> None:
    path = write(text)
    [problem] = problems_of(path)
    assert all(part in problem for part in parts), problem
    assert "\n" not in problem
    with pytest.raises(SettingsError):
        load_scenario(path)


def test_all_problems_are_told_at_once(write) -> None:
    path = write(
        'name = "a"\nmethod = "hosfl_sync"\n[client]\nprobes = 3\n[aggregator]\nbuffer_contributions = 9\nfoo = 1\n[[fleet]]\ncount = -1\n'
    )
    with pytest.raises(SettingsError) as caught:
        load_scenario(path)
    told = str(caught.value)
    assert "4 problems" in told
    assert all(key in told for key in ("client.probes", "aggregator.buffer_contributions", "aggregator.foo", "fleet[0].count"))


def test_toml_mistake_has_line_and_column(write) -> None:
    path = write('name = "a"\n\nseed = = 1\n')
    assert problems_of(path)[0].startswith(":3:8: not TOML: Invalid value")
    assert "not TOML" in problems_of(write("[fleet"))[0]


def test_files_that_cannot_be_read(write, tmp_path: Path) -> None:
    assert "no such file" in problems_of(tmp_path / "none.toml")[0]
    assert "cannot be read" in problems_of(tmp_path)[0]
    assert "not UTF-8; found byte 0xff at offset 8" in problems_of(write(b'name = "\xff"'))[0]


@pytest.mark.parametrize(
    ("override", "part"),
    {
        "seed": "expected key.path=value",
        "=3": "expected key.path=value",
        "a..b=3": "expected key.path=value",
        "²=3": "expected key.path=value",
        "fleet[1].count=3": "there is no item [1]",
        "fleet[1]={}": "there is no item [1]",
        "fleet.count=3": "fleet is not a table",
        "name.x=3": "name is not a table",
        "name.x.y=3": "there is no",
        "seed=-1": "--set seed: not allowed",
        "fleet[0].cuont=3": "--set fleet[0].cuont: unknown key; did you mean fleet[0].count?",
        "seed=1\nname='b'": "--set seed: not allowed",
        "shared.retry={first_s=100}": "shared.retry.max_s: smaller than first_s",
    }.items(),
)
def test_wrong_override_is_explained(write, override: str, part: str) -> None:
    [problem] = problems_of(write(SMALL), override)
    assert part in problem


def test_wrong_seed_is_explained(write) -> None:
    assert "--set seed: not allowed" in problems_of(write(SMALL), seed=-1)[0]


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.lists(st.text(max_size=20), max_size=2))
def test_arbitrary_text_never_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, text: bytes, overrides: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.toml"
    path.write_bytes(text)
    for problem in find_problems(path, overrides):
        assert isinstance(problem, SettingsError)


def test_key_lines_count_arrays_and_dotted_keys() -> None:
    lines = key_lines('a.b = 1\n[[f]]\nx = 1\n[f.g]\ny = 1\n[[f]]\n[f.g] # again\n"z" = 2\n[[f.h]]\n')
    assert lines["a", "b"] == 1
    assert lines["f", 0, "x"] == 3
    assert lines["f", 0, "g", "y"] == 5
    assert lines["f", 1] == 6
    assert lines["f", 1, "g", "z"] == 8
    assert lines["f", 1, "h", 0] == 9


# -- inheritance ----------------------------------------------------------------------------------------

PARENT = 'name = "parent"\nseed = 3\n[shared]\nprobes = 4\nretry = { first_s = 2, max_s = 9 }\n[[fleet]]\ncount = 3\n[[fleet]]\ncount = 2\n'


def test_a_child_merges_tables_and_replaces_arrays(write) -> None:
    write(PARENT, "parent.toml")
    scenario = load_scenario(
        write('extends = "parent.toml"\nname = "child"\n[shared.retry]\nmax_s = 30\n[[fleet]]\ncount = 7\n', "child.toml")
    )
    assert (scenario.name, scenario.seed, scenario.clients, scenario.shared.probes) == ("child", 3, 7, 4)
    assert (scenario.shared.retry.first_s, scenario.shared.retry.max_s) == (2, 30)


def test_a_scenario_of_the_gallery_is_extended_by_its_name_unless_a_file_lies_there(write, tmp_path: Path) -> None:
    path = write('extends = "quickstart"\nname = "child"\nseed = 5\n', "child.toml")
    assert load_scenario(path).aggregator == load_scenario("quickstart").aggregator
    broken = write('extends = "quickstart"\nname = "child"\n[shared]\nprobes = -1\n', "broken.toml")
    with pytest.raises(SettingsError, match=r"broken.toml:4: shared.probes"):
        load_scenario(broken)
    (tmp_path / "quickstart").write_text('name = "beside"\n[[fleet]]\ncount = 7\n')
    assert load_scenario(path).fleet[0].count == 7


def test_paths_are_seen_from_the_file_that_extends(write, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(PARENT, "parent.toml")
    write('extends = "../parent.toml"\nseed = 4\n', "deep/middle.toml")
    scenario = load_scenario(write('extends = "deep/middle.toml"\nname = "child"\n', "child.toml"))
    assert (scenario.name, scenario.seed, scenario.clients) == ("child", 4, 5)


def test_a_mistake_is_shown_in_the_file_that_makes_it(write, tmp_path: Path) -> None:
    write(PARENT.replace("max_s = 9", "max_s = -9").replace("count = 2", "cuont = 2"), "parent.toml")
    path = write('extends = "parent.toml"\n[shared]\nretry = { attempts_max = 0 }\nprobes = -1\n', "child.toml")
    told = "\n".join(map(str, find_problems(path)))
    assert f"{tmp_path}/parent.toml:9: fleet[1].cuont" in told
    assert f"{tmp_path}/parent.toml:5: shared.retry.max_s" in told
    assert f"{tmp_path}/child.toml:3: shared.retry.attempts_max" in told
    assert f"{tmp_path}/child.toml:4: shared.probes" in told
    shortened = write('extends = "parent.toml"\n[[fleet]]\ncount = 1\n', "shortened.toml")
    assert "cuont" not in "\n".join(map(str, find_problems(shortened)))


FIXED_BY_SYNC = {
    "aggregator.buffer_contributions": 2,
    "aggregator.staleness.rule": "polynomial",
    "client.steps_unanswered_max": 3,
    "server.staleness.rule": "polynomial",
}
"""Key -> what contradicts ``hosfl_sync`` with five clients."""


@given(st.lists(st.sets(st.sampled_from(sorted(FIXED_BY_SYNC))), min_size=1, max_size=4), st.data())
def test_a_method_wins_over_what_its_file_inherits_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, line: list[set[str]], data: st.DataObject
) -> None:
    folder, chooser = tmp_path_factory.getbasetemp(), data.draw(st.integers(0, len(line) - 1))
    for age, keys in enumerate(line):
        first = f'extends = "age{age - 1}.toml"\n' if age else SMALL.replace("[[fleet]]\ncount = 5\n", "fleet = [{ count = 5 }]\n")
        method = 'method = "hosfl_sync"\n' if age == chooser else ""
        (folder / f"age{age}.toml").write_text(first + method + "".join(f"{key} = {json.dumps(FIXED_BY_SYNC[key])}\n" for key in keys))
    path = folder / f"age{len(line) - 1}.toml"
    problems = [str(problem) for problem in find_problems(path)]
    youngest = {key: age for age, keys in enumerate(line) for key in keys}
    refused = {key for key, age in youngest.items() if age >= chooser}
    assert len(problems) == len(refused)
    for key in refused:
        assert any(f"age{youngest[key]}.toml" in problem and f": {key}: method hosfl_sync fixes" in problem for problem in problems)
    if not refused:
        scenario = load_scenario(path)
        assert scenario.aggregator.buffer_contributions == 5
        assert (scenario.aggregator.staleness.rule, scenario.server.staleness.rule) == ("constant", "constant")
    for key, wrong in FIXED_BY_SYNC.items():
        assert any(f"--set {key}" in str(problem) for problem in find_problems(path, [f"{key}={wrong}"]))


def test_the_quickstart_can_be_extended_by_another_method(write) -> None:
    quickstart = SCENARIOS[0].parent / "quickstart.toml"
    path = write(f'extends = "{quickstart}"\nname = "synchronous_quickstart"\nmethod = "hosfl_sync"\n')
    table = 'aggregator.staleness={rule="polynomial"}'
    assert load_scenario(path).aggregator.buffer_contributions == load_scenario(path).clients == 20
    assert any("aggregator.staleness.rule" in str(problem) for problem in find_problems(path, [table]))


@pytest.mark.parametrize(
    ("text", "part"),
    {
        'extends = "a.toml"\n': "a.toml:1: extends: goes round in a circle; found a.toml -> a.toml",
        'extends = "b.toml"\n': "b.toml:2: extends: goes round in a circle; found a.toml -> b.toml -> a.toml",
        'extends = "none.toml"\n': "none.toml: no such file; a.toml extends it",
        "extends = 3\n": "a.toml:1: extends: not allowed; expected the path of a scenario file, seen from this one; found 3",
        'extends = "\\u0000"\n': "a.toml:1: extends: not allowed",
        'extends = "c.toml"\n': "c.toml:1:5: not TOML",
        'extends = "d0.toml"\n': "too long a line of files; expected at most 16",
    }.items(),
)
def test_wrong_inheritance_is_explained(write, text: str, part: str) -> None:
    write('\nextends = "a.toml"\n', "b.toml")
    write("x = =", "c.toml")
    for number in range(20):
        write(f'extends = "d{number + 1}.toml"\n', f"d{number}.toml")
    [problem] = find_problems(write(text + SMALL))
    assert part in str(problem)


def trees(numbers: SearchStrategy[int]) -> SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from("abc")
    return st.dictionaries(keys, st.recursive(numbers, lambda inner: st.dictionaries(keys, inner, max_size=3)), max_size=3)


@given(trees(st.integers(-9, -1)), trees(st.integers(1, 9)))
def test_merging_is_a_deep_update(tmp_path_factory: pytest.TempPathFactory, older: dict[str, Any], newer: dict[str, Any]) -> None:
    def updated(old: Any, new: Any) -> Any:
        both = isinstance(old, dict) and isinstance(new, dict)
        return old | {key: updated(old.get(key), value) for key, value in new.items()} if both else new

    def toml(value: Any) -> str:
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}" if isinstance(value, dict) else str(value)

    def check_places(value: Any, path: tuple[str, ...]) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            check_places(inner, (*path, key))
        if isinstance(value, int):
            assert source.where(path).startswith(str(folder / ("newer.toml" if value > 0 else "older.toml")))

    folder = tmp_path_factory.getbasetemp()
    for name, tree, first in (("older", older, ""), ("newer", newer, 'extends = "older.toml"\n')):
        (folder / f"{name}.toml").write_text(first + "".join(f"{key} = {toml(value)}\n" for key, value in tree.items()))
    merged, _, source = read_tables(folder / "newer.toml")
    assert merged == updated(older, newer)
    check_places(merged, ())


# -- sweeps ---------------------------------------------------------------------------------------------


def test_a_sweep_is_all_combinations_in_order(write) -> None:
    path = write(SMALL + '[sweep]\nseeds = 2\n"fleet[0].speed_factor" = [1, 10]\naggregator.buffer_contributions = [1, 2, 5]\n')
    points = sweep_points(path, ["seed=7"])
    found = [(p.scenario.fleet[0].speed_factor, p.scenario.aggregator.buffer_contributions, p.scenario.seed) for p in points]
    assert found == [(speed, k, seed) for speed in (1, 10) for k in (1, 2, 5) for seed in (7, 8)]
    assert len({point.name for point in points}) == 12
    assert points[0].values == {"fleet[0].speed_factor": 1, "aggregator.buffer_contributions": 1}
    assert load_scenario(path).fleet[0].speed_factor == 1


def test_a_sweep_that_grows_keeps_the_names_it_had(write) -> None:
    def names(values: str) -> set[str]:
        return {point.name for point in sweep_points(write(SMALL + f"[sweep]\nseeds = [3, 1]\ntask.model.client_widths = {values}\n"))}

    assert names("[[7], [7, 7]]") < names("[[7], [9], [7, 7]]")


@pytest.mark.parametrize(
    ("text", "part"),
    {
        "": "there is no [sweep]",
        "[sweep]\nseeds = 0\n": ":5: sweep.seeds: not allowed; expected a number of seeds, or a list",
        "[sweep]\nseeds = [1, 1]\n": ":5: sweep.seeds",
        "[sweep]\nshared.probes = 3\n": ":5: sweep.shared.probes: not allowed; expected a list of values; found 3",
        "[sweep]\nshared.probes = []\n": ":5: sweep.shared.probes",
        "[sweep]\nshared.porbes = [3]\n": "did you mean shared.probes?",
        "[sweep]\nshared.probes = [3, 0]\n": "shared.probes=0 cannot be",
        "[sweep]\nseeds = 5000\nshared.probes = [1, 2, 3]\n": "too many runs; expected at most 10,000; found 15,000",
    }.items(),
)
def test_wrong_sweep_is_explained(write, text: str, part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sweep_points(write(SMALL + text))
    assert part in str(caught.value)


# -- what is written ------------------------------------------------------------------------------------


def settings_of(struct: Any) -> SearchStrategy[Any]:
    """Any instance of a settings struct that its own annotations allow."""
    hints = get_type_hints(struct, include_extras=True)
    required = {each.name: values_of(hints[each.name]) for each in fields(struct) if each.default is each.default_factory is MISSING}
    optional = {each.name: values_of(hints[each.name]) for each in fields(struct) if each.name not in required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: struct(**values))


def values_of(hint: Any, *bounds: Any) -> SearchStrategy[Any]:
    if is_dataclass(hint):
        return settings_of(hint)
    if hasattr(hint, "__metadata__"):
        return values_of(hint.__origin__, *hint.__metadata__)
    if type(None) in get_args(hint):
        return st.none() | values_of(get_args(hint)[0])
    if get_origin(hint) is tuple and any(isinstance(bound, Len) for bound in bounds):
        return st.tuples(*[values_of(get_args(hint)[0])] * bounds[0].min_length)
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), min_size=1, max_size=3).map(tuple)
    if hint in (int, float):
        low = max((bound.ge if isinstance(bound, Ge) else bound.gt for bound in bounds if isinstance(bound, Ge | Gt)), default=-1e9)
        high = min((bound.le if isinstance(bound, Le) else bound.lt for bound in bounds if isinstance(bound, Le | Lt)), default=2**53)
        if hint is int:
            return st.integers(math.ceil(low), math.floor(high))
        return st.floats(low, high, exclude_min=any(isinstance(b, Gt) for b in bounds), exclude_max=any(isinstance(b, Lt) for b in bounds))
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(st.characters(codec="utf-8"), max_size=20)
    return st.sampled_from(get_args(hint))


def consistent_group(group: FleetGroup) -> FleetGroup:
    speed = replace(group.speed, distribution="fixed", factor_min=1.0, factor_max=2.0)
    return replace(group, share=0.0, speed=speed, availability=replace(group.availability, rule="always"))


def scenarios() -> SearchStrategy[Scenario]:
    """Scenarios that the schema allows, made consistent with the least change."""

    def consistent(scenario: Scenario) -> Scenario:
        shared = replace(
            scenario.shared,
            probes=max(1, scenario.shared.probes),
            estimator="dual_projection",
            stop_at_accuracy=0.0,
            retry=replace(scenario.shared.retry, first_s=1.0, max_s=2.0),
        )
        aggregator = replace(scenario.aggregator, buffer_contributions=1, clients_max=10**9, cohort=0, cohort_extra=0, location="mean")
        aggregator = replace(aggregator, trust=replace(aggregator.trust, rule="none"), learning_rate_final_share=1.0)
        aggregator = replace(aggregator, clipping=replace(aggregator.clipping, held_devices=0))
        outages = tuple(replace(outage, agent="client-1") for outage in scenario.outages)
        fleet = tuple(map(consistent_group, scenario.fleet))
        sound = {"agents": ("clients",), "latency_factor": 2.0, "clock_rate": 2.0}
        fault = tuple(replace(each, for_s=each.for_s + 1.0, until_s=each.at_s * 2 + 1.0, **sound) for each in scenario.fault)
        fitting = replace(scenario.broker, payload_bytes_max=320 * 1024)
        codec = scenario.codec
        together = min(codec.partial_bytes_per_sender_max, codec.partial_bytes_max, codec.fragments_max * 4096, codec.message_bytes_max)
        codec = replace(codec, frame_bytes_max=4096, message_bytes_max=together)
        model = replace(scenario.task.model, name="mlp", cut="layer", client_matrices="float32", cut_after="", folder="")
        changed = replace(
            scenario,
            name="any",
            method="hosfl_async",
            task=replace(scenario.task, data="digits", model=model),
            fleet=fleet,
            fault=fault,
            compute=replace(scenario.compute, forward_s=1.0),
            shared=shared,
            personal=scenario.personal if scenario.update.rule == "sgd" else replace(scenario.personal, steps=0),
            aggregator=aggregator,
            update=scenario.update if scenario.update.rule == "adamw" else replace(scenario.update, decay_versions=0),
            server=replace(scenario.server, micro_batch_max=1, device_share_max=1.0),
            outages=outages,
            broker=fitting,
            codec=codec,
        )
        return changed.agree()

    return settings_of(Scenario).map(consistent)


@given(scenarios())
def test_what_is_written_reads_back_as_the_same_and_so_does_its_control(
    tmp_path_factory: pytest.TempPathFactory, scenario: Scenario
) -> None:
    path = tmp_path_factory.getbasetemp() / "resolved.toml"
    for one in (scenario, scenario.frozen_control()):
        path.write_text(to_toml(one), encoding="utf-8")
        assert load_scenario(path) == one


@pytest.mark.parametrize("method", ["hosfl_async", "hosfl_sync", "frozen_client"])
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_resolved_scenario_is_explicit_and_the_same(write, path: Path, method: str) -> None:
    scenario = load_scenario(path, [f"method={method}", "aggregator.buffer_deadline_s=10000"])
    text = to_toml(scenario)
    assert load_scenario(write(text)) == scenario
    assert to_toml(load_scenario(write(text))) == text
    tables = tomllib.loads(text)
    assert tables["fleet"][0].keys() == {each.name for each in fields(FleetGroup)}
    assert "probes" not in tables["client"] and "probes" in tables["shared"]


def test_texts_survive_writing(write) -> None:
    scenario = load_scenario(write(SMALL))
    odd = 'quote " backslash \\ tab \t newline \n delete \x7f snow ☃'
    text = to_toml(replace(scenario, name=odd))
    assert tomllib.loads(text)["name"] == odd


# -- the schema -----------------------------------------------------------------------------------------


def test_schema_is_json_and_every_key_is_described() -> None:
    document = json.loads(json.dumps(schema()))
    assert document["$schema"].endswith("2020-12/schema")
    for name, definition in {**document["$defs"], "Scenario": document}.items():
        assert definition["description"], name
        assert definition["additionalProperties"] is False, name
    assert "probes" not in document["$defs"]["EdgeClientSettings"]["properties"]
    assert document["$defs"]["SharedSettings"]["properties"]["probes"]["maximum"] == 4096


def test_loading_needs_neither_torch_nor_asyncio() -> None:
    code = "import sys, hosfl_async.scenario; sys.exit(sum(name in sys.modules for name in ('torch', 'asyncio', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_scenario_speaks_in_the_words_of_its_first_comment(tmp_path: Path) -> None:
    text = SMALL
    (tmp_path / "told.toml").write_text("# What it shows.\n#   And why.\n" + text + "# not this\n")
    (tmp_path / "silent.toml").write_text('extends = "told.toml"\n')
    (tmp_path / "written.toml").write_text("# Not this.\nabout = 'Said.'\n" + text)
    told, silent, written = (load_scenario(tmp_path / f"{name}.toml") for name in ("told", "silent", "written"))
    assert (told.about, silent.about, written.about) == ("What it shows.\nAnd why.", "", "Said.")
    assert told == silent == written, "words change nothing about a run"
    assert scenario_digest(told) == scenario_digest(written)
    (tmp_path / "again.toml").write_text(to_toml(told))
    assert load_scenario(tmp_path / "again.toml").about == told.about
