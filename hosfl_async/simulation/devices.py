"""Devices: how long a job takes on whom. The simulator lets that much virtual time pass; the live host really waits for it.

Work is counted in units that a reader can check: a forward pass of the client half, a term of a log entry, a training step of
the server. What a real system would not do, or would do beside the work, takes no time: evaluation, snapshots, the services' own
following of the log, and the golden proof at joining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hosfl_async import jobs
from hosfl_async.simulation.draws import log_normal, stream_key
from hosfl_async.simulation.network import Link, Network
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup

DUAL_SHARE = 2 / 3
"""Of a training step's time: the backward pass costs two forwards, and the half of it that reaches weights is not needed."""


class Device:
    """One machine: its speed, its jitter, and how many jobs it has run."""

    __slots__ = ("_jobs", "_key", "_sigma", "_speed_factor", "_work")

    def __init__(self, work: Mapping[type, Callable[[Any], float]], key: int, speed_factor: float, sigma: float) -> None:
        self._work, self._key, self._speed_factor, self._sigma = work, key, speed_factor, sigma
        self._jobs = 0

    def duration_s(self, job: Any) -> float:
        """Modelled seconds that ``job`` takes here; jobs of a kind unknown to the model take none."""
        reference_s = self._work.get(type(job))
        number = self._jobs
        self._jobs += 1
        if reference_s is None:
            return 0.0
        duration_s = reference_s(job) * self._speed_factor
        return duration_s * log_normal(self._key, number, self._sigma) if self._sigma else duration_s


class Devices:
    """Makes the devices of a scenario, one per agent."""

    def __init__(self, compute: ComputeSettings, seed: int) -> None:
        self._seed = seed
        self._client_work = _client_work(compute)
        self._service_work = _service_work(compute)

    def client(self, name: str, group: FleetGroup) -> Device:
        return Device(self._client_work, stream_key(self._seed, "device", name), group.speed_factor, group.jitter_sigma)

    def service(self, name: str) -> Device:
        return Device(self._service_work, stream_key(self._seed, "device", name), 1.0, 0.0)


def _client_work(compute: ComputeSettings) -> Mapping[type, Callable[[Any], float]]:
    return {
        jobs.Forward: lambda job: compute.forward_s,
        jobs.Probe: lambda job: job.probes * compute.forward_s,
        jobs.Project: lambda job: compute.project_s,
        jobs.Replay: lambda job: sum(len(entry.terms) for entry in job.entries) * compute.replay_term_s,
        jobs.InstallSnapshot: lambda job: compute.replay_term_s,
    }


def _service_work(compute: ComputeSettings) -> Mapping[type, Callable[[Any], float]]:
    return {
        jobs.Backward: lambda job: compute.backward_s,
        jobs.EvaluateDual: lambda job: compute.backward_s * DUAL_SHARE,
    }


class ModelledPace:
    """The modelled world for the live host: asks by name, waits itself. The same devices and links as in the simulator."""

    def __init__(self, devices: Devices, network: Network, groups: Mapping[str, FleetGroup]) -> None:
        """``groups`` names every client; all other agents are services."""
        self._devices, self._network, self._groups = devices, network, groups
        self._machines: dict[str, Device] = {}
        self._links: dict[tuple[str, bool], Link] = {}

    def duration_s(self, agent: str, job: Any) -> float:
        """Modelled seconds that ``job`` takes on the machine of ``agent``."""
        machine = self._machines.get(agent)
        if machine is None:
            group = self._groups.get(agent)
            machine = self._devices.service(agent) if group is None else self._devices.client(agent, group)
            self._machines[agent] = machine
        return machine.duration_s(job)

    def delay_s(self, sender: str, recipient: str, payload_bytes: int) -> float:
        """Modelled seconds that a lone message of this size travels from one agent to another."""
        if sender in self._groups:
            link = self._link(sender, True, self._network.uplink)
        elif recipient in self._groups:
            link = self._link(recipient, False, self._network.downlink)
        else:
            link = self._link(sender, True, self._network.service_link)
        return self._network.transit_s(link, payload_bytes)

    def _link(self, agent: str, up: bool, make: Callable[[str], Link]) -> Link:
        link = self._links.get((agent, up))
        if link is None:
            link = self._links[agent, up] = make(agent)
        return link
