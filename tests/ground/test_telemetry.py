"""Telemetry records: read back as they were written, refused as ``CodecError`` whatever the bytes, and always within their bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.errors import CodecError
from hosfl_async.telemetry import (
    CURVE_POINTS_MAX,
    STATES,
    TELEMETRY_BYTES_MAX,
    TELEMETRY_VERSION,
    Activity,
    Checked,
    Evaluated,
    LogTold,
    RunTold,
    Telemetry,
    decode_telemetry,
    encode_telemetry,
    thinned,
)

COUNTS = st.integers(0, 2**62)
NUMBERS = st.floats(-1e300, 1e300)
SECONDS = st.floats(0, 1e12)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
POINTS = st.builds(Evaluated, COUNTS, COUNTS, NUMBERS, NUMBERS, SECONDS)
LOGS = st.builds(
    LogTold, head=COUNTS, client_steps=COUNTS, steps_per_s=NUMBERS, staleness_sum=NUMBERS, staleness_count=COUNTS, staleness_max=COUNTS,
    digests_compared=COUNTS, digests_differ=COUNTS, over=st.booleans(), digest=st.none() | HEX, clients_confirmed=COUNTS,
    run=st.none() | st.builds(RunTold, TEXTS, st.integers(-(2**62), 2**62), COUNTS, COUNTS),
)  # fmt: skip
RECORDS = st.builds(
    Telemetry, schema=st.just(TELEMETRY_VERSION), agent=st.just("client-1"), boot=COUNTS, serial=COUNTS, time_s=SECONDS, every_s=SECONDS,
    state=st.sampled_from(STATES), step=TEXTS, awaits_dual=st.booleans(), version=COUNTS, accepted=COUNTS, refused=COUNTS, dropped=COUNTS,
    finished=st.booleans(), broken=TEXTS, checked=st.none() | st.builds(Checked, COUNTS, HEX), log=st.none() | LOGS,
    server_steps=st.none() | COUNTS, curve=st.lists(POINTS, max_size=4).map(tuple),
)  # fmt: skip


@given(RECORDS)
def test_a_record_is_read_back(record: Telemetry) -> None:
    payload = encode_telemetry(record)
    assert decode_telemetry("client-1", payload) == record
    with pytest.raises(CodecError, match="claims to be client-1"):
        decode_telemetry("client-2", payload)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner)).map(lambda x: json.dumps(x).encode())
)
def test_whatever_else_comes_is_refused(payload: bytes) -> None:
    with pytest.raises(CodecError):
        decode_telemetry("client-1", payload)


def good(**changes: Any) -> bytes:
    record = Telemetry(schema=1, agent="client-1", boot=1, serial=1, time_s=0.5, every_s=2.0, state="computing")
    return json.dumps({**json.loads(encode_telemetry(record)), **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [{"schema": 2}, {"boot": -1}, {"time_s": 1e301}, {"every_s": -1.0}, {"state": "asleep"}, {"step": "x" * 201}, {"version": 2**63},
     {"checked": {"version": 1, "digest": "zz" * 32}}, {"curve": [[1, 1, 0.5, 0.5, 1.0]] * (CURVE_POINTS_MAX + 1)},
     {"curve": [[1, 1, None, 0.5, 1.0]]}, {"log": {"head": 1}}, {"padding": "x" * TELEMETRY_BYTES_MAX}],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode_telemetry("client-1", good(**changes))


def test_a_newer_agent_may_say_more() -> None:
    assert decode_telemetry("client-1", good(battery=0.5)).state == "computing"


def test_the_largest_record_is_within_the_bound() -> None:
    most, text, digest = 2**62, "\x1f" * 200, "f" * 64
    record = Telemetry(
        schema=1, agent="a" * 64, boot=most, serial=most, time_s=1e11 / 3, every_s=1e3 / 3, state="waiting for the dual", step=text,
        awaits_dual=True, version=most, accepted=most, refused=most, dropped=most, finished=True, broken=text,
        checked=Checked(most, digest), server_steps=most,
        curve=(Evaluated(most, most, -1e300 / 3, -1e300 / 3, 1e11 / 3),) * CURVE_POINTS_MAX,
        log=LogTold(most, most, 1e9 / 3, 1e9 / 3, most, most, most, most, True, digest, most, RunTold(text, most, most, most)),
    )  # fmt: skip
    assert len(encode_telemetry(record)) <= TELEMETRY_BYTES_MAX


@given(st.integers(0, 500))
def test_a_curve_keeps_its_ends_and_its_order(points: int) -> None:
    curve: list[Evaluated] = []
    for number in range(points):
        curve = thinned([*curve, Evaluated(number, number, 0.5, 0.5, 1.0)])
    steps = [point.server_steps for point in curve]
    assert len(steps) <= CURVE_POINTS_MAX and steps == sorted(set(steps))
    assert not points or (steps[0], steps[-1]) == (0, points - 1)
    assert len(steps) >= min(points, CURVE_POINTS_MAX // 2)


def test_states_in_the_order_of_precedence() -> None:
    activity = Activity()
    seen = []
    for what, kind in [
        ("started", ""), ("sent", "SmashedData"), ("sent", "CatchUp"), ("job_started", "Probe"), ("job_done", "Probe"),
        ("delivered", "LogPage"), ("job_started", "Replay"), ("job_done", "Replay"), ("paused", ""), ("resumed", ""),
        ("delivered", "DualVariable"), ("sent", "SmashedData"), ("crashed", ""), ("started", ""),
    ]:  # fmt: skip
        activity.met(what, kind)
        seen.append(activity.state)
    assert seen == [
        "waiting otherwise", "waiting for the dual", "catching up", "computing", "catching up", "waiting for the dual", "catching up",
        "waiting for the dual", "offline", "waiting for the dual", "waiting otherwise", "waiting for the dual", "offline",
        "waiting otherwise",
    ]  # fmt: skip
