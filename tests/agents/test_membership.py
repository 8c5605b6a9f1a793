"""Who takes part and what was answered to whom: a window per client, incarnations that only grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.agents.membership import Member, Membership
from hosfl_async.errors import AgentError
from hosfl_async.jobs import Introduced
from hosfl_async.messages import Join

OURS = Introduced(b"g" * 32, b"i" * 32)


def join(boot: int, golden: bytes = OURS.golden, initial: bytes = OURS.initial) -> Join:
    return Join(boot, golden, initial)


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([None, "stale", 1, 2])), max_size=60), st.integers(1, 16))
def test_a_member_knows_the_latest_answer_to_each_of_its_latest_steps_and_no_other(said: list, window: int) -> None:
    member = Member(1, 1, window)
    latest = {}
    for count, (number, answer) in enumerate(said):
        highest_before = max((number for number, _ in said[:count]), default=0)
        if number > highest_before - window:
            if number in latest and not (latest[number] is None and isinstance(answer, int)):
                with pytest.raises(AgentError, match=f"step {number} was"):
                    member.remember(number, answer)  # an answer once given is final
                continue
            latest[number] = answer
        member.remember(number, answer)
    highest = max((number for number, _ in said), default=0)
    assert member.floor == highest - window
    assert member.answers == {number: answer for number, answer in latest.items() if number > member.floor}
    assert len(member.answers) <= window


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), max_size=30))
def test_incarnations_only_grow_and_only_the_latest_counts(boots: list) -> None:
    members = Membership(clients_max=3, window=16)
    granted: dict[str, int] = {}
    for client, boot in boots:
        member = members.get(client)
        if member is not None and boot < member.boot:
            assert members.refusal(client, join(boot), OURS) == "old_boot"
            continue
        assert members.refusal(client, join(boot), OURS) is None
        incarnation = members.next_incarnation(client)
        assert incarnation == granted.get(client, 0) + 1
        members.grant(client, boot, incarnation)
        granted[client] = incarnation
    for client, incarnation in granted.items():
        assert members.of(client, incarnation) is members.get(client) is not None
        assert members.of(client, incarnation - 1) is None and members.of(client, incarnation + 1) is None
    assert len(members) == len(granted) and set(members) == set(granted) and "z" not in members


@pytest.mark.parametrize(
    ("client", "asked", "reason"),
    [
        ("a", join(1, golden=bytes(32)), "golden_differs"),
        ("a", join(1, initial=bytes(32)), "initial_differs"),
        ("a", join(1), "old_boot"),
        ("a", join(3), None),
        ("b", join(1), "fleet_full"),
    ],
)
def test_reasons(client: str, asked: Join, reason: str | None) -> None:
    members = Membership(clients_max=1, window=16)
    members.grant("a", 2, 1)
    assert members.refusal(client, asked, OURS) == reason


def test_a_new_incarnation_begins_with_no_answers() -> None:
    members = Membership(clients_max=1, window=16)
    members.grant("a", 1, 1).remember(5, 7)
    assert members.grant("a", 2, 2).answers == {}
