"""A run put together from what its agents say: late, doubled and lost records, silence, digests, and bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.report import hearing
from hosfl_async.report.hearing import Hearing
from hosfl_async.telemetry import TELEMETRY_VERSION, Checked, Evaluated, LogTold, Telemetry, encode_telemetry


def said(agent: str, serial: int, boot: int = 1, **more: Any) -> bytes:
    fields: dict[str, Any] = {"time_s": float(serial), "every_s": 2.0, "state": "computing", **more}
    return encode_telemetry(Telemetry(schema=TELEMETRY_VERSION, agent=agent, boot=boot, serial=serial, **fields))


def log(head: int, steps: int, **more: Any) -> LogTold:
    return LogTold(head=head, client_steps=steps, **more)


KEYS = st.tuples(st.integers(1, 3), st.integers(1, 8))


@given(st.lists(KEYS, min_size=1), st.data())
def test_the_latest_record_counts_in_whatever_order_and_how_often_they_come(keys: list[tuple[int, int]], data: Any) -> None:
    """One look after each: every record is read, and only what is newer than all before changes anything."""
    heard, greatest, passed = Hearing(), (0, 0), []
    for boot, serial in data.draw(st.permutations(keys)):
        passed.append((greatest, (boot, serial)))
        heard.hear("client-1", said("client-1", serial, boot, version=100 * boot + serial), 0.0)
        heard.look(0.0, 0.0)
        greatest = max(greatest, (boot, serial))
        record = heard.record("client-1")
        assert record is not None and record.version == 100 * greatest[0] + greatest[1]
        assert heard.counts["late"] == sum(before >= after for before, after in passed)


def test_between_two_looks_one_record_of_each_agent_waits() -> None:
    heard = Hearing()
    for serial in range(1, 1001):
        heard.hear("client-1", said("client-1", serial), 0.0)
        heard.hear("client-2", b"\xff not a record", 0.0)
    look = heard.look(0.0, 0.0)
    assert heard.counts["overtaken"] == 1998 and heard.counts["unreadable"] == 1
    assert [(client.name, client.state) for client in look.clients] == [("client-1", "computing")]


def test_silence_is_absence_only_while_somebody_could_be_heard() -> None:
    heard = Hearing(["client-1", "client-2", "client-10"])
    heard.hear("client-2", said("client-2", 1), 100.0)

    def states(now_s: float, connected_since_s: float | None) -> list[str]:
        return [client.state for client in heard.look(now_s, connected_since_s).clients]

    assert states(101.0, 50.0) == ["offline", "computing", "offline"]
    assert states(107.0, 50.0) == ["offline", "offline", "offline"]
    assert states(107.0, None) == ["offline", "computing", "offline"], "the broker is gone: nobody knows"
    assert states(107.0, 104.0) == ["offline", "computing", "offline"], "it is back, and the client had no time yet"
    assert states(111.0, 104.0) == ["offline", "offline", "offline"]


def test_digests_of_one_version_are_compared_once_for_each_agent_and_version() -> None:
    heard = Hearing()
    same, other = Checked(7, "a" * 64), Checked(7, "b" * 64)
    for serial in (1, 2):
        for agent, checked in (("client-1", same), ("client-2", same), ("client-3", other), ("client-4", Checked(8, "b" * 64))):
            heard.hear(agent, said(agent, serial, checked=checked), 0.0)
        look = heard.look(0.0, 0.0)
    assert (look.digests_compared, look.digests_differ) == (2, 1)


def test_the_curve_stands_at_the_client_steps_of_its_versions() -> None:
    heard = Hearing()
    for serial, (head, steps) in enumerate([(10, 50), (20, 100), (30, 120)], 1):
        heard.hear("aggregator", said("aggregator", serial, log=log(head, steps)), 0.0)
        curve = tuple(Evaluated(version, version + 1, version / 100, 1.0, 1.0) for version in (0, 5, 20, 25, 30))
        heard.hear("split_server", said("split_server", serial, server_steps=77, curve=curve), 0.0)
        look = heard.look(0.0, 0.0)
    assert [(point.client_steps, point.accuracy) for point in heard.evaluations] == [
        (0, 0.0),
        (25, 0.05),
        (100, 0.2),
        (110, 0.25),
        (120, 0.3),
    ]
    assert (look.version, look.client_steps, look.server_steps) == (30, 120, 77)


def test_a_run_has_ended_when_its_aggregator_has() -> None:
    heard = Hearing()
    over = log(9, 90, over=True, digest="c" * 64)
    for serial, more in enumerate([{"log": log(8, 80)}, {"log": over}, {"log": over, "finished": True}], 1):
        heard.hear("aggregator", said("aggregator", serial, **more), 0.0)
        heard.look(0.0, 0.0)
        assert heard.ended == (serial == 3)


def test_nothing_grows_without_bound(monkeypatch: Any) -> None:
    monkeypatch.setattr(hearing, "AGENTS_HEARD_MAX", 50)
    heard = Hearing(["client-0"])
    for serial in range(1, 40):
        for number in range(100):
            heard.hear(
                f"client-{number}", said(f"client-{number}", serial, version=serial, checked=Checked(serial * 100 + number, "d" * 64)), 0.0
            )
        heard.hear("split_server", b"", 0.0)
        heard.look(0.0, 0.0)
    assert len(heard.names) == 50 and heard.counts["unlisted"] == 39 * 51
    assert len(heard.story("client-7") or []) <= hearing.CHANGES_KEPT_MAX
    assert len(heard._digests) <= hearing.VERSIONS_KEPT_MAX
    alone = Hearing()
    for number in range(3000):
        alone.hear("aggregator", said("aggregator", number + 1, log=log(number, number)), 0.0)
        alone.hear("split_server", said("split_server", number + 1, curve=(Evaluated(number, number, 0.1, 0.1, 1.0),)), 0.0)
        alone.look(0.0, 0.0)
    points = alone.evaluations
    assert len(points) <= hearing.EVALUATIONS_KEPT_MAX and points[-1].client_steps == points[-1].version == 2999
    assert len(alone._steps) <= hearing.STEPS_KNOWN_MAX


def test_a_clients_story_is_its_changes() -> None:
    heard = Hearing(["client-1"])
    assert heard.story("client-1") == ["nothing has been heard of it yet"]
    assert heard.story("client-2") is heard.story("aggregator") is None
    for serial, state in enumerate(["computing", "computing", "waiting for the dual"], 1):
        heard.hear("client-1", said("client-1", serial, state=state, step="client-1/3"), 0.0)
        heard.look(0.0, 0.0)
    heard.hear("client-1", said("client-1", 1, boot=2, broken="fenced"), 0.0)
    heard.look(0.0, 0.0)
    story = heard.story("client-1") or []
    assert len(story) == 3 and "waiting for the dual, step client-1/3" in story[1]
    assert "stopped for good: fenced" in story[2] and "a new process" in story[2]
