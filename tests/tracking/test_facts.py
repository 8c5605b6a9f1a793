"""What is said of a run: every setting once, every number of the summary."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import load_scenario
from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.report.summary import Staleness
from hosfl_async.scenario import gallery, to_toml
from hosfl_async.tracking.facts import final_figures, final_words, flat, point_figures

KEYS = st.text("abc_", min_size=1, max_size=4)
PLAIN = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(0, 1), st.text(max_size=4), st.lists(st.integers(), max_size=3))
TABLES = st.recursive(
    st.dictionaries(KEYS, PLAIN, max_size=4),
    lambda inner: st.dictionaries(KEYS, st.one_of(PLAIN, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4),
    max_leaves=12,
)

SUMMARY = Summary(
    scenario="a", seed=1, host="live", method="hosfl_async", accuracy_final=0.5, accuracy_best=0.75, accuracy_frozen_control=None,
    client_steps=10, server_steps=11, version=5, modelled_time_s=2.5, wall_time_s=1.0, bytes={"log": 7, "duals": 3}, messages={"Join": 2},
    staleness=Staleness(mean=1.5, p50=1, p99=4, max=6), counts={"accepted": 10}, clients=3, clients_confirmed=3, digest="ab" * 16,
    digests_agree=True, peak_rss_bytes=1000, energy_joules=0.25, unmet=("accuracy_min", "bytes_max"),
    target_met=0.5,
)  # fmt: skip


def leaves(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sum(map(leaves, value))
    return 1


@given(TABLES)
def test_every_value_of_nested_tables_has_a_name_and_is_there(tables: dict[str, Any]) -> None:
    pairs = list(flat("", tables))
    assert len(pairs) == len(dict(pairs)) == leaves(tables)
    for name, found in pairs:
        value: Any = tables
        for part in name.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert found == (value if not isinstance(value, list) else str(value))


def test_the_names_of_all_settings_are_ones_that_every_tool_takes() -> None:
    for name in gallery():
        parameters = dict(flat("", tomllib.loads(to_toml(load_scenario(name)))))
        assert parameters["name"] == load_scenario(name).name
        assert all(key.replace(".", "").replace("_", "").isalnum() and len(key) <= 250 for key in parameters), name


def test_no_number_of_the_summary_is_left_out() -> None:
    figures, words = final_figures(SUMMARY), final_words(SUMMARY)
    told = {*figures, *words}
    for name, value in msgspec.to_builtins(SUMMARY).items():
        if isinstance(value, dict):
            assert all(any(inner in each for each in told) for inner in value) or name == "messages", name
        elif value is not None and name not in ("scenario", "seed", "host", "method", "digest"):
            assert name in told, name
    assert "accuracy_frozen_control" not in figures, "missing is missing, not zero"
    assert (figures["bytes"], figures["bytes_log"], figures["messages"], figures["staleness_p99_versions"]) == (10, 7, 2, 4)
    assert words == {"log_digest": "ab" * 16, "unmet": "accuracy_min; bytes_max"}


def test_a_point_has_all_three_axes() -> None:
    point = Evaluation(
        time_s=1.25,
        client_steps=8,
        server_steps=9,
        version=4,
        accuracy=0.5,
        loss=1.0,
        staleness_mean_versions=2.0,
        bytes={"log": 5, "duals": 6},
    )
    figures = point_figures(point)
    assert (figures["client_steps"], figures["modelled_time_s"], figures["bytes"], figures["bytes_duals"]) == (8, 1.25, 11, 6)
