"""Devices: how long a job takes on whom. The simulator lets that much virtual time pass; the live host really waits for it.

Work is counted in units that a reader can check: a forward pass of the client half, a term of a log entry, a training step of
the server. What a real system would not do, or would do beside the work, takes no time: evaluation, snapshots, the services' own
following of the log, and the golden proof at joining.

A device is slower than the reference device of ``[compute]`` by one factor, the product of three: its profile's (counted operations of
a forward pass by operations per second, by ``forward_s``), its group's, and its own, drawn once from the seed. All its jobs are slower
by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hosfl_async import jobs
from hosfl_async.errors import SettingsError
from hosfl_async.simulation.draws import exponential, log_normal, pareto, stream_key, uniform
from hosfl_async.simulation.network import Link, Network
from hosfl_async.simulation.profiles import DEVICES
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, SpeedSettings

BACKWARD_FORWARDS = 2
"""The usual rule of thumb for a client that back-propagates: its backward pass costs two forward passes."""
FEEDBACK_FORWARDS = 2.2
"""A second forward pass, the outer products of the residual writers, which are 5/12 of a block's multiplications (adapters: less), and the
way down through the feed-forward branches, another 2/3 (feedback that goes past them: less)."""
DUAL_SHARE = 2 / 3
"""Of a training step's time: the backward pass costs two forwards, and the half of it that reaches weights is not needed."""


class DeviceKind:
    """What all devices of a group have in common, and how long they have computed in all."""

    __slots__ = ("busy_s", "sigma", "watts", "work")

    def __init__(self, work: Mapping[type, Callable[[Any], float]], sigma: float = 0.0, watts: float = 0.0) -> None:
        self.work, self.sigma, self.watts = work, sigma, watts
        self.busy_s = 0.0


class Device:
    """One machine: its speed, its jitter, and how many jobs it has run."""

    __slots__ = ("_key", "_kind", "_speed_factor", "jobs")

    def __init__(self, kind: DeviceKind, key: int, speed_factor: float) -> None:
        self._kind, self._key, self._speed_factor = kind, key, speed_factor
        self.jobs = 0
        """Jobs begun here so far."""

    def duration_s(self, job: Any) -> float:
        """Modelled seconds that ``job`` takes here; jobs of a kind unknown to the model take none."""
        kind = self._kind
        reference_s = kind.work.get(type(job))
        number = self.jobs
        self.jobs += 1
        if reference_s is None:
            return 0.0
        duration_s = reference_s(job) * self._speed_factor
        if kind.sigma:
            duration_s *= log_normal(self._key, number, kind.sigma)
        kind.busy_s += duration_s
        return duration_s


class Devices:
    """Makes the devices of a scenario, one per agent.

    ``forward_flops``: counted operations of one forward pass of the client half over one batch; 0 if nobody counted.
    """

    def __init__(self, compute: ComputeSettings, seed: int, forward_flops: float = 0.0) -> None:
        self._seed, self._compute, self._forward_flops = seed, compute, forward_flops
        self._client_work = _client_work(compute)
        self._service = DeviceKind(_service_work(compute))
        self._kinds: dict[FleetGroup, DeviceKind] = {}

    def client(self, name: str, group: FleetGroup) -> Device:
        """Raises ``SettingsError`` for a group with operations per second where none were counted."""
        factor = group.speed_factor * self._profile_factor(group)
        if group.speed.distribution != "fixed":
            factor *= own_factor(group.speed, stream_key(self._seed, "speed", name))
        return Device(self._kind(group), stream_key(self._seed, "device", name), factor)

    def joules(self) -> float:
        """Energy that the clients have computed with; a job cut short counts in whole."""
        return sum(kind.busy_s * kind.watts for kind in self._kinds.values())

    def _kind(self, group: FleetGroup) -> DeviceKind:
        kind = self._kinds.get(group)
        if kind is None:
            watts = group.watts or DEVICES[group.device].watts
            kind = self._kinds[group] = DeviceKind(self._client_work, group.jitter_sigma, watts)
        return kind

    def _profile_factor(self, group: FleetGroup) -> float:
        flops_per_s = flops_per_s_of(group)
        if not flops_per_s:
            return 1.0
        if not self._forward_flops or not self._compute.forward_s:
            raise SettingsError("fleet.flops_per_s", "there are no counted operations, or compute.forward_s is 0: no speed follows")
        return self._forward_flops / flops_per_s / self._compute.forward_s

    def service(self, name: str) -> Device:
        return Device(self._service, stream_key(self._seed, "device", name), 1.0)


