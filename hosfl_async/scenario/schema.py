"""The schema of a scenario: one struct that composes the rooms' own settings, so that nothing is declared twice.

Three things are written once and hold in several places. ``[shared]`` holds what several agents must agree on; :meth:`Scenario.agree`
copies it into their structs, and a scenario file may not repeat it there. ``method`` fixes some settings by its very meaning
(:mod:`hosfl_async.scenario.methods`). ``seed`` is the root of every random draw of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, MinLen
from pydantic import StringConstraints, TypeAdapter

from hosfl_async.agents.settings import AggregatorSettings, Directions, EdgeClientSettings, Estimator, RetrySettings, SplitServerSettings
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.codec import CodecLimits
from hosfl_async.learning.settings import (
    CutSettings,
    FirstOrderSettings,
    PersonalSettings,
    TaskSettings,
    UpdateSettings,
    ZerothOrderSettings,
)
from hosfl_async.live.settings import LiveSettings
from hosfl_async.scenario.methods import Method, is_dense
from hosfl_async.simulation.faults import Fault
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, NetworkSettings, Outage, SimulationSettings

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}

Fraction = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """What several agents must agree on: written here once, never in their own tables."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    probes: Annotated[int, Ge(0), Le(4096)] = 5
    """P: perturbed forwards per client step, and scalars in every contribution. 0 with method frozen_client only."""
    estimator: Estimator = "dual_projection"
    """What clients contribute; methods fix it. dual_projection: P scalars from perturbed forwards, with the dual. gradient: the dense
    gradient of a client that back-propagates. skip_feedback: a dense vector, too, of the dual carried down the skip connections by forward
    passes. activity_slopes: a dense vector of P forward passes that perturb units instead of weights. server_losses: P slopes of the loss,
    found by a server that only runs forward passes. local_losses: the same, found by a client that holds the whole model. local_training:
    what such a client's training changes."""
    evaluate_every_versions: Annotated[int, Ge(0)] = 0
    """Versions between two evaluations, for methods whose server takes no steps; else server.evaluate_every_steps says when. 0: none."""
    stop_at_accuracy: Fraction = 0.0
    """The run ends regularly when an evaluation on held-out data reaches it, before aggregator.client_steps are in the log. 0: never.
    The frozen control has the same rule."""
    directions: Directions = "per_step"
    """per_step: every step probes directions of its own. per_version: everybody at one version probes the same directions, as in the paper,
    and the scalars are combined over clients; an entry then costs P additions for each base version in it, not for each step."""
    digest_every_versions: Annotated[int, Ge(1)] = 50
    """Everyone digests the client half at multiples of this version, so that a split brain shows at once."""
    retry: RetrySettings = field(default_factory=RetrySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What the run is held to. Each bound names a figure of ``summary.json``; one left out is not checked. Never a wall time."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    accuracy_min: Fraction | None = None
    """Least ``accuracy_final``."""
    accuracy_control_max: Fraction | None = None
    """Greatest ``accuracy_frozen_control``: where a frozen client does as well, the run shows nothing."""
    digests_agree: bool = True
    """``digests_agree`` must be true: no digest that anyone reported differs from the aggregator's."""
    staleness_max: Count | None = None
    """Greatest ``staleness.max``, in versions."""
    staleness_mean_max: Amount | None = None
    """Greatest ``staleness.mean``, in versions."""
    staleness_p99_max: Count | None = None
    """Greatest ``staleness.p99``, in versions."""
    bytes_max: Count | None = None
    """Greatest sum of ``bytes``: all that was sent."""
    activations_bytes_max: Count | None = None
    """Greatest ``bytes.activations``."""
    labels_bytes_max: Count | None = None
    """Greatest ``bytes.labels``."""
    duals_bytes_max: Count | None = None
    """Greatest ``bytes.duals``."""
    scalars_bytes_max: Count | None = None
    """Greatest ``bytes.scalars``."""
    log_bytes_max: Count | None = None
    """Greatest ``bytes.log``."""
    control_bytes_max: Count | None = None
    """Greatest ``bytes.control``."""
    modelled_time_s_max: Amount | None = None
    """Greatest ``modelled_time_s``."""
    energy_joules_max: Amount | None = None
    """Greatest ``energy_joules`` of all clients together. Without a profile that says any, there is none to bound."""
    stale_max: Count | None = None
    """Greatest ``counts.stale``."""
    refused_max: Count | None = None
    """Greatest ``counts.refused``."""
    smashed_refused_max: Count | None = None
    """Greatest ``counts.smashed_refused``."""
    dropped_min: Count | None = None
    """Least ``counts.dropped``: shows that the faults of the scenario did strike."""
    dropped_max: Count | None = None
    """Greatest ``counts.dropped``."""
    duplicate_min: Count | None = None
    """Least ``counts.duplicate``."""
    retried_min: Count | None = None
    """Least ``counts.retried``."""
    retried_max: Count | None = None
    """Greatest ``counts.retried``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run of asynchronous hybrid-order split federated learning, complete: with the same scenario, the same numbers."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """Names the run folder and stands in every report."""
    about: Annotated[str, StringConstraints(max_length=2000)] = field(default="", compare=False)
    """What the scenario shows, in its own words, for reports; the file's first comment where this is left out."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Root of every random draw: initial parameters, directions, partition, batches, devices, links."""
    method: Method = "hosfl_async"
    """hosfl_async: commits after a few contributions, whoever they are from. hosfl_sync: the paper's method, one entry per step of the
    whole fleet or of a cohort; fixes buffer, staleness rules and steps under way. hosfl_sync_over_selected: the first of a larger
    cohort. frozen_client: the control; clients feed the server and never move.
    skip_feedback: of encoders, dense gradients by forward passes; activity_perturbation: of mlp. The rivals are described in
    docs/methods.md: sfl_first_order and sfl_first_order_sync, clients that back-propagate; mu_splitfed, several server steps for each batch
    of activations; sfl_zeroth_order, a server that only runs forward passes, too; fedbuff_first_order and decomfl, the whole model on the
    client."""
    task: TaskSettings = field(default_factory=TaskSettings)
    shared: SharedSettings = field(default_factory=SharedSettings)
    client: EdgeClientSettings = field(default_factory=EdgeClientSettings)
    server: SplitServerSettings = field(default_factory=SplitServerSettings)
    aggregator: AggregatorSettings = field(default_factory=AggregatorSettings)
    zeroth_order: ZerothOrderSettings = field(default_factory=ZerothOrderSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    first_order: FirstOrderSettings = field(default_factory=FirstOrderSettings)
    cut: CutSettings = field(default_factory=CutSettings)
    personal: PersonalSettings = field(default_factory=PersonalSettings)
    fleet: Annotated[tuple[FleetGroup, ...], MinLen(1)]
    """Groups of client devices; the clients are numbered through all groups from client-1 on."""
    fleet_size: Annotated[int, Ge(0), Le(1_000_000)] = 0
    """Devices in all, of which the groups take their ``share``. 0: every group has a count."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    outages: tuple[Outage, ...] = ()
    """Planned absences of single agents."""
    fault: tuple[Fault, ...] = ()
    """The fault plan: what goes wrong on purpose."""
    simulation: SimulationSettings = field(default_factory=SimulationSettings)
    codec: CodecLimits = field(default_factory=CodecLimits)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    expect: Expectations = field(default_factory=Expectations)

    @property
    def clients(self) -> int:
        """Number of clients."""
        return sum(group.count for group in self.fleet)

    def devices(self) -> Iterator[tuple[str, FleetGroup]]:
        """Every client's name and the group it belongs to: ``client-1`` is the first of the first group."""
        number = 0
        for group in self.fleet:
            for _ in range(group.count):
                number += 1
                yield f"client-{number}", group

    def agree(self) -> Scenario:
        """The same scenario with ``shared`` copied into every struct that has a field of that name.

        Where places are limited, clients ask for one.
        """
        agents = {
            table: replace(getattr(self, table), **{key: getattr(self.shared, key) for key in keys}) for table, keys in SHARED.items()
        }
        limited = replace(self, **agents)
        asks = self.client.asks_before_step or self.aggregator.concurrency > 0 or self.aggregator.cohort > 0
        return replace(limited, client=replace(limited.client, asks_before_step=asks))

    def frozen_control(self) -> Scenario:
        """The same run with clients that never move: what the split server reaches alone. Every report shows it beside the accuracy.

        Its entries are empty, so where the method sends halves whole, the control replays its log as a scalar method does.
        """
        shared = replace(self.shared, probes=0, estimator="dual_projection", evaluate_every_versions=0)
        task = replace(self.task, model=replace(self.task.model, cut="layer"))
        aggregator = self.aggregator
        if is_dense(self.method):
            plain = AggregatorSettings()
            aggregator = replace(
                aggregator,
                snapshot_every_versions=plain.snapshot_every_versions,
                snapshot_behind_versions=plain.snapshot_behind_versions,
            )
        return replace(self, method="frozen_client", task=task, shared=shared, aggregator=aggregator, update=UpdateSettings()).agree()


def _shared_keys(settings: type) -> tuple[str, ...]:
    own = {each.name for each in fields(settings)}
    return tuple(each.name for each in fields(SharedSettings) if each.name in own)


SHARED = {
    "client": _shared_keys(EdgeClientSettings),
    "server": _shared_keys(SplitServerSettings),
    "aggregator": _shared_keys(AggregatorSettings),
    "zeroth_order": _shared_keys(ZerothOrderSettings),
}
"""Table -> its keys that stand in ``[shared]`` instead."""


OF_FILES: dict[str, Any] = {
    "extends": {"type": "string", "description": "Scenario file that this one builds on; the path is seen from this file."},
    "sweep": {
        "type": "object",
        "description": "Many runs: dotted keys of settings, each with a list of values; seeds, a number or a list. For `hosfl sweep`.",
    },
}
"""Keys of a file that are not settings of a run: they are resolved when it is read."""


@cache
def adapter() -> TypeAdapter[Scenario]:
    """Validates a scenario; built once, at its first use."""
    return TypeAdapter(Scenario)


@cache
def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a scenario file, with every field's text. The keys of ``[shared]`` stand there only."""
    document = adapter().json_schema()
    for table, keys in SHARED.items():
        definition = document["$defs"][type_name(document["properties"][table])]
        for key in keys:
            del definition["properties"][key]
    document["properties"] |= OF_FILES
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def type_name(node: dict[str, Any]) -> str:
    """Name of the definition that a schema node refers to, or the empty string."""
    return str(node.get("$ref", "")).removeprefix("#/$defs/")
