"""The fleet's roll: it notes who was heard, how far each is and what was refused, and it is bounded."""

from __future__ import annotations

from hosfl_async.agent import PeerGone, Received, Send
from hosfl_async.live.roll import WINDOW_S, Roll
from hosfl_async.messages import Accepted, CatchUp, Join, ProjectedGradients, Refused, StepId, Welcome


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def step(number: int) -> StepId:
    return StepId("client-1", 2, number)


def test_the_roll_tells_who_is_there_and_what_was_refused() -> None:
    clock = Clock()
    roll = Roll(clock)
    roll.decided(Received("client-1", Join(7, bytes(32), bytes(32))), [Send("client-1", Welcome(7, 2, 10))])
    roll.decided(Received("client-2", CatchUp(3)), [])
    clock.now += 5
    made = ProjectedGradients(step(1), 9, (0.5,))
    roll.decided(Received("client-1", made), [Send("client-1", Accepted(step(1), 11, 11)), Send("clients", Accepted(step(1), 11, 11))])
    roll.decided(Received("client-1", made), [Send("client-1", Refused(step(2), "stale", 11))])
    roll.turned_away("client-2", "impostor")
    clock.now += 5
    roll.decided(PeerGone("client-2"), [])
    roll.decided(PeerGone("never-seen"), [])
    told = roll.told(11, 42)
    assert told["devices"] == {
        "client-1": {
            "present": True,
            "heard_s": 1005,
            "version": 9,
            "lag": 2,
            "incarnation": 2,
            "accepted_answers": 1,
            "refused": {"stale": 1},
        },
        "client-2": {
            "present": False,
            "heard_s": 1005,
            "version": 3,
            "lag": 8,
            "incarnation": None,
            "accepted_answers": 0,
            "refused": {"impostor": 1},
        },
    }
    roll.decided(Received("client-2", CatchUp(11)), [])
    assert roll.told(11, 42)["devices"]["client-2"]["present"]


def test_throughput_is_that_of_the_window() -> None:
    clock = Clock()
    roll = Roll(clock)
    assert roll.told(0, 0)["client_steps_per_minute"] is None
    for minute in range(1, 11):
        clock.now += 60
        told = roll.told(minute, 100 * minute if minute <= 5 else 500 + 10 * (minute - 5))
    assert told["window_s"] == WINDOW_S
    assert (told["client_steps_per_minute"], told["versions_per_minute"]) == (10, 1)


def test_the_roll_is_bounded() -> None:
    roll = Roll(Clock(), devices_max=2)
    for name in ("client-1", "client-2", "client-3", "client-1", "client-4"):
        roll.turned_away(name, "unreadable")
    told = roll.told(0, 0)
    assert list(told["devices"]) == ["client-1", "client-2"] and told["frames_of_unlisted_devices"] == 2
