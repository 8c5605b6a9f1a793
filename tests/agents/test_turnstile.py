"""The turnstile: never more steps in flight than places, every wish accounted for, nobody starves, and choices that follow their rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_aggregator import host
from toy import SMALL_AGGREGATOR, SMALL_CLIENT, World

from hosfl_async.agent import PeerGone, TimerFired
from hosfl_async.agents import AggregatorSettings
from hosfl_async.agents.turnstile import COUNTS, Turnstile, Wish
from hosfl_async.messages import Granted, LogPage, Refused, StepId, StepWanted

DEADLINE_S = 10.0
RULES = ["random", "balanced", "fastest_first"]


def made(clients: int = 0, **changes: Any) -> Turnstile:
    settings = AggregatorSettings(**{"place_deadline_s": DEADLINE_S, **changes})
    turnstile = Turnstile(settings, dict.fromkeys(COUNTS, 0), member=lambda index: f"c{index}", members=lambda: clients)
    turnstile.key = b"run"
    return turnstile


def wish(client: int, number: int = 1, rank: float = 0.0) -> Wish:
    return Wish(StepId(f"c{client}", 1, number), 0, rank)


def clients_of(wishes: list[Wish]) -> list[str]:
    return [one.step.client for one in wishes]


# -- any history --------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Wishes, contributions, departures, deadlines and commits in any order. Model: which steps are in flight, told by the grants."""

    @initialize(
        places=st.integers(1, 4),
        extra=st.integers(0, 2),
        cohorts=st.booleans(),
        selection=st.sampled_from(RULES),
        parked_max=st.integers(1, 6),
        overtaken_max=st.integers(1, 5),
    )
    def begin(self, places: int, extra: int, cohorts: bool, **changes: Any) -> None:
        limits = {"cohort": places, "cohort_extra": extra} if cohorts else {"concurrency": places}
        self.turnstile, self.cohorts, self.now = made(8, **limits, **changes), cohorts, 0.0
        self.places = places + extra * cohorts
        self.numbers = dict.fromkeys(range(8), 1)
        self.flying: dict[str, tuple[StepId, float]] = {}
        self.granted = 0
        """Steps granted in this cohort."""
        self.given_back = 0

    def note(self, granted: list[Wish]) -> None:
        for one in granted:
            known = self.flying.get(one.step.client)
            if known is None or known[0] != one.step:
                self.granted += 1
                self.flying[one.step.client] = (one.step, self.now)

    @rule(client=st.integers(0, 7), later=st.sampled_from([-1, 0, 0, 0, 1]), rank=st.integers(0, 3))
    def wish(self, client: int, later: int, rank: int) -> None:
        self.numbers[client] = max(1, self.numbers[client] + later)
        asked = wish(client, self.numbers[client], float(rank))
        known = self.flying.get(f"c{client}")
        if known and known[0] < asked.step:
            del self.flying[f"c{client}"]
            self.given_back += 1
        granted = self.turnstile.wish(asked, self.now)
        if known and known[0] == asked.step:
            assert granted == [asked], "a repeated wish must be granted again: the first answer may be lost"
        self.note(granted)

    @rule(client=st.integers(0, 7), admitted=st.booleans(), old=st.booleans())
    def contributed(self, client: int, admitted: bool, old: bool) -> None:
        name = f"c{client}"
        known = self.flying.get(name)
        step = StepId(name, 1, self.numbers[client] - 1) if old or not known else known[0]
        took_s = self.turnstile.contributed(step, self.now, admitted=admitted)
        if known and known[0] == step:
            assert took_s == self.now - known[1]
            del self.flying[name]
            self.numbers[client] = step.number + 1
            self.given_back += not admitted
        else:
            assert took_s is None
        self.note(self.turnstile.fill(self.now))

    @rule(client=st.integers(0, 7))
    def forget(self, client: int) -> None:
        self.given_back += self.flying.pop(f"c{client}", None) is not None
        self.note(self.turnstile.forget(f"c{client}", self.now))

    @rule(wait_s=st.floats(0.0, DEADLINE_S))
    def time_passes(self, wait_s: float) -> None:
        self.now += wait_s
        for name, (_, since_s) in list(self.flying.items()):
            if since_s + DEADLINE_S <= self.now:
                del self.flying[name]
                self.given_back += 1
        self.note(self.turnstile.expire(self.now))

    @rule()
    def commit(self) -> None:
        if self.cohorts:
            self.granted = self.given_back = 0
        self.note(self.turnstile.next_cohort(self.now))

    @invariant()
    def no_more_in_flight_than_places(self) -> None:
        if not hasattr(self, "turnstile"):
            return
        self.turnstile.validate()
        if self.cohorts:
            assert self.granted - self.given_back <= self.places
        else:
            assert len(self.flying) == self.turnstile.in_flight <= self.places
            assert not self.turnstile.waiting or len(self.flying) == self.places, "somebody waits beside an open place"


