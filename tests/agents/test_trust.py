"""Trust among peers: bounds that hold, no trace of the order of arrival, honest devices left alone, liars found while they are fewer."""

from __future__ import annotations

from itertools import permutations
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as drawing
from hypothesis import strategies as st
from test_aggregator import Host, host

from hosfl_async.agents.settings import ClippingSettings, TrustSettings
from hosfl_async.agents.trust import Sighting, Trust, Turn
from hosfl_async.messages import Accepted, EntryCommitted, ProjectedGradients, StepId, Term

finite = st.floats(allow_nan=False, allow_infinity=False)
ordinary = st.floats(-4, 4).filter(lambda value: abs(value) > 1e-3)
vectors = st.lists(ordinary, min_size=3, max_size=3).map(tuple)
settings = st.builds(
    TrustSettings,
    rule=st.just("peers"),
    agreement_min_share=st.sampled_from([0.0, 0.3, 0.5]),
    distrust_deviations=st.sampled_from([0.5, 3.0]),
    trust_deviations=st.sampled_from([0.0, 1.0]),
    comparisons_min=st.integers(1, 6),
    memory_observations=st.sampled_from([1.0, 4.0, 100.0]),
    distrusted_share_max=st.sampled_from([0.0, 0.2, 0.49]),
    versions_max=st.integers(1, 3),
    vectors_max=st.integers(1, 4),
)
entry = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 6), st.lists(finite, min_size=2, max_size=2).map(tuple)), max_size=6)


