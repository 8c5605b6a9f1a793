"""Settings of the modelled world: devices, computing times, links and outages. Scenario files hold these very structs.

All times are modelled seconds. Zero means "none" or "unlimited" where a field says so, so that a scenario can switch a
thing off without a special value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen

from hosfl_async.simulation.profiles import DeviceName, NetworkName

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads these dataclasses when they stand in a scenario file."""

AbsenceKind = Literal["pause", "crash"]
"""pause: the device is suspended and its link is down; memory, job and timers resume on return. crash: memory is lost; agent
and learner are made anew and start with a higher boot number and what they had persisted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutSettings:
    """How often a device drops out by itself, and for how long."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    mean_time_between_s: Annotated[float, Ge(0)] = 0.0
    """Mean of the exponential time a device stays before it drops out. 0: it never does."""
    mean_absence_s: Annotated[float, Gt(0)] = 30.0
    """Mean of the exponential time a device is away."""
    kind: AbsenceKind = "pause"
    """pause: suspended, memory kept, link down. crash: memory lost, rejoins with a higher boot."""
    per_step: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that a device drops out when it begins a step."""
    mid_step: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that a device drops out in the middle of a step, while it computes its perturbed forwards."""

    @property
    def strikes_steps(self) -> bool:
        return self.per_step > 0 or self.mid_step > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilitySettings:
    """When a device is there at all: ``simulation/habits.py`` draws it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    rule: Literal["always", "duty_cycle", "markov", "diurnal", "trace"] = "always"
    """always. duty_cycle: ``share`` of every ``period_s``. markov: exponential times on and off. diurnal: the day's ``curve``. trace:
    intervals of a file."""
    kind: AbsenceKind = "pause"
    """What an absence by rule does to the device."""
    period_s: Annotated[float, Gt(0)] = 3600.0
    """Of a duty cycle; every device has a phase of its own."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Of a duty cycle's period in which a device is there."""
    mean_on_s: Annotated[float, Gt(0)] = 600.0
    """Mean time on; markov only."""
    mean_off_s: Annotated[float, Gt(0)] = 600.0
    """Mean time off; markov only."""
    day_s: Annotated[float, Gt(0)] = 86_400.0
    """Length of a day; a shorter one compresses the habits."""
    curve: Annotated[tuple[Annotated[float, Ge(0), Le(1)], ...], Len(24, 24)] = (
        0.75, 0.8, 0.85, 0.85, 0.8, 0.7, 0.5, 0.35, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.25, 0.25, 0.3, 0.35, 0.45, 0.55, 0.65,
    )  # fmt: skip
    """Share of the devices that are there in each hour from midnight on; diurnal only. The default: phones that charge at night."""
    trace: Annotated[str, MaxLen(4096)] = ""
    """File of intervals (``device,begin_s,end_s`` a line), from the working directory; trace only."""
    joins_after_mean_s: Annotated[float, Ge(0)] = 0.0
    """Mean of the exponential time after which a device joins. 0: all are there from the start, if their rule lets them."""
    leaves_after_mean_s: Annotated[float, Ge(0)] = 0.0
    """Mean of the exponential time after its joining at which a device leaves for ever. 0: it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """How the devices of a group differ from each other: a factor drawn once per device, times its ``speed_factor``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    distribution: Literal["fixed", "lognormal", "pareto", "exponential", "list"] = "fixed"
    """fixed: 1. lognormal: median 1. pareto: at least 1, heavy tail. exponential: mean 1. list: one of ``values``. Larger is slower."""
    sigma: Annotated[float, Ge(0), Le(3)] = 0.5
    """Of the logarithm; lognormal only."""
    shape: Annotated[float, Gt(0)] = 2.0
    """alpha of the Pareto distribution: the smaller, the heavier the tail."""
    factor_min: Annotated[float, Gt(0)] = 0.01
    """No factor is below this; an exponential one may come near zero."""
    factor_max: Annotated[float, Gt(0)] = 10_000.0
    """No factor is above this."""
    values: Annotated[tuple[Annotated[float, Gt(0)], ...], MaxLen(10_000)] = ()
    """Observed factors, each as likely as the next; list only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetGroup:
    """Some client devices of one sort. What the named profiles hold, and where it is from, is in docs/fleets.md."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    count: Annotated[int, Ge(1), Le(1_000_000)] = 1
    """How many devices. Left out where ``share`` says it."""
    share: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of ``fleet_size``, instead of a count. 0: ``count`` holds."""
    device: DeviceName = "reference"
    """Device profile. reference: the device of ``[compute]``."""
    flops_per_s: Annotated[float, Ge(0)] = 0.0
    """Sustained operations per second, against the counted operations of the client half. 0: what the profile says."""
    memory_bytes: Annotated[float, Ge(0)] = 0.0
    """What a client may need; a run whose clients need more is refused. 0: what the profile says; the reference device has no limit."""
    watts: Annotated[float, Ge(0)] = 0.0
    """Drawn beyond idling while a device computes. 0: what the profile says; the reference device draws none."""
    network: NetworkName = "scenario"
    """Network profile. scenario: the table ``[network]``."""
    shared_uplink_bytes_per_s: Annotated[float, Ge(0)] = 0.0
    """One bottleneck for all that the devices of this group send. 0: none."""
    shared_downlink_bytes_per_s: Annotated[float, Ge(0)] = 0.0
    """One bottleneck for all that is sent to the devices of this group. 0: none."""
    speed_factor: Annotated[float, Gt(0)] = 1.0
    """How many times slower than its profile; 10 is ten times slower."""
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    jitter_sigma: Annotated[float, Ge(0), Le(3)] = 0.0
    """Sigma of a log-normal factor (median 1) drawn anew for every job. 0: no jitter."""
    dropout: DropoutSettings = field(default_factory=DropoutSettings)
    availability: AvailabilitySettings = field(default_factory=AvailabilitySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSettings:
    """How long jobs take. What is measurement only (evaluation, snapshots, the services' own replay, the golden proof) takes none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    forward_s: Annotated[float, Ge(0)] = 0.1
    """One forward pass of the client half over one batch on the reference device."""
    project_s: Annotated[float, Ge(0)] = 0.002
    """The inner products of one step on the reference device."""
    replay_term_s: Annotated[float, Ge(0)] = 0.0005
    """Replaying one term of a log entry (P directions) on the reference device; installing a snapshot costs as much."""
    backward_s: Annotated[float, Ge(0)] = 0.01
    """One training step of the split server; a dual without a step takes two thirds of it."""
    micro_batch_share: Annotated[float, Ge(0), Le(1)] = 1.0
    """What each further client's activations add to a training step of the split server, in training steps. 1: batching saves no time."""
    aggregator_message_s: Annotated[float, Ge(0)] = 0.0
    """What the aggregator needs for each message it gets, one after the other. 0: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """The clients' links (one up, one down each), and the link between the two services. A group with a network profile takes its
    latency, bandwidth and energy from there, and its loss on top; duplication, reordering and bursts hold for all."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    latency_s: Annotated[float, Ge(0)] = 0.02
    """One-way latency of a client link."""
    latency_jitter_s: Annotated[float, Ge(0)] = 0.0
    """Upper bound of a uniform extra latency, drawn per message. It never reorders by itself."""
    latency_sigma: Annotated[float, Ge(0), Le(3)] = 0.0
    """Sigma of a log-normal factor (median 1) on the latency, drawn per message."""
    uplink_bytes_per_s: Annotated[float, Ge(0)] = 0.0
    """From a client. A link is busy while it transmits: messages wait for each other. 0: unlimited."""
    downlink_bytes_per_s: Annotated[float, Ge(0)] = 0.0
    """To a client. 0: unlimited."""
    loss: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that a message never arrives."""
    burst_begin: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability with each message of a link that a burst of loss begins (Gilbert-Elliott). 0: no bursts."""
    burst_end: Annotated[float, Gt(0), Le(1)] = 0.2
    """Probability with each message that a burst ends: it strikes 1 / burst_end messages on average."""
    burst_loss: Annotated[float, Ge(0), Le(1)] = 0.8
    """Probability within a burst that a message is lost."""
    duplication: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a message that arrives, arrives twice."""
    reordering: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a message is held back, so that later ones overtake it."""
    reordering_delay_s: Annotated[float, Ge(0)] = 1.0
    """Upper bound of the uniform time a message is held back, and by which a duplicate is late."""
    uplink_joules_per_byte: Annotated[float, Ge(0)] = 0.0
    """Energy of a client's radio for a byte sent."""
    downlink_joules_per_byte: Annotated[float, Ge(0)] = 0.0
    """Energy of a client's radio for a byte received."""
    service_latency_s: Annotated[float, Ge(0)] = 0.001
    """One-way latency between split server and aggregator; their bandwidth is unlimited."""
    service_faults: bool = False
    """Whether loss, duplication and reordering strike between split server and aggregator too."""
    peer_gone_after_s: Annotated[float, Ge(0)] = 30.0
    """A peer silent for so long is reported gone to split server and aggregator, as a broker's last will would. 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One planned absence of one agent, services included."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    agent: str
    """Its name: ``aggregator``, ``split_server``, ``client-3``."""
    at_s: Annotated[float, Ge(0)]
    """When it goes."""
    absence_s: Annotated[float, Gt(0)]
    """For how long."""
    kind: AbsenceKind = "crash"
    """pause: suspended, memory kept, link down. crash: memory lost, restarted with a higher boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """Bounds of a simulated run. Reaching one is an error: a healthy run ends because its agents are finished."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    events_max: Annotated[int, Ge(1)] = 100_000_000
    """Events handled before the run is broken off."""
    modelled_time_max_s: Annotated[float, Gt(0)] = 1e7
    """Modelled time at which the run is broken off."""
    clog_factor_max: Annotated[float, Ge(1), Le(1e9)] = 1000.0
    """Clogs that strike together multiply; no link is slower or longer by more than this, and every message that meets it is counted."""
    forwards_together_max: Annotated[int, Ge(1), Le(4096)] = 1
    """Forward passes of clients at one version of the client half that are computed in one call, when the first of them is due. 1: each
    alone. More is a little faster in large fleets; activations may then differ from those computed alone by 1e-6 of the largest."""
    story_events_kept: Annotated[int, Ge(0), Le(1_000_000)] = 5000
    """Latest events of the run, kept in memory to tell an agent's story when it fails. 0: none."""
