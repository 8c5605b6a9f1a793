"""Generated worlds: hypothesis strategies for networks, habits, outages and faults around a scenario, and for small whole scenarios.

``hunt`` varies the world around a scenario of the user's; the test-suite's campaign draws the scenario too: every method, dual policy, cut
type and rule that there is, with bounds so small that short runs meet them. In both, small values are the harmless ones, so that what
breaks shrinks towards a world in which little happens.

What cannot make progress by design is not drawn, and said here:

* Some client of the first group stays, and never lies to the end: a run whose every client has left, or lies for ever, cannot end.
* Whoever comes and goes is there for a few of its own steps at a time, and longer if it forgets everything when it goes: a device that
  crashes within each exchange of messages never finishes one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hosfl_async.errors import SettingsError
from hosfl_async.learning.settings import FED_BACK
from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER
from hosfl_async.scenario import Scenario, scenario_of_tables
from hosfl_async.scenario.consistency import contradictions
from hosfl_async.scenario.methods import METHODS
from hosfl_async.scenario.problems import Source
from hosfl_async.simulation.faults import Fault
from hosfl_async.simulation.settings import AvailabilitySettings, DropoutSettings, FleetGroup, Outage, SpeedSettings

OUTAGES_MAX = 4
FAULTS_MAX = 4

SMALL_HORIZON_S = 20.0
"""What a small scenario takes without any fault, about."""

_TENTHS = 10


def worlds(base: Scenario, horizon_s: float) -> SearchStrategy[Scenario]:
    """Worlds around ``base``; things go wrong within twice ``horizon_s`` modelled seconds."""
    times = _times(horizon_s)
    clients = tuple(name for name, _ in base.devices())
    agents = (AGGREGATOR, SPLIT_SERVER, *clients)
    outage = st.builds(
        Outage, agent=st.sampled_from(agents), at_s=times.moments, absence_s=times.spans, kind=st.sampled_from(["pause", "crash"])
    )

    def world(changes: dict[str, Any], fleet: tuple[FleetGroup, ...], outages: list[Outage], plan: list[Fault], seed: int) -> Scenario:
        return replace(
            base,
            network=replace(base.network, **changes),
            fleet=fleet,
            outages=(*base.outages, *outages),
            fault=(*base.fault, *plan),
            seed=base.seed + seed,
        )

    return st.builds(
        world,
        _links(horizon_s),
        st.tuples(*[_group(group, _habits(times, stays=not number)) for number, group in enumerate(base.fleet)]),
        st.lists(outage, max_size=OUTAGES_MAX),
        st.lists(faults(agents, clients, times), max_size=FAULTS_MAX),
        st.integers(0, 1000),
    ).filter(lambda drawn: not any(contradictions(drawn, Source("generated", {}))))


class _Times:
    """Moments and spans in tenths of a horizon, so that they shrink."""

    def __init__(self, horizon_s: float) -> None:
        self.tenth_s = horizon_s / _TENTHS
        self.moments = st.integers(0, 2 * _TENTHS).map(self._seconds)
        self.spans = st.integers(1, 2 * _TENTHS).map(self._seconds)
        self.long_spans = st.integers(_TENTHS // 2, 2 * _TENTHS).map(self._seconds)
        """In which several steps fit."""

    def _seconds(self, tenths: int) -> float:
        return round(tenths * self.tenth_s, 3)


@lru_cache
def _times(horizon_s: float) -> _Times:
    return _Times(horizon_s)


# The strategies below are kept: hypothesis looks through every new one before it draws from it.


@lru_cache
def _links(horizon_s: float) -> SearchStrategy[dict[str, Any]]:
    share = st.integers(0, 30).map(lambda percent: percent / 100)
    delay_s = st.integers(0, 100).map(lambda number: round(number * horizon_s / 1000, 3))
    bytes_per_s = st.sampled_from([0.0, 50_000.0, 2_000.0])
    return st.fixed_dictionaries(
        {},
        optional={
            "loss": share,
            "burst_begin": st.sampled_from([0.0, 0.05, 0.2]),
            "duplication": share,
            "reordering": share,
            "reordering_delay_s": delay_s,
            "latency_s": delay_s,
            "latency_jitter_s": delay_s,
            "latency_sigma": st.sampled_from([0.0, 0.5, 1.5]),
            "uplink_bytes_per_s": bytes_per_s,
            "downlink_bytes_per_s": bytes_per_s,
            "service_faults": st.booleans(),
            "peer_gone_after_s": st.sampled_from([30.0, 5.0, 0.0]),
        },
    )


def _group(group: FleetGroup, habits: SearchStrategy[dict[str, Any]]) -> SearchStrategy[FleetGroup]:
    return habits.map(lambda drawn: replace(group, **drawn))


@lru_cache
def _habits(times: _Times, *, stays: bool) -> SearchStrategy[dict[str, Any]]:
    """What makes a group come and go, drop out, or be slow, or nothing of that. ``stays``: none of it leaves for ever."""
    comings = {"joins_after_mean_s": times.moments, **({} if stays else {"leaves_after_mean_s": times.moments})}
    availability = [st.builds(AvailabilitySettings, **comings)]
    dropout = []
    for kind, stay in (("pause", times.long_spans), ("crash", times.long_spans.map(lambda span_s: 10 * span_s))):
        rules: dict[str, dict[str, Any]] = {
            "duty_cycle": {"period_s": stay.map(lambda span_s: 2 * span_s), "share": st.sampled_from([0.9, 0.5])},
            "markov": {"mean_on_s": stay, "mean_off_s": times.spans},
            "diurnal": {"day_s": stay.map(lambda span_s: 24 * span_s)},
        }
        availability += [
            st.builds(AvailabilitySettings, rule=st.just(rule), kind=st.just(kind), **own, **comings) for rule, own in rules.items()
        ]
        dropout.append(
            st.builds(
                DropoutSettings,
                mean_time_between_s=st.one_of(st.just(0.0), stay),
                mean_absence_s=times.spans,
                kind=st.just(kind),
                per_step=st.sampled_from([0.0, 0.1, 0.3]),
                mid_step=st.sampled_from([0.0, 0.1, 0.3]),
            )
        )
    changes: dict[str, SearchStrategy[Any]] = {
        "availability": st.one_of(availability),
        "dropout": st.one_of(dropout),
        "network": st.sampled_from(["scenario", "wifi", "3g", "lora_like", "satellite"]),
        "speed": st.builds(SpeedSettings, distribution=st.sampled_from(["fixed", "lognormal", "pareto", "exponential"])),
        "jitter_sigma": st.sampled_from([0.0, 0.5]),
        "shared_uplink_bytes_per_s": st.sampled_from([0.0, 20_000.0]),
    }
    return st.fixed_dictionaries({}, optional=changes)


@lru_cache
def faults(agents: tuple[str, ...], clients: tuple[str, ...], times: _Times) -> SearchStrategy[Fault]:
    """One fault of any kind, once or again and again."""
    whom = st.lists(st.sampled_from([CLIENTS, *agents]), min_size=1, max_size=2, unique=True).map(tuple)
    again: SearchStrategy[dict[str, Any]] = st.one_of(
        st.just({}),
        st.fixed_dictionaries({"mean_between_s": times.long_spans, "until_s": times.spans.map(lambda s: s + times.tenth_s * 2 * _TENTHS)}),
    )
    common = {"agents": whom, "at_s": times.moments, "for_s": times.spans, "share": st.sampled_from([1.0, 0.5])}
    factor = st.sampled_from([1.0, 3.0, 30.0])
    own: dict[str, dict[str, SearchStrategy[Any]]] = {
        "crash": {},
        "pause": {},
        "partition": {"direction": st.sampled_from(["both", "out", "in"])},
        "clog": {"bandwidth_factor": st.just(3.0), "latency_factor": factor},
        "broker_crash": {},
        "slow_disk": {"persist_s": st.sampled_from([0.1, 3.0])},
        "clock_skew": {"clock_rate": st.sampled_from([2.0, 0.5, 20.0, 0.05]), "clock_ahead_s": st.sampled_from([0.0, 1000.0])},
        "byzantine": {"agents": st.just((CLIENTS,)), **_lies()},
    }
    kinds = [
        st.tuples(st.builds(Fault, kind=st.just(kind), **{**common, **more}), again).map(lambda pair: replace(pair[0], **pair[1]))
        for kind, more in own.items()
    ]
    if others := clients[1:]:
        liars = st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True).map(tuple)
        kinds.append(st.builds(Fault, kind=st.just("byzantine"), agents=liars, at_s=times.moments, for_s=st.just(0.0), **_lies()))
    return st.one_of(kinds)


def _lies() -> dict[str, SearchStrategy[Any]]:
    lie = st.sampled_from(["silent", "sign_flip", "random", "huge", "nan", "replayed"])
    return {"lie": lie, "magnitude": st.sampled_from([1.0, 1e6, 1e38])}


# -- whole scenarios --------------------------------------------------------------------------------------


@st.composite
def small_scenarios(draw: Any) -> Scenario:
    """Runs of a few clients and a few steps on the toy data, of every method, in a world without faults."""
    method = draw(st.sampled_from([*METHODS]))
    entry = METHODS[method]
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2).filter(lambda counts: sum(counts) >= 2))
    tables = {
        "name": "generated",
        "method": method,
        "task": draw(_TOKEN_TASKS if method == "skip_feedback" else _TASKS | _TOKEN_TASKS if method == "sfl_zeroth_order" else _TASKS),
        "shared": draw(_SHARED) | ({"probes": 0} if method == "frozen_client" else {}),
        "client": draw(_CLIENT),
        "server": draw(_SERVER),
        "aggregator": draw(_aggregators(sum(counts), synchronous=entry.synchronous, over_selected=entry.over_selected)),
        "update": {"rule": "sgd" if method == "frozen_client" else draw(st.sampled_from(["sgd", "momentum", "adamw"]))},
        "first_order": {"optimizer": draw(st.sampled_from(["sgd", "momentum", "adamw"]))},
        "cut": draw(_CUT),
        "compute": draw(_COMPUTE),
        "fleet": [{"count": count} for count in counts],
        "simulation": {"events_max": 50_000, "modelled_time_max_s": 200_000.0},
    }
    if tables["update"]["rule"] == "adamw":
        tables["update"]["decay_versions"] = draw(st.sampled_from([0, 0, 3]))
        tables["aggregator"]["learning_rate_final_share"] = 1.0
    if entry.fixes.get("shared.estimator") not in ("gradient", "skip_feedback", "activity_slopes"):
        _draw_directions(draw, tables)
    if not entry.synchronous:
        tables["client"]["steps_unanswered_max"] = draw(st.integers(1, 3))
        tables["server"]["staleness"] = draw(_STALENESS)
    for key, fixed in entry.fixes.items():  # what was drawn against the method's own definition would only be thrown away
        table, _, name = key.partition(".")
        if name in tables[table]:
            tables[table][name] = fixed
    try:
        return scenario_of_tables(tables, "generated")
    except SettingsError:  # two settings that cannot stand together, or that a method does not have
        reject()


def small_worlds() -> SearchStrategy[Scenario]:
    """Small scenarios in worlds with faults: what the campaign runs."""
    return small_scenarios().flatmap(lambda base: worlds(base, SMALL_HORIZON_S))


def _draw_directions(draw: Any, tables: dict[str, Any]) -> None:
    """Shared directions, and how the scalars of one direction are combined."""
    if draw(st.booleans()):
        tables["shared"]["directions"] = "per_version"
        tables["aggregator"]["location"] = draw(st.sampled_from(["mean", "median", "trimmed_mean"]))
        tables["aggregator"]["trust"] = draw(_TRUST)


_TASKS = st.fixed_dictionaries(
    {
        "data": st.just("toy"),
        "toy_samples": st.just(60),
        "batch_size": st.integers(1, 4),
        "model": st.sampled_from(
            [{"name": "mlp", "client_widths": [2], "server_widths": []}, {"name": "cnn", "client_widths": [1], "server_widths": []}]
        ),
        "partition": st.fixed_dictionaries({"rule": st.sampled_from(["iid", "dirichlet", "shards"])}),
    }
)
_TOKEN_TASKS = st.fixed_dictionaries(
    {
        "data": st.just("toy_tokens"),
        "toy_samples": st.just(60),
        "batch_size": st.integers(1, 4),
        "model": st.fixed_dictionaries(
            {
                "name": st.just("encoder"),
                "trainable": st.sampled_from(FED_BACK),
                **{key: st.just(value) for key, value in {"blocks": 2, "cut_block": 1, "hidden": 4, "heads": 1, "lora_rank": 1}.items()},
            }
        ),
    }
)
"""For the methods of encoders."""
_RETRY = st.fixed_dictionaries(
    {"first_s": st.sampled_from([2.0, 0.5]), "max_s": st.sampled_from([20.0, 2.0]), "attempts_max": st.integers(1, 4)}
)
_SHARED = st.fixed_dictionaries(
    {
        "probes": st.integers(1, 3),
        "digest_every_versions": st.integers(1, 4),
        "stop_at_accuracy": st.sampled_from([0.0, 0.0, 0.0, 0.5, 0.8]),
        "retry": _RETRY,
    }
)
_TRUST = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["none", "peers"]),
        "agreement_min_share": st.sampled_from([0.5, 1.0]),
        "distrust_deviations": st.sampled_from([3.0, 0.0]),
        "comparisons_min": st.integers(1, 2),
        "memory_observations": st.sampled_from([200.0, 2.0]),
        "distrusted_share_max": st.just(0.49),
        "versions_max": st.integers(1, 3),
        "vectors_max": st.integers(1, 3),
    }
)
_CLIENT = st.fixed_dictionaries(
    {
        "dual_policy": st.sampled_from(["eager", "fresh"]),
        "dual_reuse": st.sampled_from([1, 1, 2, 3]),
        "catch_up": st.sampled_from(["told", "measured"]),
    }
)
_STALENESS = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["constant", "polynomial", "hinge", "cutoff"]),
        "hinge_from": st.integers(0, 2),
        "versions_max": st.integers(1, 4),
    }
)
_SERVER = st.fixed_dictionaries(
    {
        "steps_per_activation": st.sampled_from([1, 1, 3]),
        "queue_max": st.integers(1, 4),
        "queue_bytes_max": st.sampled_from([1 << 20, 40]),
        "answers_remembered_max": st.integers(1, 6),
        "evaluate_every_steps": st.sampled_from([0, 3]),
        "silence_s": st.sampled_from([20.0, 5.0]),
        "device_share_max": st.sampled_from([1.0, 1.0, 0.5]),
        "device_share_window": st.integers(1, 4),
    }
)
_CUT_TYPES = st.sampled_from(["float32", "bfloat16", "int8", "int4"])
_CUT = st.fixed_dictionaries({"activations": _CUT_TYPES, "duals": _CUT_TYPES, "scale_per": st.sampled_from(["tensor", "sample"])})
_COMPUTE = st.fixed_dictionaries(
    {
        "forward_s": st.sampled_from([0.2, 1.0, 0.0]),
        "backward_s": st.sampled_from([0.01, 0.5]),
        "replay_term_s": st.sampled_from([0.001, 0.2]),
        "aggregator_message_s": st.sampled_from([0.0, 0.05]),
    }
)


_AGGREGATOR = st.fixed_dictionaries(
    {
        "client_steps": st.integers(1, 16),
        "learning_rate": st.sampled_from([0.1, 2.0]),
        "learning_rate_final_share": st.sampled_from([1.0, 0.0]),
        "buffer_deadline_s": st.sampled_from([60.0, 20.0]),
        "divide_by": st.sampled_from(["buffer_contributions", "weights"]),
        "device_share_max": st.sampled_from([1.0, 1.0, 0.5]),
        "participation": st.fixed_dictionaries({"rule": st.sampled_from(["any", "capped", "inverse"])}),
        "clipping": st.fixed_dictionaries(
            {
                "rule": st.sampled_from(["none", "fixed", "median"]),
                "window_min": st.integers(1, 8),
                "held_devices": st.sampled_from([0, 0, 2]),
            }
        ),
        "page_entries_max": st.integers(1, 4),
        "entries_kept_max": st.integers(1, 8),
        "entries_bytes_max": st.sampled_from([1 << 32, 1 << 32, 100]),
        "snapshot_every_versions": st.integers(1, 6),
        "snapshot_behind_versions": st.integers(1, 6),
        "digests_kept_max": st.integers(1, 8),
        "place_deadline_s": st.sampled_from([100.0, 10.0]),
        "parked_max": st.integers(1, 6),
        "overtaken_max": st.integers(1, 6),
        "farewells_max": st.integers(0, 20),
    }
)


@st.composite
def _aggregators(draw: Any, clients: int, *, synchronous: bool, over_selected: bool) -> dict[str, Any]:
    table: dict[str, Any] = draw(_AGGREGATOR)
    places = "cohort" if over_selected else draw(st.sampled_from(["none", "cohort", *([] if synchronous else ["concurrency"])]))
    if places == "cohort":
        table["cohort"] = draw(st.integers(1, clients - over_selected))
        table["cohort_extra"] = draw(st.integers(1, clients - table["cohort"])) if over_selected else 0
        table["selection"] = draw(st.sampled_from(["random", "balanced"]))
    elif places == "concurrency":
        table["concurrency"] = draw(st.integers(1, clients))
        table["selection"] = draw(st.sampled_from(["random", "balanced", "fastest_first"]))
    if not synchronous:
        table["buffer_contributions"] = draw(st.integers(1, table.get("cohort") or clients))
        table["staleness"] = draw(_STALENESS)
    return table
