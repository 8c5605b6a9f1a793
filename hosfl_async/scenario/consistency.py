"""Settings that are each allowed but cannot stand together. Every rule here spares a run that would hang or show nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import entry_points

from hosfl_async.agents.device_share import batches_of_one
from hosfl_async.agents.settings import ALONE, DENSE
from hosfl_async.errors import SettingsError
from hosfl_async.learning.plugins import DATA, MODELS, is_path
from hosfl_async.learning.settings import DATA_NAMES, DECODERS, ENCODERS, FED_BACK, FED_BACK_CAUSAL, MODEL_NAMES, ModelSettings
from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER
from hosfl_async.scenario.fleets import fleet_contradictions
from hosfl_async.scenario.methods import METHODS
from hosfl_async.scenario.problems import Source
from hosfl_async.scenario.schema import Scenario

_CLIENT = re.compile(r"client-([1-9][0-9]{0,17})")


def contradictions(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    """One problem for each rule that the scenario breaks."""
    yield from _names(scenario, source)
    yield from _without_effect(scenario, source)
    yield from _probes(scenario, source)
    yield from _target(scenario, source)
    yield from _decline(scenario, source)
    yield from _buffer(scenario, source)
    yield from _micro_batches(scenario, source)
    yield from _held(scenario, source)
    yield from _shares(scenario, source)
    yield from _places(scenario, source)
    yield from _directions(scenario, source)
    yield from _feedback(scenario, source)
    yield from _matrices(scenario, source)
    yield from _personal(scenario, source)
    yield from _bounds(scenario, source)
    yield from _outages(scenario, source)
    yield from _faults(scenario, source)
    yield from fleet_contradictions(scenario, source)


def _names(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    """Names that nothing answers to; those of functions and files are tried when the run begins."""
    for path, name, known, group in (
        (("task", "model", "name"), scenario.task.model.name, MODEL_NAMES, MODELS),
        (("task", "data"), scenario.task.data, DATA_NAMES, DATA),
    ):
        if name in known or ":" in name or (group == DATA and is_path(name)):
            continue
        installed = [point.name for point in entry_points(group=group)]
        if name not in installed:
            expected = f"{', '.join((*known, *installed))}, or module:function{', or ./FOLDER' * (group == DATA)}"
            yield source.problem(path, "unknown name", expected=expected, found=name)


def _without_effect(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    """Settings that say where, or how, and that this model does not read."""
    model = scenario.task.model
    own = model.name not in MODEL_NAMES
    rest = () if own else ("cut_after",) if model.name == "transformers" else ("cut_after", "folder")
    for name in ("cut_block", "trainable", "server_trainable", "folder") if own else rest:
        found, default = getattr(model, name), getattr(ModelSettings(), name)
        if found != default:
            mend = "cut_after says where your own model is cut, and requires_grad what is learnt" if own else ""
            expected = f"{default or 'nothing'}"
            yield source.problem(("task", "model", name), f"{model.name} does not read it", expected=expected, found=f"{found}", mend=mend)


def _probes(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    if scenario.shared.probes == 0 and scenario.method != "frozen_client":
        yield source.problem(
            ("shared", "probes"),
            f"without probes the clients of {scenario.method} never move",
            expected="at least 1",
            found="0",
            mend='method = "frozen_client" is the control',
        )


def _target(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    if scenario.shared.stop_at_accuracy and not (scenario.server.evaluate_every_steps or scenario.shared.evaluate_every_versions):
        yield source.problem(
            ("shared", "stop_at_accuracy"),
            "nothing is evaluated before the end, so the target is never seen",
            expected="evaluations at intervals",
            found="server.evaluate_every_steps and shared.evaluate_every_versions of 0",
        )


def _decline(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    share = scenario.aggregator.learning_rate_final_share
    if share != 1 and scenario.update.rule == "adamw":
        yield source.problem(
            ("aggregator", "learning_rate_final_share"),
            "under update.rule adamw an entry's size, and with it a declining learning rate, is normalised away",
            expected="1",
            found=f"{share:g}",
            mend="update.decay_versions",
        )
    if scenario.update.decay_versions and scenario.update.rule != "adamw":
        yield source.problem(
            ("update", "decay_versions"),
            f"under update.rule {scenario.update.rule} the learning rate is in the entries, and does not decline when they are replayed",
            expected="0",
            found=str(scenario.update.decay_versions),
            mend="aggregator.learning_rate_final_share",
        )


def _buffer(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    wanted, steps = scenario.aggregator.buffer_contributions, scenario.client.steps_unanswered_max
    if wanted > scenario.clients * steps:
        yield source.problem(
            ("aggregator", "buffer_contributions"),
            "the buffer can never fill: every entry would wait for the deadline",
            expected=f"at most {scenario.clients * steps} (clients times client.steps_unanswered_max)",
            found=str(wanted),
        )
    slowest_s = max(_step_s(scenario, group.speed_factor) for group in scenario.fleet)
    if METHODS[scenario.method].synchronous and scenario.aggregator.buffer_deadline_s <= slowest_s:
        yield source.problem(
            ("aggregator", "buffer_deadline_s"),
            "the slowest client misses the deadline, so the run is not synchronous",
            expected=f"above {slowest_s:.4g} s, the modelled step of the slowest client",
            found=f"{scenario.aggregator.buffer_deadline_s:g}",
        )


def _held(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    clipping = scenario.aggregator.clipping
    if clipping.rule == "median" and clipping.held_devices > scenario.clients:
        yield source.problem(
            ("aggregator", "clipping", "held_devices"),
            "so many devices are never heard: nothing would ever count",
            expected=f"at most {scenario.clients} (clients)",
            found=f"{clipping.held_devices}",
        )


def _shares(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    server, clients = scenario.server, scenario.clients
    if batches_of_one(server.device_share_max, server.device_share_window) * clients < server.device_share_window:
        yield source.problem(
            ("server", "device_share_max"),
            "all devices together may not fill the window: the server half would stop learning",
            expected=f"at least 1/{clients} (clients)",
            found=f"{server.device_share_max:g} of {server.device_share_window}",
        )


def _micro_batches(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    server = scenario.server
    if server.micro_batch_max > server.queue_max:
        yield source.problem(
            ("server", "micro_batch_max"),
            "the queue never holds so many",
            expected=f"at most server.queue_max, {server.queue_max}",
            found=str(server.micro_batch_max),
        )
    elif server.micro_batch_wait_s and server.micro_batch_max > scenario.clients:
        yield source.problem(
            ("server", "micro_batch_max"),
            "a client has one step at the cut at a time, so every micro-batch would wait in vain",
            expected=f"at most {scenario.clients} (clients)",
            found=str(server.micro_batch_max),
        )


def _directions(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    shared, location = scenario.shared, scenario.aggregator.location
    if shared.directions == "per_version" and shared.estimator in DENSE:
        yield source.problem(("shared", "directions"), f"{scenario.method} has no directions", expected="per_step", found="per_version")
    elif location != "mean" and shared.directions != "per_version":
        yield source.problem(
            ("aggregator", "location"),
            "every step has directions of its own, so there is nothing to take it of",
            expected="mean",
            found=location,
            mend='shared.directions = "per_version"',
        )
    trust = scenario.aggregator.trust
    if trust.rule != "none" and shared.directions != "per_version":
        yield source.problem(
            ("aggregator", "trust", "rule"),
            "every step has directions of its own, so no two clients can be compared",
            expected="none",
            found=trust.rule,
            mend='shared.directions = "per_version"',
        )


def _feedback(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    model = scenario.task.model
    if scenario.shared.estimator == "activity_slopes" and model.name != "mlp":
        problem = "activity perturbation needs a chain of fully connected layers"
        yield source.problem(("task", "model", "name"), problem, expected="mlp", found=model.name)
    if scenario.shared.estimator != "skip_feedback":
        return
    causal = model.name in DECODERS and model.name != "transformers"  # what its folder holds is seen when it is built
    reached = FED_BACK_CAUSAL if causal else FED_BACK
    if model.name not in (*ENCODERS, *DECODERS):
        expected = " or ".join((*ENCODERS, *DECODERS))
        yield source.problem(("task", "model", "name"), "skip feedback needs skip connections", expected=expected, found=model.name)
    elif scenario.zeroth_order.feedback == "gated" and (causal or model.client_matrices != "float32"):
        of_decoders = "gated feedback knows the feed-forward layers of encoders only"
        of_int8 = f"gated feedback multiplies by transposed matrices, which a half in {model.client_matrices} cannot"
        problem = of_decoders if causal else of_int8
        yield source.problem(("zeroth_order", "feedback"), problem, expected="skip", found="gated")
    elif model.trainable not in reached:
        yield source.problem(
            ("task", "model", "trainable"),
            "skip feedback reaches residual writers only",
            expected=" or ".join(reached),
            found=model.trainable,
        )


def _matrices(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    model, estimator = scenario.task.model, scenario.shared.estimator
    if model.client_matrices == "float32":
        return
    path = ("task", "model", "client_matrices")
    if model.name not in (*ENCODERS, *DECODERS):
        yield source.problem(path, f"{model.name} has no frozen matrices", expected="float32", found=model.client_matrices)
    elif model.client_matrices == "int8" and estimator in DENSE and estimator != "skip_feedback":
        problem = f"{scenario.method} goes back through the client half, and matrices in int8 have no backward pass"
        mend = 'method = "hosfl_async", or skip_feedback'
        yield source.problem(path, problem, expected="float32", found=model.client_matrices, mend=mend)


def _personal(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    if not scenario.personal.steps:
        return
    if scenario.shared.estimator in {"server_losses", *ALONE}:
        found, problem = str(scenario.personal.steps), f"{scenario.method} has no dual to tune a client's own copy by"
        yield source.problem(("personal", "steps"), problem, expected="0", found=found)
    elif scenario.update.rule != "sgd":
        problem = "a client's own copy takes plain steps, without the log's moments"
        yield source.problem(("update", "rule"), problem, expected="sgd", found=scenario.update.rule)


def _places(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    aggregator, over_selected = scenario.aggregator, METHODS[scenario.method].over_selected
    if over_selected and not (aggregator.cohort and aggregator.cohort_extra):
        key = "cohort_extra" if aggregator.cohort else "cohort"
        yield source.problem(("aggregator", key), f"{scenario.method} grants a cohort and some more", expected="at least 1", found="0")
    elif aggregator.cohort and aggregator.cohort_extra and METHODS[scenario.method].synchronous and not over_selected:
        yield source.problem(
            ("aggregator", "cohort_extra"),
            f"{scenario.method} waits for everybody it grants",
            expected="0",
            found=str(aggregator.cohort_extra),
            mend='method = "hosfl_sync_over_selected"',
        )
    if not aggregator.cohort:
        if aggregator.cohort_extra and not over_selected:
            yield source.problem(("aggregator", "cohort_extra"), "beyond which cohort?", mend="set aggregator.cohort too")
        return
    if aggregator.concurrency:
        yield source.problem(
            ("aggregator", "concurrency"), "a cohort limits the steps in flight already", expected="0", found=str(aggregator.concurrency)
        )
    if aggregator.selection == "fastest_first":
        yield source.problem(
            ("aggregator", "selection"),
            "a cohort is chosen among those who wait, and the fastest have just been served",
            expected="random or balanced",
            found="fastest_first",
        )
    granted = aggregator.cohort + aggregator.cohort_extra
    if not aggregator.buffer_contributions <= granted <= scenario.clients:
        yield source.problem(
            ("aggregator", "cohort"),
            "the clients granted for one version, aggregator.cohort_extra included, must fill the buffer and must exist",
            expected=f"from {aggregator.buffer_contributions} (aggregator.buffer_contributions) to {scenario.clients} (clients) in all",
            found=str(granted),
        )


def _step_s(scenario: Scenario, speed_factor: float) -> float:
    """Modelled seconds of one client step at median speed, the server serving the whole fleet first."""
    compute, network = scenario.compute, scenario.network
    device_s = (scenario.shared.probes + 1) * compute.forward_s + compute.project_s
    return device_s * speed_factor + 3 * network.latency_s + scenario.clients * compute.backward_s


def _bounds(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    if scenario.clients > scenario.aggregator.clients_max:
        yield source.problem(
            ("aggregator", "clients_max"),
            "smaller than the fleet",
            expected=f"at least {scenario.clients}",
            found=str(scenario.aggregator.clients_max),
        )
    codec = scenario.codec
    together = min(codec.partial_bytes_per_sender_max, codec.partial_bytes_max, codec.fragments_max * codec.frame_bytes_max)
    if codec.message_bytes_max > together:
        yield source.problem(
            ("codec", "message_bytes_max"),
            "the longest message could never be put together from its fragments",
            expected=f"at most {together} (codec.partial_bytes_per_sender_max, partial_bytes_max, fragments_max times frame_bytes_max)",
            found=str(codec.message_bytes_max),
        )
    if scenario.broker.payload_bytes_max < scenario.codec.frame_bytes_max:
        yield source.problem(
            ("broker", "payload_bytes_max"),
            "a full frame would not pass",
            expected=f"at least codec.frame_bytes_max, {scenario.codec.frame_bytes_max}",
            found=str(scenario.broker.payload_bytes_max),
        )
    retry = scenario.shared.retry
    if retry.max_s < retry.first_s:
        yield source.problem(
            ("shared", "retry", "max_s"), "smaller than first_s", expected=f"at least {retry.first_s:g}", found=f"{retry.max_s:g}"
        )


def _unknown_agent(scenario: Scenario, name: str) -> bool:
    client = _CLIENT.fullmatch(name)
    return name not in (AGGREGATOR, SPLIT_SERVER) and not (client and int(client[1]) <= scenario.clients)


def _faults(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    for index, fault in enumerate(scenario.fault):
        for name in fault.agents:
            if name != CLIENTS and _unknown_agent(scenario, name):
                expected = f"{CLIENTS}, {AGGREGATOR}, {SPLIT_SERVER}, or client-1 to client-{scenario.clients}"
                yield source.problem(("fault", index, "agents"), "no such agent", expected=expected, found=name)
        if not fault.agents:
            yield source.problem(("fault", index, "agents"), "it strikes nobody", expected="at least one name")
        if not fault.for_s and fault.kind != "byzantine":
            yield source.problem(("fault", index, "for_s"), "after the last fault there must be a run", expected="above 0", found="0")
        if fault.kind == "clog" and fault.bandwidth_factor == fault.latency_factor == 1:
            problem = "a clog that slows nothing"
            yield source.problem(("fault", index), problem, expected="bandwidth_factor or latency_factor above 1", found="1 and 1")
        if fault.kind == "clock_skew" and fault.clock_rate == 1 and not fault.clock_ahead_s:
            problem = "a clock that is right"
            yield source.problem(("fault", index), problem, expected="clock_rate other than 1, or clock_ahead_s above 0", found="1 and 0")
        if fault.kind == "byzantine" and (services := {AGGREGATOR, SPLIT_SERVER} & {*fault.agents}):
            problem = "only clients lie: they contribute"
            yield source.problem(("fault", index, "agents"), problem, expected=f"{CLIENTS} or names of clients", found=min(services))
        if fault.mean_between_s and fault.until_s <= fault.at_s:
            yield source.problem(
                ("fault", index, "until_s"), "it never strikes", expected=f"above at_s, {fault.at_s:g}", found=f"{fault.until_s:g}"
            )


def _outages(scenario: Scenario, source: Source) -> Iterator[SettingsError]:
    for index, outage in enumerate(scenario.outages):
        if _unknown_agent(scenario, outage.agent):
            yield source.problem(
                ("outages", index, "agent"),
                "no such agent",
                expected=f"{AGGREGATOR}, {SPLIT_SERVER}, or client-1 to client-{scenario.clients}",
                found=outage.agent,
            )