TestAnyHistory = AnyHistory.TestCase


# -- who is next --------------------------------------------------------------------------------------


def rounds(turnstile: Turnstile, clients: int, steps: int, speeds: list[float], first_rank: float = 0.0) -> Counter[str]:
    """Every client wishes for its next step as soon as it is done; who is done first follows from the speeds. Grants by client."""
    numbers, ends, done, taken = count(1), {}, Counter[str](), dict.fromkeys(range(clients), first_rank)
    now = 0.0
    balanced = turnstile._settings.selection == "balanced"
    granted = [one for client in range(clients) for one in turnstile.wish(wish(client, next(numbers), first_rank), now)]
    while sum(done.values()) < steps:
        for one in granted:
            ends[one.step] = now + speeds[int(one.step.client[1:])]
        step = min(ends, key=lambda each: (ends[each], each))
        now = ends.pop(step)
        client = int(step.client[1:])
        took_s = turnstile.contributed(step, now, admitted=True)
        assert took_s is not None
        done[step.client] += 1
        taken[client] = float(done[step.client]) if balanced else took_s
        granted = turnstile.wish(wish(client, next(numbers), taken[client]), now) + turnstile.fill(now)
    return done


speeds_of_eight = st.lists(st.sampled_from([1.0, 1.5, 2.0, 9.0]), min_size=8, max_size=8)


@given(st.integers(1, 4), speeds_of_eight)
def test_balanced_keeps_counts_within_the_places_of_each_other(places: int, speeds: list[float]) -> None:
    """Among equals, and up to what is in flight: a slow client holds its place while the others take a few turns."""
    done = rounds(made(concurrency=places, selection="balanced"), 8, 200, speeds)
    if len(set(speeds)) == 1:
        assert max(done.values()) - min(done[f"c{client}"] for client in range(8)) <= 2
    else:
        assert min(done[f"c{client}"] for client in range(8)) > 0


