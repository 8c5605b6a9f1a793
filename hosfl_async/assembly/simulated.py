"""A scenario in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hosfl_async.assembly.building import INBOXES, Parts
from hosfl_async.assembly.folder import SUMMARY, OpenFolder, open_folder, require_free
from hosfl_async.assembly.leaving import keep_best, leave_checkpoint, leave_model
from hosfl_async.assembly.personalising import personal_figures
from hosfl_async.assembly.progress import Watch, Watcher
from hosfl_async.assembly.resuming import Stopped, interrupts_caught, reopen_folder
from hosfl_async.assembly.summing import summarise
from hosfl_async.assembly.tracked import Told, followed, require_tools
from hosfl_async.assembly.trial import LOOK_EVERY, Trial
from hosfl_async.checkpoint_store import LatestCheckpoint
from hosfl_async.checks import progress_problems
from hosfl_async.learning.learners import ClientLearner
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.outbox_store import MemoryOutbox
from hosfl_async.report import Recorder, Summary, write_summary
from hosfl_async.scenario import Scenario
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.outcome import SimulationOutcome


def build_simulation(
    scenario: Scenario,
    parts: Parts,
    recorder: Recorder,
    files: OpenFolder | None = None,
    *,
    trial: Trial | None = None,
    boots: Mapping[str, int] | None = None,
    **options: Any,
) -> Simulation:
    """All agents of the scenario in a simulation that has not run yet; ``options`` are those of ``Simulation``. ``trial`` watches it.
    ``boots``: how many lives each client has had, in a run that goes on.
    """
    if trial is not None:
        options |= _watched_by(trial, options.get("on_progress"), lambda: simulation)
    simulation = Simulation(
        seed=scenario.seed,
        compute=parts.compute,
        forward_flops=parts.forward_flops,
        network=scenario.network,
        outages=scenario.outages,
        faults=scenario.fault,
        settings=scenario.simulation,
        limits=scenario.codec,
        trace=trial.journal if trial else files.trace if files else None,
        on_record=recorder.note,
        on_job_begun=_tell_client if scenario.simulation.forwards_together_max > 1 else None,
        **options,
    )
    recorder.meter = simulation.bytes_sent
    store = trial.store if trial else files.store if files else None
    simulation.add(AGGREGATOR, make_agent=parts.aggregator, make_learner=parts.aggregator_learner, inbox=INBOXES["aggregator"], store=store)
    kept = files.checkpoints if files else LatestCheckpoint() if scenario.server.checkpoint_every_steps else None
    simulation.add(SPLIT_SERVER, make_agent=parts.server, make_learner=parts.server_learner, inbox=INBOXES["server"], store=kept)
    make: dict[str, Any] = {"make_agent": parts.client, "make_learner": parts.client_learner, "inbox": INBOXES["client"]}
    for name, group in scenario.devices():
        outbox = MemoryOutbox() if scenario.client.durable_outbox else None
        simulation.add(name, group=group, store=outbox, boots_before=(boots or {}).get(name, 0), **make)
    return simulation


def _tell_client(learner: Any, job: Any) -> None:
    if isinstance(learner, ClientLearner):
        learner.begin(job)


def _watched_by(trial: Trial, told: Callable[[float, int], None] | None, simulation: Callable[[], Simulation]) -> dict[str, Any]:
    """Options by which a trial looks at the simulation, and ``told`` still hears of the progress."""

    def look(now_s: float, events: int) -> None:
        trial.look(simulation())
        if told is not None:
            told(now_s, events)

    return {"validate": True, "on_progress": look, "progress_every_events": LOOK_EVERY}


def simulate(
    scenario: Scenario,
    *,
    folder: Path | None = None,
    control: bool = True,
    watch: Watch | None = None,
    validate: bool = False,
    traced: bool = True,
    check: bool = False,
    track: Sequence[str] = (),
    told: Told | None = None,
    stopped: Stopped | None = None,
) -> Summary:
    """Run ``scenario`` in virtual time, and its frozen-client control beside it; with ``folder``, leave a run folder there.

    ``stopped``: go on from there, in its folder; ``scenario`` is then its own. An interrupt stops a run that has a journal between two
    events, so that it can go on later, and is raised then.

    ``traced``: whether the folder has a journal and the model, which are most of its size. ``check``: hold the run to every invariant, see
    ``trial``; what is broken stands in the summary among what is unmet. ``track``: tools that follow the run, see ``tracked``; ``told``
    hears where they have it.

    Raises ``SettingsError`` for a folder that cannot be used, ``AgentError`` if an agent breaks its own rules.
    """
    require_tools(track)
    if folder and not stopped:
        require_free(folder)
    parts = Parts(scenario, shared=not check)
    parts.prepare()
    frozen = frozen_accuracy(scenario, watch) if control else None
    with ExitStack() as stack:
        files = stack.enter_context(_folder(folder, scenario, traced, stopped)) if folder else None
        recorder = Recorder(files.metrics if files else None)
        followers = stack.enter_context(followed(track, scenario, "simulation", folder, recorder, told))
        watcher = Watcher(scenario.name, recorder, scenario.aggregator.client_steps, folder, watch)
        trial = Trial(scenario, parts, store=files.store if files else None, trace=files.trace if files else None) if check else None
        simulation = build_simulation(
            scenario,
            parts,
            recorder,
            files,
            trial=trial,
            on_progress=lambda now_s, events: watcher.look(),
            progress_every_events=2000,
            validate=validate,
            boots=stopped.boots if stopped else None,
            starts_s=stopped.time_s if stopped else 0.0,
        )
        if stopped:
            recorder.meter = partial(_bytes_of_both_parts, stopped, simulation)
            recorder.go_on(stopped.evaluations, stopped.entries, stopped.time_s)
        if files and traced:
            recorder.on_best = keep_best(files.path, scenario, parts, lambda: simulation.learner(SPLIT_SERVER))
            outcome = stack.enter_context(interrupts_caught()).run(simulation)
            leave_checkpoint(files, simulation.agent(SPLIT_SERVER), simulation.learner(SPLIT_SERVER))
        else:
            outcome = simulation.run()
        watcher.look()
        if outcome.ended == "stopped":
            raise KeyboardInterrupt
        summary = summary_of(scenario, simulation, outcome, recorder, watcher.wall_s, frozen, stopped)
        broken = (
            trial.at_the_end(simulation, outcome)
            if trial
            else progress_problems(outcome.ended, outcome.finished_at_s, outcome.last_fault_s)
        )
    personal = personal_figures(scenario, parts, simulation.learner(AGGREGATOR), simulation.learner(SPLIT_SERVER))
    summary = msgspec.structs.replace(summary, unmet=(*summary.unmet, *broken), personal=personal)
    if folder and traced:
        leave_model(folder, scenario, parts, simulation.learner(AGGREGATOR), simulation.learner(SPLIT_SERVER))
    if folder:
        write_summary(summary, folder / SUMMARY)
    followers.end(summary)
    return summary


def _folder(folder: Path, scenario: Scenario, traced: bool, stopped: Stopped | None) -> AbstractContextManager[OpenFolder]:
    return reopen_folder(stopped, durable=False) if stopped else open_folder(folder, scenario, durable=False, traced=traced)


def _bytes_of_both_parts(stopped: Stopped, simulation: Simulation) -> dict[str, int]:
    return stopped.bytes_with(simulation.bytes_sent())


def summary_of(
    scenario: Scenario,
    simulation: Simulation,
    outcome: SimulationOutcome,
    recorder: Recorder,
    wall_s: float,
    control: float | None,
    stopped: Stopped | None = None,
) -> Summary:
    """What a simulation that has run comes to; ``control`` is the frozen clients' final accuracy, if it was computed."""
    aggregator: Any = simulation.agent(AGGREGATOR)
    server: Any = simulation.agent(SPLIT_SERVER)
    clients: Any = [simulation.agent(name) for name, _ in scenario.devices()]
    return summarise(
        scenario,
        recorder,
        host="simulation",
        aggregator=aggregator,
        server=server,
        clients=clients,
        agent_counts=simulation.agent_counts(),
        dropped=outcome.counts["lost"] + outcome.counts["missed"],
        messages=outcome.messages,
        bytes_by_kind=stopped.bytes_with(outcome.bytes) if stopped else outcome.bytes,
        wall_time_s=wall_s,
        control=control,
        energy_joules=simulation.joules(),
        resumed_at_steps=stopped.client_steps if stopped else None,
    )


def frozen_accuracy(scenario: Scenario, watch: Watch | None = None) -> float | None:
    """Final accuracy of the same run with clients that never move; None if the scenario is that run itself."""
    if scenario.method == "frozen_client":
        return None
    frozen = scenario.frozen_control()
    recorder = Recorder()
    watcher = Watcher(f"{scenario.name}, frozen-client control", recorder, frozen.aggregator.client_steps, None, watch)
    build_simulation(frozen, Parts(frozen), recorder, on_progress=lambda now_s, events: watcher.look(), progress_every_events=2000).run()
    return recorder.accuracy_final