def flops_per_s_of(group: FleetGroup) -> float:
    """The group's own figure or its profile's; 0 for the reference device."""
    return group.flops_per_s or DEVICES[group.device].flops_per_s


def memory_bytes_of(group: FleetGroup) -> float:
    """The group's own figure or its profile's; 0: no limit."""
    return group.memory_bytes or DEVICES[group.device].memory_bytes


def own_factor(speed: SpeedSettings, key: int) -> float:
    """How many times slower this one device is than its group."""
    match speed.distribution:
        case "lognormal":
            factor = log_normal(key, 0, speed.sigma)
        case "pareto":
            factor = pareto(key, 0, speed.shape)
        case "exponential":
            factor = exponential(key, 0, 1.0)
        case "list":
            factor = speed.values[int(uniform(key, 0) * len(speed.values))]
        case _:
            return 1.0
    return min(max(factor, speed.factor_min), speed.factor_max)


def forwards_of(job: jobs.Estimate) -> int:
    """Forward passes over one batch: the anchor and the client's probes, and for each step as many again."""
    batches = job.activations.shape[0] // max(1, job.labels.shape[0])
    return (1 + job.steps) * batches


def _client_work(compute: ComputeSettings) -> Mapping[type, Callable[[Any], float]]:
    return {
        jobs.Forward: lambda job: (1 + job.probes) * compute.forward_s,
        jobs.LocalSlopes: lambda job: (1 + job.probes) * compute.forward_s,
        jobs.TrainLocally: lambda job: job.steps * (1 + BACKWARD_FORWARDS) * compute.forward_s,
        jobs.Probe: lambda job: job.probes * compute.forward_s,
        jobs.BackPropagate: lambda job: BACKWARD_FORWARDS * compute.forward_s,
        jobs.FeedBack: lambda job: FEEDBACK_FORWARDS * compute.forward_s,
        jobs.Project: lambda job: compute.project_s,
        jobs.Replay: lambda job: sum(len(entry.terms) for entry in job.entries) * compute.replay_term_s,
        jobs.InstallSnapshot: lambda job: compute.replay_term_s,
    }


def _service_work(compute: ComputeSettings) -> Mapping[type, Callable[[Any], float]]:
    return {
        jobs.Backward: lambda job: job.steps * compute.backward_s,
        jobs.BackwardTogether: lambda job: job.parts[0].steps * compute.backward_s * (1 + compute.micro_batch_share * (len(job.parts) - 1)),
        jobs.Estimate: lambda job: forwards_of(job) * compute.backward_s / (1 + BACKWARD_FORWARDS),
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
            link = self._link(sender, True, lambda name: self._network.uplink(name, self._groups[name]))
        elif recipient in self._groups:
            link = self._link(recipient, False, lambda name: self._network.downlink(name, self._groups[name]))
        else:
            link = self._link(sender, True, self._network.service_link)
        return self._network.transit_s(link, payload_bytes)

    def joules(self) -> float:
        """Energy that the clients have taken until now, for computing and for their radios."""
        return self._devices.joules() + self._network.joules()

    def _link(self, agent: str, up: bool, make: Callable[[str], Link]) -> Link:
        link = self._links.get((agent, up))
        if link is None:
            link = self._links[agent, up] = make(agent)
        return link