@given(st.integers(1, 3), st.permutations([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 9.0]))
def test_fastest_first_prefers_the_fast_and_still_starves_nobody(places: int, speeds: list[float]) -> None:
    patient = rounds(made(concurrency=places, selection="fastest_first", overtaken_max=10**6), 8, 300, speeds)
    slow = [f"c{client}" for client, speed in enumerate(speeds) if speed > 1.0]
    assert all(patient[name] <= 2 for name in slow), "each is tried, and then the fast ones are always preferred"
    fair = rounds(made(concurrency=places, selection="fastest_first", overtaken_max=20), 8, 300, speeds)
    assert all(fair[name] >= 300 // 40 for name in slow)


@given(st.sampled_from(RULES), st.integers(1, 4), st.integers(1, 30))
def test_who_waits_is_overtaken_a_bounded_number_of_times(selection: str, places: int, overtaken_max: int) -> None:
    """One whose rank is always the worst: at most ``overtaken_max`` grants go by, and those of the clients that waited before it."""
    turnstile = made(concurrency=places, selection=selection, overtaken_max=overtaken_max)
    numbers = count(1)
    flying = [turnstile.wish(wish(client, next(numbers)), 0.0)[0].step for client in range(places)]
    for client in range(places, 12):
        turnstile.wish(wish(client, next(numbers)), 0.0)
    turnstile.wish(wish(99, next(numbers), 1e9), 0.0)
    waiting = turnstile.waiting
    for passed in count(1):
        step = flying.pop(0)
        turnstile.contributed(step, 1.0, admitted=True)
        granted = turnstile.fill(1.0)
        flying += [one.step for one in granted]
        if "c99" in clients_of(granted):
            break
        granted = turnstile.wish(wish(int(step.client[1:]), next(numbers)), 1.0)
        flying += [one.step for one in granted]
        assert passed <= overtaken_max + waiting


def test_random_selection_gives_everybody_about_the_same() -> None:
    done = rounds(made(concurrency=2), 8, 1600, [1.0] * 8)
    assert all(150 <= done[f"c{client}"] <= 250 for client in range(8)), done


def test_the_choice_follows_from_the_run_and_nothing_else() -> None:
    def order(key: bytes) -> list[str]:
        turnstile = made(concurrency=1)
        turnstile.key = key
        granted = turnstile.wish(wish(0), 0.0)
        for client in range(1, 12):
            turnstile.wish(wish(client), 0.0)
        names = []
        while granted:
            names += clients_of(granted)
            turnstile.contributed(granted[0].step, 1.0, admitted=True)
            granted = turnstile.fill(1.0)
        return names

    assert order(b"run") == order(b"run") != order(b"another run")
    assert sorted(order(b"run")) == sorted(f"c{client}" for client in range(12))


def test_without_a_limit_every_wish_is_granted_and_nothing_remembered() -> None:
    turnstile = made()
    assert all(turnstile.wish(wish(client), 0.0) == [wish(client)] for client in range(1000))
    assert turnstile.in_flight == turnstile.waiting == 0


def test_the_line_does_not_grow_with_what_was_withdrawn() -> None:
    for selection in RULES:
        turnstile = made(concurrency=1, selection=selection)
        for number in range(1, 2000):
            turnstile.wish(wish(number % 3, number), 0.0)
            turnstile.forget(f"c{(number + 1) % 3}", 0.0)
            assert len(turnstile._line) <= 2 * 3 + 17


# -- cohorts ------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(0, 3), st.integers(1, 30))
def test_a_cohort_has_its_size_and_is_drawn_anew_for_each_version(size: int, extra: int, versions: int) -> None:
    turnstile = made(12, cohort=size, cohort_extra=extra)
    granted = [one for client in range(12) for one in turnstile.wish(wish(client), 0.0)]
    numbers = dict.fromkeys((f"c{client}" for client in range(12)), 1)
    for _ in range(versions):
        assert len(granted) == size + extra and len(set(clients_of(granted))) == size + extra
        for one in granted:
            turnstile.contributed(one.step, 1.0, admitted=True)
            assert turnstile.fill(1.0) == [], "a place that was used stays shut until the next version"
            numbers[one.step.client] += 1
        came = clients_of(granted)
        granted = turnstile.next_cohort(1.0)
        for name in came:
            granted += turnstile.wish(Wish(StepId(name, 1, numbers[name]), 0, 0.0), 1.0)


def test_cohorts_are_drawn_from_everybody_alike() -> None:
    turnstile, drawn, numbers = made(20, cohort=4), Counter[str](), count(2)
    granted = [one for client in range(20) for one in turnstile.wish(wish(client), 0.0)]
    for _ in range(500):
        for one in granted:
            turnstile.contributed(one.step, 1.0, admitted=True)
        came, granted = clients_of(granted), turnstile.next_cohort(1.0)
        for name in came:
            granted += turnstile.wish(Wish(StepId(name, 1, next(numbers)), 0, 0.0), 1.0)
        drawn.update(clients_of(granted))
    assert all(60 <= drawn[f"c{client}"] <= 140 for client in range(20)), drawn


def test_a_drawn_client_that_never_comes_is_replaced_at_its_deadline() -> None:
    turnstile = made(4, cohort=4)
    for client in range(4):
        turnstile.wish(wish(client), 0.0)
        turnstile.contributed(wish(client).step, 0.0, admitted=True)
    turnstile.next_cohort(0.0)
    assert turnstile.in_flight > 0
    assert clients_of(turnstile.wish(wish(0, 2), 1.0)) == ["c0"]
    turnstile.expire(DEADLINE_S)
    turnstile.validate()
    assert turnstile._counts["places_expired"] >= 1


# -- in the aggregator --------------------------------------------------------------------------------


def asked(client: str, number: int, from_version: int = 0, incarnation: int = 1) -> StepWanted:
    return StepWanted(StepId(client, incarnation, number), from_version)


def test_a_parked_client_hears_nothing_until_a_contribution_frees_a_place() -> None:
    made_host = host(concurrency=1)
    assert made_host.say("a", asked("a", 1)) == [Granted(StepId("a", 1, 1), 0)]
    assert made_host.say("b", asked("b", 1)) == []
    assert made_host.contribute("a", 1) == [Granted(StepId("b", 1, 1), 0)]
    made_host.say("a", asked("a", 2))
    sent = made_host.contribute("b", 1)  # the second of K = 2: an entry
    assert [type(one).__name__ for one in sent] == ["Accepted", "Accepted", "LogPage", "Granted"]
    assert sent[2].from_version == 0 and len(sent[2].entries) == 1 and sent[3] == Granted(StepId("a", 1, 2), 1)


def test_a_lost_grant_is_given_again_and_a_gone_client_frees_its_place() -> None:
    made_host = host(concurrency=1)
    made_host.say("a", asked("a", 1))
    assert made_host.say("a", asked("a", 1)) == [Granted(StepId("a", 1, 1), 0)]
    made_host.say("b", asked("b", 1))
    made_host.feed(PeerGone("a"))
    assert made_host.sent() == [Granted(StepId("b", 1, 1), 0)]
    made_host.contribute("a", 1)  # it was not gone: admitted all the same
    assert made_host.agent.counts["received"] == 1 and made_host.agent.counts["stale"] == 0


def test_a_silent_client_loses_its_place_at_the_deadline() -> None:
    made_host = host(concurrency=1, place_deadline_s=7.0)
    made_host.say("a", asked("a", 1))
    made_host.say("b", asked("b", 1))
    assert made_host.timers["places"] == 7.0
    made_host.now = 7.0
    made_host.feed(TimerFired("places"))
    assert made_host.sent() == [Granted(StepId("b", 1, 1), 0)] and made_host.agent.counts["places_expired"] == 1
    assert made_host.timers["places"] == 7.0, "armed again for the place that was just given"


def test_places_are_soft_state_and_a_former_life_is_told_so() -> None:
    made_host = host(concurrency=1)
    made_host.say("a", asked("a", 1))
    again = made_host.restarted(concurrency=1)
    assert again.say("b", asked("b", 1)) == [Granted(StepId("b", 1, 1), 0)]
    made_host.join("a", boot=2)
    assert made_host.say("a", asked("a", 1, incarnation=1)) == [Refused(StepId("a", 1, 1), "fenced", 0)]
    assert made_host.say("z", asked("z", 1)) == [] and made_host.agent.counts["strangers"] == 1


def test_after_the_end_a_wish_is_answered_with_the_log() -> None:
    made_host = host(concurrency=1, client_steps=2)
    made_host.contribute("a", 1)
    made_host.contribute("b", 1)
    (page,) = made_host.say("c", asked("c", 1))
    assert isinstance(page, LogPage) and page.finished


# -- with real clients --------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"concurrency": 1}, {"concurrency": 2}, {"cohort": 2}, {"cohort": 1, "cohort_extra": 1}], ids=str)
@pytest.mark.parametrize("selection", RULES)
def test_a_run_under_a_limit_comes_to_its_end(limits: dict[str, int], selection: Any) -> None:
    aggregator = replace(SMALL_AGGREGATOR, selection=selection, place_deadline_s=30.0, **limits)  # type: ignore[arg-type]
    world = World(4, aggregator=aggregator, client=replace(SMALL_CLIENT, asks_before_step=True))
    world.calm()
    world.check_end()
    counts = world.agent("aggregator").counts
    assert counts["granted_at_once"] + counts["granted_later"] >= aggregator.client_steps
    working = max(limits.get("concurrency", 0), limits.get("cohort", 0) + limits.get("cohort_extra", 0))
    assert len({step.client for step in world.logged}) > working or selection == "fastest_first"
