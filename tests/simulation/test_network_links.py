"""Links: latency, bandwidth, order, and fates that depend on (seed, link, message number) alone."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async.simulation.draws import exponential, log_normal, stream_key, uniform
from hosfl_async.simulation.network import Network
from hosfl_async.simulation.profiles import NETWORKS
from hosfl_async.simulation.settings import FleetGroup, NetworkSettings

probabilities = st.sampled_from([0.0, 0.1, 0.5])


def test_a_link_is_busy_while_it_transmits() -> None:
    network = Network(NetworkSettings(latency_s=1.0, uplink_bytes_per_s=100.0, downlink_bytes_per_s=1000.0), seed=1)
    up, down = network.uplink("client-0"), network.downlink("client-0")
    assert network.transmit(up, 0.0, 200) == (3.0,)  # 2 s on the wire, 1 s under way
    assert network.transmit(up, 0.5, 100) == (4.0,)  # waits until 2.0
    assert network.transmit(up, 10.0, 100) == (12.0,)  # the link is free again
    assert network.transmit(down, 0.5, 100) == (1.6,)  # the other direction is another link


def test_an_unlimited_link_is_never_busy() -> None:
    network = Network(NetworkSettings(latency_s=0.25), seed=1)
    link = network.uplink("client-0")
    assert [network.transmit(link, 1.0, 10**9) for _ in range(3)] == [(1.25,)] * 3


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1000)), min_size=2, max_size=30), st.sampled_from([0.0, 5.0]))
def test_without_reordering_a_link_is_first_in_first_out(messages: list[tuple[float, int]], jitter_s: float) -> None:
    network = Network(NetworkSettings(latency_jitter_s=jitter_s, uplink_bytes_per_s=500.0, loss=0.2), seed=3)
    link = network.uplink("client-0")
    arrivals = [network.transmit(link, sent_s, size) for sent_s, size in sorted(messages)]
    delivered = [arrival for fate in arrivals for arrival in fate]
    assert delivered == sorted(delivered)


def test_a_message_that_is_held_back_is_overtaken() -> None:
    network = Network(NetworkSettings(latency_s=0.0, reordering=0.2, reordering_delay_s=10.0), seed=5)
    link = network.uplink("client-0")
    arrivals = [network.transmit(link, 0.1 * number, 10)[0] for number in range(200)]
    overtaken = sum(earlier > later for earlier, later in pairwise(arrivals))
    held = sum(arrival > 0.1 * number for number, arrival in enumerate(arrivals))
    assert held == network.counts["reordered"]
    assert 20 < overtaken <= held < 60


@given(probabilities, probabilities, probabilities, st.integers(0, 2**40))
def test_every_message_is_lost_or_arrives_once_or_twice_and_is_counted(loss: float, twice: float, held: float, seed: int) -> None:
    network = Network(NetworkSettings(loss=loss, duplication=twice, reordering=held), seed)
    link = network.downlink("client-0")
    fates = [network.transmit(link, float(number), 10) for number in range(60)]
    assert sum(len(fate) for fate in fates) == 60 + network.counts["duplicated"] - network.counts["lost"]
    assert all(arrival >= number + 0.02 for number, fate in enumerate(fates) for arrival in fate)


@pytest.mark.parametrize(("kind", "expected"), [("loss", 0.3), ("duplication", 0.3), ("reordering", 0.3)])
def test_faults_strike_as_often_as_their_probability_says(kind: str, expected: float) -> None:
    network = Network(NetworkSettings(**{kind: expected}), seed=11)
    link = network.uplink("client-0")
    for number in range(4000):
        network.transmit(link, float(number), 10)
    struck = {"loss": "lost", "duplication": "duplicated", "reordering": "reordered"}[kind]
    assert network.counts[struck] == pytest.approx(4000 * expected, rel=0.1)
    assert sum(network.counts.values()) == network.counts[struck]


def test_fates_do_not_depend_on_other_links_or_on_other_settings() -> None:
    def fates(settings: NetworkSettings, others: int) -> list[bool]:
        network = Network(settings, seed=2)
        link = network.uplink("client-0")
        lost = []
        for number in range(200):
            for other in range(others):
                network.transmit(network.uplink(f"client-{other + 1}"), float(number), 10)
            lost.append(network.transmit(link, float(number), 10) == ())
        return lost

    alone = fates(NetworkSettings(loss=0.3), 0)
    assert fates(NetworkSettings(loss=0.3), 3) == alone
    assert fates(NetworkSettings(loss=0.3, duplication=0.5, reordering=0.5, latency_jitter_s=1.0), 1) == alone


def test_links_seeds_and_directions_have_fates_of_their_own() -> None:
    def lost(network: Network, direction: str, client: str) -> tuple[bool, ...]:
        link = getattr(network, direction)(client)
        return tuple(network.transmit(link, 0.0, 1) == () for _ in range(64))

    networks = [Network(NetworkSettings(loss=0.5), seed) for seed in (1, 2)]
    seen = {lost(network, way, client) for network in networks for way in ("uplink", "downlink") for client in ("client-0", "client-1")}
    assert len(seen) == 8


@pytest.mark.parametrize("lag", range(1, 9))
def test_what_happens_to_one_message_says_nothing_about_the_next_ones(lag: int) -> None:
    network = Network(NetworkSettings(loss=0.5, duplication=0.5), seed=9)
    link = network.uplink("client-0")
    copies = [len(network.transmit(link, float(number), 1)) for number in range(4000)]
    after_twice = [copies[number + lag] for number in range(4000 - lag) if copies[number] == 2]
    assert after_twice.count(0) / len(after_twice) == pytest.approx(0.5, abs=0.06)


def test_services_are_spared_unless_the_settings_say_otherwise() -> None:
    for faults in (False, True):
        network = Network(NetworkSettings(loss=0.5, service_latency_s=0.5, service_faults=faults), seed=1)
        link = network.service_link("aggregator")
        fates = [network.transmit(link, 1.0, 10) for _ in range(50)]
        assert set(fates) == ({(), (1.5,)} if faults else {(1.5,)})


# -- groups, profiles, bottlenecks, bursts ------------------------------------------------------------


def test_a_group_takes_latency_bandwidth_and_energy_from_its_profile() -> None:
    network, group = Network(NetworkSettings(latency_s=9.0, latency_jitter_s=9.0), seed=1), FleetGroup(network="3g")
    up, down = network.uplink("client-0", group), network.downlink("client-0", group)
    fates = [network.transmit(up, 1000.0 * number, 96_000)[0] - 1000.0 * number for number in range(999)]
    assert sorted(fates)[499] == pytest.approx(1.0 + 0.15, rel=0.03)  # 768 kbit/s
    assert min(fates) > 1.0
    before = network.joules()
    network.transmit(down, 0.0, 1_000_000)
    assert network.joules() - before == pytest.approx(1_000_000 * NETWORKS["3g"].downlink_joules_per_byte)
    assert network.uplink("client-1").kind.latency_s == 9.0


def test_loss_of_profile_and_scenario_add_up_as_independent_ones() -> None:
    network = Network(NetworkSettings(loss=0.5), seed=1)
    link = network.uplink("client-0", FleetGroup(network="lora_like"))
    lost = sum(network.transmit(link, float(number), 1) == () for number in range(4000))
    assert lost / 4000 == pytest.approx(1 - 0.5 * 0.95, abs=0.03)


def test_clients_of_a_group_share_its_bottleneck_and_alike_groups_do_not() -> None:
    network = Network(NetworkSettings(latency_s=0.0, uplink_bytes_per_s=1000.0), seed=1)
    groups = [FleetGroup(shared_uplink_bytes_per_s=100.0) for _ in range(2)]
    first, second = (network.uplink(name, groups[0]) for name in ("client-0", "client-1"))
    other = network.uplink("client-2", groups[1])
    assert network.transmit(first, 0.0, 100) == pytest.approx((1.1,))
    assert network.transmit(second, 0.0, 100) == pytest.approx((2.1,))  # waits until the bottleneck is free
    assert network.transmit(other, 0.0, 100) == pytest.approx((1.1,))
    assert network.transmit(first, 5.0, 100) == pytest.approx((6.1,))
    assert network.transmit(network.downlink("client-0", groups[0]), 0.0, 100) == (0.0,)


def test_loss_comes_in_bursts_of_the_length_and_at_the_rate_of_the_chain() -> None:
    settings = NetworkSettings(burst_begin=0.02, burst_end=0.25, burst_loss=1.0)
    network = Network(settings, seed=4)
    link = network.uplink("client-0")
    lost = [network.transmit(link, float(number), 1) == () for number in range(40_000)]
    assert sum(lost) / len(lost) == pytest.approx(0.02 / 0.27, rel=0.1)
    bursts = [len(list(run)) for bad, run in groupby(lost) if bad]
    assert sum(bursts) / len(bursts) == pytest.approx(4.0, rel=0.1)
    assert network.counts["lost"] == sum(lost)


def test_bursts_leave_the_other_fates_of_a_link_as_they_were() -> None:
    def arrivals(settings: NetworkSettings) -> list[tuple[float, ...]]:
        network = Network(settings, seed=2)
        link = network.uplink("client-0")
        return [network.transmit(link, 10.0 * number, 10) for number in range(200)]

    alone = arrivals(NetworkSettings(duplication=0.3, latency_jitter_s=1.0))
    bursty = arrivals(NetworkSettings(duplication=0.3, latency_jitter_s=1.0, burst_begin=0.1))
    assert {len(fate) for fate in bursty} == {0, 1, 2}
    assert all(fate in ((), before) for fate, before in zip(bursty, alone, strict=True))


def test_a_clog_slows_and_lengthens_a_link_while_it_lasts() -> None:
    network = Network(NetworkSettings(latency_s=1.0, uplink_bytes_per_s=100.0), seed=1)
    link = network.uplink("client-0")
    assert network.transmit(link, 0.0, 100, slower=4.0, farther=3.0) == (7.0,)
    assert network.transmit(link, 10.0, 100) == (12.0,)


# -- draws --------------------------------------------------------------------------------------------


def test_draws_are_stable_over_time_and_machines() -> None:
    """Golden values: a change here changes every simulated run."""
    key = stream_key(7, "link", "client-3", "up")
    assert key == 0x227A0663CDED9F1B
    assert [uniform(key, index) for index in range(2)] == [0.7087612206556201, 0.1707430273924343]
    assert stream_key(7, "a", "bc") != stream_key(7, "ab", "c")


def test_draws_look_like_their_distributions() -> None:
    key, count = stream_key(1, "test"), 20_000
    units = [uniform(key, index) for index in range(count)]
    assert all(0 < unit < 1 for unit in units)
    assert sum(units) / count == pytest.approx(0.5, abs=0.01)
    assert sum(unit * other for unit, other in pairwise(units)) / count == pytest.approx(0.25, abs=0.01)
    assert sum(exponential(key, index, 3.0) for index in range(count)) / count == pytest.approx(3.0, rel=0.03)
    factors = sorted(log_normal(key, index, 0.5) for index in range(count))
    assert factors[count // 2] == pytest.approx(1.0, rel=0.03)
    assert factors[int(count * 0.8413)] == pytest.approx(1.6487, rel=0.03)  # e^sigma
