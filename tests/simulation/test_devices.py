"""Devices: work units, speed, jitter, and the same modelled world for the live host."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosfl_async import jobs
from hosfl_async.errors import SettingsError
from hosfl_async.messages import LogEntry, StepId, Tensor, Term
from hosfl_async.simulation.devices import DUAL_SHARE, Device, Devices, ModelledPace
from hosfl_async.simulation.network import Network
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, NetworkSettings, SpeedSettings

COMPUTE = ComputeSettings(forward_s=1.0, project_s=0.25, replay_term_s=0.125, backward_s=3.0, micro_batch_share=0.5)
STEP = StepId("client-0", 1, 1)
NOTHING = Tensor("float32", (0,), b"")
ENTRIES = tuple(LogEntry(version, (Term(STEP, 0, b""),) * 3, bytes(32)) for version in (1, 2))


def client(speed_factor: float = 1.0, sigma: float = 0.0, name: str = "client-0", seed: int = 1) -> Device:
    return Devices(COMPUTE, seed).client(name, FleetGroup(speed_factor=speed_factor, jitter_sigma=sigma))


@pytest.mark.parametrize(
    ("job", "expected_s"),
    [
        (jobs.Forward(STEP, 0), 1.0),
        (jobs.Probe(STEP, 5), 5.0),
        (jobs.Project(STEP, NOTHING), 0.25),
        (jobs.Replay(ENTRIES), 0.75),
        (jobs.InstallSnapshot(1, NOTHING, bytes(32)), 0.125),
        (jobs.Introduce(), 0.0),
    ],
)
def test_client_jobs_are_measured_in_units_of_work_and_slowed_by_the_device(job: Any, expected_s: float) -> None:
    assert client().duration_s(job) == expected_s
    assert client(speed_factor=10.0).duration_s(job) == 10 * expected_s


@pytest.mark.parametrize(
    ("job", "expected_s"),
    [
        (jobs.Backward(STEP, NOTHING, NOTHING), 3.0),
        (jobs.BackwardTogether((jobs.Backward(STEP, NOTHING, NOTHING, 1.0, 2),) * 5), 2 * 3.0 * (1 + 4 * 0.5)),
        (jobs.EvaluateDual(STEP, NOTHING, NOTHING), 3.0 * DUAL_SHARE),
        (jobs.Replay(ENTRIES), 0.0),
        (jobs.Evaluate(), 0.0),
        (jobs.TakeSnapshot(), 0.0),
        (jobs.Introduce(), 0.0),
    ],
)
def test_measurement_costs_the_services_no_modelled_time(job: Any, expected_s: float) -> None:
    assert Devices(COMPUTE, 1).service("split_server").duration_s(job) == expected_s


def test_jitter_has_median_one_and_is_drawn_per_device_and_job() -> None:
    def durations(device: Device) -> list[float]:
        return [device.duration_s(jobs.Forward(STEP, 0)) for _ in range(2001)]

    drawn = durations(client(sigma=0.3))
    assert sorted(drawn)[1000] == pytest.approx(1.0, rel=0.03)
    assert durations(client(sigma=0.3)) == drawn
    assert durations(client(sigma=0.3, name="client-1")) != drawn
    assert durations(client(sigma=0.3, seed=2)) != drawn
    assert durations(client(sigma=0.3, speed_factor=2.0)) == [2 * duration_s for duration_s in drawn]


def test_a_profile_takes_the_counted_operations_by_its_speed_and_slows_every_job_alike() -> None:
    devices = Devices(COMPUTE, 1, forward_flops=16e9)
    pi = devices.client("client-0", FleetGroup(device="raspberry_pi_4"))  # 8e9 a second
    assert pi.duration_s(jobs.Forward(STEP, 0)) == 2.0
    assert pi.duration_s(jobs.Project(STEP, NOTHING)) == 0.5
    own = devices.client("client-0", FleetGroup(device="raspberry_pi_4", flops_per_s=32e9, speed_factor=4.0))
    assert own.duration_s(jobs.Probe(STEP, 3)) == 6.0
    assert devices.client("client-0", FleetGroup()).duration_s(jobs.Forward(STEP, 0)) == 1.0


def test_a_profile_without_counted_operations_is_refused() -> None:
    with pytest.raises(SettingsError, match="no counted operations"):
        Devices(COMPUTE, 1).client("client-0", FleetGroup(device="laptop"))


@pytest.mark.parametrize(
    ("speed", "median", "ninetieth"),
    [
        (SpeedSettings(distribution="lognormal", sigma=0.5), 1.0, 1.898),
        (SpeedSettings(distribution="pareto", shape=2.0), 2**0.5, 10**0.5),
        (SpeedSettings(distribution="exponential"), 0.6931, 2.3026),
        (SpeedSettings(distribution="list", values=(1.0, 1.0, 1.0, 5.0)), 1.0, 5.0),
        (SpeedSettings(), 1.0, 1.0),
    ],
    ids=lambda value: getattr(value, "distribution", ""),
)
def test_devices_of_a_group_differ_as_the_distribution_says(speed: SpeedSettings, median: float, ninetieth: float) -> None:
    devices, group = Devices(COMPUTE, 1), FleetGroup(speed_factor=2.0, speed=speed)
    drawn = [devices.client(f"client-{number}", group).duration_s(jobs.Forward(STEP, 0)) / 2 for number in range(4001)]
    assert sorted(drawn)[2000] == pytest.approx(median, rel=0.06)
    assert sorted(drawn)[3600] == pytest.approx(ninetieth, rel=0.06)
    again = Devices(COMPUTE, 1).client("client-7", group)
    assert [again.duration_s(jobs.Forward(STEP, 0)) for _ in range(2)] == [2 * drawn[7]] * 2


@given(st.sampled_from(["lognormal", "pareto", "exponential"]), st.floats(0.1, 1.0), st.floats(1.0, 3.0), st.integers(0, 2**32))
def test_no_device_is_outside_the_bounds(distribution: Any, low: float, high: float, seed: int) -> None:
    speed = SpeedSettings(distribution=distribution, sigma=3.0, shape=0.1, factor_min=low, factor_max=high)
    assert low <= client_of(speed, seed) <= high


def client_of(speed: SpeedSettings, seed: int) -> float:
    return Devices(COMPUTE, seed).client("client-0", FleetGroup(speed=speed)).duration_s(jobs.Forward(STEP, 0))


def test_the_pace_of_the_live_host_is_that_of_the_same_devices_and_links() -> None:
    network = NetworkSettings(latency_s=0.5, uplink_bytes_per_s=100.0, downlink_bytes_per_s=1000.0, service_latency_s=0.001)
    groups = {"client-0": FleetGroup(speed_factor=10.0, jitter_sigma=0.3), "client-1": FleetGroup()}
    pace = ModelledPace(Devices(COMPUTE, 1), Network(network, 1), groups)
    twin = client(speed_factor=10.0, sigma=0.3)
    for _ in range(5):
        assert pace.duration_s("client-0", jobs.Forward(STEP, 0)) == twin.duration_s(jobs.Forward(STEP, 0))
    assert pace.duration_s("split_server", jobs.Backward(STEP, NOTHING, NOTHING)) == 3.0
    assert pace.delay_s("client-1", "aggregator", 100) == 1.5
    assert pace.delay_s("aggregator", "client-1", 100) == 0.6
    assert pace.delay_s("split_server", "aggregator", 10**6) == 0.001