def flipped(vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(-value for value in vector)


def learned(trust: Trust, entry: list) -> list[Turn]:
    return trust.learn([Sighting(*each) for each in entry])


@given(settings, st.lists(entry, max_size=12))
def test_scores_are_cosines_and_everything_that_is_kept_has_its_bound(chosen: TrustSettings, entries: list) -> None:
    trust, trusted = Trust(chosen), dict.fromkeys("abcdef", True)
    for each in entries:
        for turn in learned(trust, sorted(each)):
            assert turn.trusted != trusted[turn.device]
            if turn.trusted:
                assert turn.score - chosen.trust_deviations * turn.error > turn.wanted
            else:
                assert turn.comparisons >= chosen.comparisons_min and turn.score + chosen.distrust_deviations * turn.error < turn.wanted
            trusted[turn.device] = turn.trusted
        assert [trust.trusts(device) for device in trusted] == [*trusted.values()]
        assert all(abs(trust.score(device)) <= 1 + 1e-12 for device in trusted)
        assert trust.distrusted == len(trusted) - sum(trusted.values()) <= chosen.distrusted_share_max * len(trusted)
        assert trust.vectors <= chosen.versions_max * chosen.vectors_max


@given(st.integers(2, 7), st.lists(vectors, min_size=1, max_size=20), settings, st.data())
def test_devices_with_identical_data_keep_their_trust_whatever_their_pace_and_scale(
    devices: int, truths: list, chosen: TrustSettings, data: st.DataObject
) -> None:
    trust = Trust(chosen)
    for version, truth in enumerate(truths):
        present = data.draw(st.lists(st.sampled_from("abcdefg"[:devices]), unique=True))
        scale = data.draw(st.sampled_from([1e-300, 1.0, 1e300]))
        assert not learned(trust, [(device, version, tuple(scale * value for value in truth)) for device in sorted(present)])
    assert trust.distrusted == 0 and all(trust.score(device) >= 0 for device in "abcdefg")


@given(st.integers(4, 7), st.integers(1, 3), st.integers(1, 40), st.floats(0.0, 1.0), st.data())
def test_flippers_among_more_honest_devices_lose_their_trust_after_the_comparisons_and_nobody_else_does(
    honest: int, liars: int, comparisons: int, own: float, data: st.DataObject
) -> None:
    """Honest vectors are a common one and, less long, one of each device's own, at right angles to all others; liars know each other."""
    names = data.draw(st.permutations("abcdefghij"[: honest + liars]))
    lying = set(names[:liars])
    trust = Trust(TrustSettings(rule="peers", comparisons_min=comparisons, distrusted_share_max=0.45, vectors_max=12))
    if liars * 2 > honest:
        liars, lying = 1, {names[0]}
    for version in range(-(-comparisons // (honest + liars - 1)) + 2):
        vectors = {}
        for place, name in enumerate(sorted(names)):
            vector = (1.0, *(own * (place == other) for other in range(len(names))))
            vectors[name] = flipped(vector) if name in lying else vector
        learned(trust, [(name, version, vectors[name]) for name in sorted(names)])
    assert {name for name in names if not trust.trusts(name)} == lying


def test_the_score_is_the_decayed_mean_of_the_cosines_with_those_who_are_trusted() -> None:
    trust = Trust(TrustSettings(rule="peers", memory_observations=2.0, comparisons_min=3))
    learned(trust, [("a", 0, (3.0, 4.0)), ("b", 0, (0.0, 0.1))])
    assert trust.score("a") == trust.score("b") == pytest.approx(0.8)
    learned(trust, [("c", 0, (-1e308, 1e308))])
    assert trust.score("c") == pytest.approx((0.5 * (0.8 - 0.6) / sqrt(2) + 1 / sqrt(2)) / 1.5)
    assert trust.score("b") == pytest.approx((0.5 * 0.8 + 1 / sqrt(2)) / 1.5)
    learned(trust, [("a", 0, (-3.0, -4.0)), ("d", 0, (0.0, 0.0))])
    assert trust.score("a") == pytest.approx((0.5 * 0.8 + 0.2 / sqrt(2)) / 1.5), (
        "one vector of a device at a version, and none of no length"
    )
    assert trust.score("d") == 0.0 and trust.vectors == 3


def test_noise_is_found_after_many_comparisons_and_faint_agreement_is_not_held_against_the_honest() -> None:
    """Honest vectors of 20 scalars agree by a cosine of about 0.2, one of them by less; two devices send noise."""
    drawn = np.random.default_rng(5)
    trust, lost = Trust(TrustSettings(rule="peers")), {}
    for version in range(60):
        truth = drawn.normal(0, 1, 20)
        agreement = {name: 0.0 if name in "ab" else 0.25 if name == "c" else 0.5 for name in "abcdefghij"}
        for turn in learned(trust, [(name, version, tuple(drawn.normal(share * truth, 1))) for name, share in agreement.items()]):
            lost.setdefault(turn.device, turn)
    assert lost.keys() == {"a", "b"} and not trust.trusts("a") and not trust.trusts("b")
    assert all(turn.comparisons > 30 for turn in lost.values()), "chance does as much as that in fewer"
    assert 0 < trust.score("c") < trust.score("d")


def test_two_devices_alone_judge_nobody() -> None:
    trust = Trust(TrustSettings(rule="peers", comparisons_min=1, distrust_deviations=0.0, distrusted_share_max=0.49))
    for version in range(20):
        assert not learned(trust, [("a", version, (1.0, 0.0)), ("b", version, (-1.0, 0.0))])


def test_a_device_that_mends_its_ways_is_trusted_again() -> None:
    trust = Trust(TrustSettings(rule="peers", comparisons_min=4, memory_observations=8.0))
    turns = []
    for version in range(20):
        lie = -1.0 if version < 5 else 1.0
        turns += learned(trust, [("a", version, (lie,)), *((name, version, (1.0,)) for name in "bcdef")])
    assert [(turn.device, turn.trusted) for turn in turns] == [("a", False), ("a", True)]
    assert turns[0].score < turns[0].wanted <= 0.5 < turns[1].score


def test_liars_do_not_vouch_for_each_other() -> None:
    trust = Trust(TrustSettings(rule="peers", comparisons_min=4, memory_observations=8.0))
    for version in range(3):
        learned(trust, [(name, version, (-1.0 if name in "ab" else 1.0,)) for name in "abcdefg"])
    assert [name for name in "abcdefg" if not trust.trusts(name)] == ["a", "b"]
    before = trust.score("a"), trust.score("c")
    for version in range(3, 40):
        assert not learned(trust, [("a", version, (-1.0,)), ("b", version, (-1.0,)), ("c", version, (1.0,))][: 2 + version % 2])
    assert trust.score("a") <= before[0] < -0.5 and trust.score("c") == before[1], "nor do they speak against an honest one"


def test_a_vector_beyond_the_bound_is_compared_and_not_kept() -> None:
    trust = Trust(TrustSettings(rule="peers", vectors_max=2, versions_max=2))
    learned(trust, [("a", 0, (1.0, 1.0)), ("b", 0, (2.0, 2.0)), ("c", 0, (-1.0, -1.0)), ("d", 0, (1.0, -1.0))])
    assert (trust.vectors, trust.unkept) == (2, 2)
    assert [trust.score(name) for name in "abcd"] == pytest.approx([1.0, 1.0, -1.0, 0.0]), "the first two are not held against the others"
    for version in (1, 2):
        learned(trust, [("a", version, (1.0, 1.0))])
    assert trust.vectors == 2, "version 0 is forgotten"


# -- at the aggregator ---------------------------------------------------------------------------------

RULES: dict[str, Any] = {
    "directions": "per_version",
    "location": "median",
    "trust": TrustSettings(rule="peers", comparisons_min=3),
    "learning_rate": 1.0,
    "client_steps": 10_000,
}
TRUTH = (0.5, -2.0)


def fleet_with_a_flipper(rounds: int, made: Host | None = None, first: int = 1, **changes: Any) -> Host:
    """Everybody once at each version; ``a`` flips its signs."""
    made = made or host("abcde", **{**RULES, "buffer_contributions": 5, **changes})
    for number in range(first, first + rounds):
        version = made.agent.log.head
        for name in "abcde":
            made.say(name, ProjectedGradients(StepId(name, 1, number), version, flipped(TRUTH) if name == "a" else TRUTH))
    return made


def entries_of(made: Host) -> list[tuple[Term, ...]]:
    return [record.entry.terms for record in made.records if isinstance(record, EntryCommitted)]


@pytest.mark.parametrize("location", ["mean", "median", "trimmed_mean"])
@pytest.mark.parametrize("divide_by", ["buffer_contributions", "weights"])
def test_who_is_distrusted_is_answered_and_logged_and_moves_nothing(location: str, divide_by: str) -> None:
    made = fleet_with_a_flipper(3, location=location, divide_by=divide_by)
    counts = made.agent.counts
    assert (counts["trust_lost"], counts["distrusted"], counts["accepted"], counts["malformed"]) == (1, 2, 15, 0)
    assert {message.step.client for message in made.sent(Accepted)} == set("abcde") and made.agent.waiting == 0
    expected = host("bcde", **{**RULES, "buffer_contributions": 5, "location": location, "divide_by": divide_by})
    for name in "bcde":
        expected.say(name, ProjectedGradients(StepId(name, 1, 1), 0, TRUTH))
    expected.agent._commit(by_deadline=True)
    *_, last = entries_of(made)
    assert [term.coefficients for term in last] == [b"", *(term.coefficients for term in expected.agent.log.after(0, 1)[0].terms)]


@pytest.mark.parametrize("divide_by", ["buffer_contributions", "weights"])
def test_an_entry_of_the_distrusted_alone_is_committed_and_empty(divide_by: str) -> None:
    made = fleet_with_a_flipper(1, divide_by=divide_by)
    for number in range(2, 7):
        made.say("a", ProjectedGradients(StepId("a", 1, number), 1, TRUTH))
    assert made.agent.counts["distrusted"] == 5
    assert [term.coefficients for term in entries_of(made)[-1]] == [b""] * 5


def test_a_wild_scalar_of_a_distrusted_device_is_malformed_as_anybodys() -> None:
    made = fleet_with_a_flipper(1)
    made.say("a", ProjectedGradients(StepId("a", 1, 2), 1, (1e300, 0.0)))
    assert made.agent.counts["malformed"] == 1 and made.agent.waiting == 0


@drawing(max_examples=40)
@given(st.lists(st.tuples(vectors, st.integers(0, 1)), min_size=12, max_size=12))
def test_entries_do_not_depend_on_the_order_of_arrival_within_them(drawn: list) -> None:
    def entries(order: tuple[int, ...]) -> list[tuple[Term, ...]]:
        chosen = TrustSettings(
            rule="peers",
            comparisons_min=1,
            agreement_min_share=1.0,
            distrust_deviations=0.0,
            distrusted_share_max=0.49,
            memory_observations=3.0,
        )
        made = host(**{**RULES, "trust": chosen, "probes": 3, "buffer_contributions": 3, "clipping": ClippingSettings(rule="fixed")})
        for number in range(1, 5):
            for client in order:
                vector, behind = drawn[3 * number - 3 + client]
                base_version = max(0, number - 1 - behind)
                made.say("abc"[client], ProjectedGradients(StepId("abc"[client], 1, number), base_version, vector))
        return entries_of(made)

    found = [entries(order) for order in permutations(range(3))]
    assert len(found[0]) == 4 and all(one == found[0] for one in found)


def test_after_a_restart_everybody_begins_trusted_and_a_liar_is_found_anew() -> None:
    made = fleet_with_a_flipper(3)
    again = made.restarted(**{**RULES, "buffer_contributions": 5})
    assert entries_of(again) == entries_of(made) and again.agent.counts["distrusted"] == 0
    fleet_with_a_flipper(2, again, first=4)
    assert (again.agent.counts["trust_lost"], again.agent.counts["distrusted"]) == (1, 1)
    assert entries_of(again)[-1][0].coefficients == b"", "the first term of the entry is the flipper's"
