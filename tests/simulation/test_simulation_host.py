"""The simulation host keeps a host's duties: order, time, jobs, timers, effects, bounds, endings."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_agents import PERFECT, Scripted, add_client, add_service, answer, ask, at_start, forward, met, silent, world

from hosfl_async.agent import Effect, Event, JobDone, JobFailed, Persist, Received, Record, RunJob, Send, SetTimer, Started, TimerFired
from hosfl_async.codec import CodecLimits, encode
from hosfl_async.errors import AgentError, LearnerError, SettingsError
from hosfl_async.jobs import Probe
from hosfl_async.messages import AGGREGATOR, CLIENTS, ProjectedGradients, StepId
from hosfl_async.simulation.host import Simulation
from hosfl_async.simulation.settings import ComputeSettings, FleetGroup, NetworkSettings, SimulationSettings
from hosfl_async.trace import TraceWriter, read_trace


def events_of(simulation: Any, name: str, kind: type) -> list[Any]:
    return [event for _, event in met(simulation, name) if isinstance(event, kind)]


# -- order and time -----------------------------------------------------------------------------------


def test_agents_start_in_the_order_in_which_they_were_added() -> None:
    order: list[str] = []

    def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
        order.append(agent.name)
        return []

    simulation = world()
    for name in ("client-2", "client-0", "client-1"):
        add_client(simulation, name, react)
    simulation.run()
    assert order == ["client-2", "client-0", "client-1"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 5)), max_size=12))
def test_timers_fire_once_in_order_of_time_then_of_setting_and_only_the_latest_of_a_name(settings: list[tuple[str, int | None]]) -> None:
    simulation = world()
    add_client(simulation, "client-0", at_start(*[SetTimer(name, delay) for name, delay in settings]))
    outcome = simulation.run()

    latest: dict[str, tuple[int, int]] = {}
    for serial, (name, delay) in enumerate(settings):
        latest.pop(name, None)
        if delay is not None:
            latest[name] = (delay, serial)
    expected = [(float(delay), TimerFired(name)) for name, (delay, _) in sorted(latest.items(), key=lambda item: item[1])]
    assert met(simulation, "client-0")[1:] == expected
    assert outcome.events == 1 + len(expected)
    assert outcome.modelled_time_s == (expected[-1][0] if expected else 0.0)


def test_a_timer_may_be_set_again_when_it_fires() -> None:
    def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
        return [SetTimer("tick", 1.0)] if now < 3 else []

    simulation = world()
    add_client(simulation, "client-0", react)
    simulation.run()
    assert [now for now, _ in met(simulation, "client-0")] == [0.0, 1.0, 2.0, 3.0]


def test_many_cancelled_timers_leave_the_others_untouched() -> None:
    def react(agent: Scripted, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Started):
            return [SetTimer("kept", 5.5), *[SetTimer("replaced", float(delay)) for delay in range(10_000, 0, -1)]]
        return []

    simulation = world()
    add_client(simulation, "client-0", react)
    outcome = simulation.run()
    assert met(simulation, "client-0")[1:] == [(1.0, TimerFired("replaced")), (5.5, TimerFired("kept"))]
    assert outcome.events == 3


def test_messages_sent_at_one_instant_arrive_in_the_order_of_sending() -> None:
    simulation = world()
    add_service(simulation)
    for client in range(3):
        add_client(simulation, f"client-{client}", at_start(*[Send(AGGREGATOR, ask(10 * client + number)) for number in range(3)]))
    simulation.run()
    heard = [event.message.from_version for event in events_of(simulation, AGGREGATOR, Received)]
    assert heard == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_effects_are_obeyed_in_order_so_a_record_is_kept_before_the_message_leaves(tmp_path: Any) -> None:
    path = tmp_path / "trace"
    with TraceWriter(path) as trace:
        simulation = world(trace=trace)
        add_service(simulation, at_start(Persist("first"), Send("client-0", answer(1)), Persist("second")))
        add_client(simulation, "client-0")
        simulation.run()
    happened = [(record.what, record.kind) for record in read_trace(path) if record.agent == AGGREGATOR]
    assert happened == [("started", ""), ("persisted", "str"), ("sent", "HeadAnnounced"), ("persisted", "str")]


# -- jobs ---------------------------------------------------------------------------------------------


def test_a_job_is_computed_at_its_completion_and_sees_what_happened_meanwhile() -> None:
    """The classic bug of simulators: computing when the job starts, before what happens first in modelled time."""
    cell = {"value": "old"}

    def write(job: Any) -> str:
        cell["value"] = "new"
        return "written"

    simulation = world(forward_s=1.0)
    add_client(simulation, "slow", at_start(RunJob(forward())), group=FleetGroup(speed_factor=10), compute=lambda job: cell["value"])
    add_client(simulation, "fast", at_start(RunJob(forward())), compute=write)
    simulation.run()
    assert met(simulation, "slow")[-1] == (10.0, JobDone(forward(), "new"))
    assert met(simulation, "fast")[-1] == (1.0, JobDone(forward(), "written"))


def test_a_failed_job_is_an_event() -> None:
    def refuse(job: Any) -> Any:
        raise LearnerError("wrong version")

    simulation = world()
    add_client(simulation, "client-0", at_start(RunJob(forward())), compute=refuse)
    outcome = simulation.run()
    assert met(simulation, "client-0")[-1] == (1.0, JobFailed(forward(), "wrong version"))
    assert (outcome.counts["jobs_started"], outcome.counts["jobs_done"], outcome.counts["jobs_failed"]) == (1, 0, 1)


def test_a_second_job_in_flight_breaks_the_contract() -> None:
    simulation = world(seed=77)
    add_client(simulation, "client-0", at_start(RunJob(forward()), RunJob(Probe(StepId("client-0", 1, 1), 2))))
    with pytest.raises(AgentError, match=r"client-0 .*seed 77.*asks for Probe while Forward is in flight"):
        simulation.run()


# -- messages -----------------------------------------------------------------------------------------


def test_a_message_to_all_clients_reaches_each_of_them_once() -> None:
    simulation = world()
    for number in range(4):
        add_client(simulation, f"client-{number}")
    add_service(simulation, at_start(Send(CLIENTS, answer(7))))
    outcome = simulation.run()
    for number in range(4):
        assert events_of(simulation, f"client-{number}", Received) == [Received(AGGREGATOR, answer(7))]
    assert outcome.messages == {"HeadAnnounced": 4}


def test_a_client_that_speaks_to_all_clients_does_not_hear_itself() -> None:
    simulation = world()
    add_client(simulation, "client-1")
    add_client(simulation, "client-0", at_start(Send(CLIENTS, answer(1))))
    assert simulation.run().messages == {"HeadAnnounced": 1}
    assert events_of(simulation, "client-1", Received) == [Received("client-0", answer(1))]


def test_what_the_codec_refuses_is_counted_and_nobody_hears_of_it() -> None:
    not_a_number = ProjectedGradients(StepId("client-0", 1, 1), 0, (nan,))
    foreign = answer(3)  # no message for an aggregator
    simulation = world()
    add_client(simulation, "client-0", at_start(Send(AGGREGATOR, not_a_number), Send(AGGREGATOR, foreign), Send(AGGREGATOR, ask(1))))
    add_service(simulation)
    outcome = simulation.run()
    assert events_of(simulation, AGGREGATOR, Received) == [Received("client-0", ask(1))]
    assert (outcome.counts["sent"], outcome.counts["refused"], outcome.counts["delivered"]) == (3, 2, 1)


def test_sending_to_nobody_breaks_the_contract() -> None:
    simulation = world()
    add_client(simulation, "client-0", at_start(Send("nobody", ask(1))))
    with pytest.raises(AgentError, match="nobody is called so"):
        simulation.run()


def test_bytes_by_kind_sum_to_what_was_sent(tmp_path: Any) -> None:
    path = tmp_path / "trace"
    gradients = ProjectedGradients(StepId("client-0", 1, 1), 0, (0.5, 0.25))
    with TraceWriter(path) as trace:
        simulation = world(trace=trace)
        add_client(simulation, "client-0", at_start(Send(AGGREGATOR, gradients), Send(AGGREGATOR, ask(1))))
        add_service(simulation)
        outcome = simulation.run()
    sizes = {record.kind: record.bytes for record in read_trace(path) if record.what == "sent"}
    assert outcome.bytes == {"scalars": sizes["ProjectedGradients"], "control": sizes["CatchUp"]}


def test_an_aggregator_that_takes_its_time_hears_one_message_after_the_other() -> None:
    simulation = Simulation(seed=1, network=PERFECT, compute=ComputeSettings(aggregator_message_s=0.5))
    for number in range(3):
        add_client(simulation, f"client-{number}", at_start(Send(AGGREGATOR, ask(number))))
    add_service(simulation)
    simulation.run()
    heard = [(now, event.message.from_version) for now, event in met(simulation, AGGREGATOR) if isinstance(event, Received)]
    assert heard == [(0.5, 0), (1.0, 1), (1.5, 2)]


def test_energy_is_that_of_computing_and_of_the_radio() -> None:
    network = NetworkSettings(uplink_joules_per_byte=1e-3, downlink_joules_per_byte=1e-2)
    simulation = world(network=network, forward_s=2.0)
    start = at_start(RunJob(forward()), Send(AGGREGATOR, ask(1)))
    add_client(simulation, "client-0", start, group=FleetGroup(watts=5.0, speed_factor=3.0))
    add_client(simulation, "client-1", at_start(RunJob(forward())))
    add_service(simulation, at_start(Send("client-1", answer(1))))
    outcome = simulation.run()
    assert outcome.bytes.keys() == {"control"}
    up = len(encode("client-0", ask(1)))
    down = len(encode(AGGREGATOR, answer(1)))
    assert simulation.joules() == pytest.approx(5.0 * 6.0 + up * 1e-3 + down * 1e-2)


# -- records, progress, validation --------------------------------------------------------------------


def test_records_reach_the_callback_with_their_time_and_agent() -> None:
    noted: list[Any] = []
    simulation = world(on_record=lambda time_s, agent, record: noted.append((time_s, agent, record)))
    record = Record("commit", {"version": 1.0})
    add_client(simulation, "client-0", lambda agent, event, now: [record] if now else [SetTimer("later", 2.0)])
    simulation.run()
    assert noted == [(2.0, "client-0", record)]


def test_progress_is_told_every_so_many_events() -> None:
    told: list[int] = []
    simulation = world(on_progress=lambda time_s, events: told.append(events), progress_every_events=10)
    add_client(simulation, "client-0", lambda agent, event, now: [SetTimer("tick", 1.0)] if now < 34 else [])
    simulation.run()
    assert told == [10, 20, 30]


def test_validation_follows_every_event_when_asked_for() -> None:
    simulation = world(validate=True)
    add_client(simulation, "client-0", at_start(SetTimer("one", 1.0), SetTimer("two", 2.0)))
    simulation.run()
    agent = simulation.agent("client-0")
    assert isinstance(agent, Scripted)
    assert agent.validated == len(agent.met) == 3


# -- endings and bounds -------------------------------------------------------------------------------


def test_stragglers_do_not_prolong_the_aggregators_finish() -> None:
    def finish(agent: Scripted, event: Event, now: float) -> list[Effect]:
        agent.finished = not isinstance(event, Started)
        return [] if agent.finished else [SetTimer("end", 5.0 if agent.name == AGGREGATOR else 50.0)]

    simulation = world()
    add_service(simulation, finish)
    add_client(simulation, "client-0", finish)
    outcome = simulation.run()
    assert (outcome.ended, outcome.finished_at_s, outcome.modelled_time_s) == ("finished", 5.0, 50.0)


def test_a_world_in_which_nothing_is_left_to_happen_is_quiescent() -> None:
    simulation = world()
    add_client(simulation, "client-0")
    outcome = simulation.run()
    assert (outcome.ended, outcome.finished_at_s, outcome.events) == ("quiescent", None, 1)


def ticking(agent: Scripted, event: Event, now: float) -> list[Effect]:
    return [SetTimer("tick", 1.0)]


def test_a_run_can_be_stopped_and_gone_on_with() -> None:
    simulation = world()
    add_client(simulation, "client-0", ticking)
    assert simulation.run(until_s=2.5).ended == "until"
    assert [now for now, _ in met(simulation, "client-0")] == [0.0, 1.0, 2.0]
    assert simulation.run(stop_when=lambda: simulation.now_s >= 4).ended == "stopped"
    assert [now for now, _ in met(simulation, "client-0")] == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("bound", [{"events_max": 50}, {"modelled_time_max_s": 50.0}])
def test_a_run_without_end_is_broken_off_and_names_its_seed(bound: dict[str, Any]) -> None:
    simulation = world(seed=4711, settings=SimulationSettings(**bound))
    add_client(simulation, "client-0", ticking)
    with pytest.raises(AgentError, match=f"seed 4711.*simulation.{next(iter(bound))} is reached"):
        simulation.run()
    assert simulation.events in (50, 51)


def test_two_agents_of_one_name_are_refused() -> None:
    simulation = world()
    add_client(simulation, "client-0")
    with pytest.raises(SettingsError, match="two agents of this name"):
        add_client(simulation, "client-0")


# -- stories ------------------------------------------------------------------------------------------


def failing(agent: Scripted, event: Event, now: float) -> list[Effect]:
    if isinstance(event, Received):
        raise ValueError("no such phase")
    return [SetTimer("tick", 1.0)]


def test_an_error_inside_an_agent_tells_its_story() -> None:
    simulation = world(seed=12, network=NetworkSettings(latency_s=1.5))
    add_client(simulation, "client-0", failing)
    add_service(simulation, at_start(Send("client-0", answer(9))))
    with pytest.raises(AgentError) as caught:
        simulation.run()
    headline, *story = str(caught.value).splitlines()
    for part in ("client-0 at 1.5", "seed 12", "HeadAnnounced", "ValueError: no such phase"):
        assert part in headline
    assert [line.split("client-0 ")[1].split(" (")[0] for line in story] == ["started ", "timer tick", "delivered HeadAnnounced"]
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_inside_a_learner_names_the_job() -> None:
    simulation = world()
    add_client(simulation, "client-0", at_start(RunJob(forward(3))), compute=lambda job: 1 // 0)
    with pytest.raises(AgentError, match=r"in its learner, Forward client-0/3: ZeroDivisionError"):
        simulation.run()


def test_an_error_in_a_store_is_not_blamed_on_the_agent() -> None:
    class Full:
        def append(self, record: Any) -> None:
            raise OSError("disk full")

        def records(self) -> tuple[Any, ...]:
            return ()

    simulation = world()
    add_service(simulation, at_start(Persist("record")), store=Full())
    with pytest.raises(OSError, match="disk full"):
        simulation.run()


def test_perfect_links_take_no_time() -> None:
    simulation = world(network=PERFECT)
    add_client(simulation, "client-0", silent)
    add_service(simulation, at_start(Send("client-0", answer(1))))
    assert simulation.run().modelled_time_s == 0.0


# -- messages that are handed over instead of decoded --------------------------------------------------


def contribution(number: int, value: float, probes: int = 2) -> ProjectedGradients:
    return ProjectedGradients(StepId("client-0", 1, number), 0, (value,) * probes)


def test_a_message_that_is_handed_over_meets_the_checks_that_its_bytes_would() -> None:
    """Long after the first ones of its kind have been decoded: contents, kind, and length."""
    unsound = [contribution(201, nan), answer(1), contribution(202, 0.5, probes=120)]
    sent = [contribution(number, 0.5) for number in range(200)]
    simulation = world(limits=CodecLimits(message_bytes_max=1024))
    add_client(simulation, "client-0", at_start(*[Send(AGGREGATOR, message) for message in [*sent, *unsound, contribution(203, 0.25)]]))
    add_service(simulation)
    outcome = simulation.run()
    assert [event.message for event in events_of(simulation, AGGREGATOR, Received)] == [*sent, contribution(203, 0.25)]
    assert (outcome.counts["delivered"], outcome.counts["refused"]) == (201, 3)
    assert outcome.bytes["scalars"] == sum(
        len(encode("client-0", message)) for message in [*sent, *unsound, contribution(203, 0.25)]
    ) - len(encode("client-0", answer(1)))


@pytest.mark.parametrize("wrong", [contribution(1, 1), ProjectedGradients(StepId("client-0", 1, 1), 0, [0.5])])  # type: ignore[arg-type]
def test_a_validated_world_breaks_off_at_a_message_that_is_not_what_its_type_says(wrong: ProjectedGradients) -> None:
    """An int where a float belongs, a list for a tuple: whoever decodes it gets something else."""
    simulation = world(validate=True)
    add_client(simulation, "client-0", at_start(Send(AGGREGATOR, wrong)))
    add_service(simulation)
    with pytest.raises(AgentError, match="sent what its type does not say"):
        simulation.run()
