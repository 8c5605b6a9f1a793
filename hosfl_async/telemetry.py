"""What an agent says of itself while it lives: a small record every few seconds, for people who watch.

Nobody decides anything by telemetry. It is said at quality 0, never repeated, never queued: a record that cannot leave at once is dropped,
and the next one says more. Hence each record is whole: what the agent is doing, how far it is, and counts since its process began. It is
JSON, so that ``mosquitto_sub`` and a person can read it; unknown fields are ignored, so that a newer agent may say more.

``serial`` counts the records of one process, whose ``boot`` is greater than that of every earlier one: whoever listens knows late news.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from hosfl_async.errors import CodecError
from hosfl_async.messages import Count, Name

TELEMETRY_VERSION = 1
TELEMETRY_BYTES_MAX = 16 * 1024
"""Longest record that is said or listened to."""
CURVE_POINTS_MAX = 32
"""Evaluations that a split server's record holds; of more, every second one but the ends is left out."""

State = Literal["computing", "waiting for the dual", "catching up", "offline", "waiting otherwise"]
STATES: tuple[State, ...] = ("computing", "waiting for the dual", "catching up", "waiting otherwise", "offline")

_CATCHING_UP = frozenset(("Replay", "InstallSnapshot"))
_AWAY = frozenset(("crashed", "stopped", "departed", "paused"))
_BACK = frozenset(("started", "resumed"))

_Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
_Seconds = Annotated[float, Meta(ge=0, le=1e12)]
_Text = Annotated[str, Meta(max_length=200)]
_Hex = Annotated[str, Meta(min_length=64, max_length=64, pattern="^[0-9a-f]+$")]


class Activity:
    """What one client is doing, from what happens to it in the words of ``trace``.

    In this order of precedence: *offline* (not there yet, crashed, stopped, suspended, or gone for ever), *computing* (a job of its learner
    runs), *catching up* (it replays log entries, has asked for some, or installs a snapshot), *waiting for the dual* (its activations are
    out and nothing else is to be done), or *waiting otherwise* (for an answer, a place, a delay to pass).
    """

    __slots__ = ("_asked", "_away", "_job", "awaits_dual")

    def __init__(self) -> None:
        self._away, self._job, self._asked = True, "", False
        self.awaits_dual = False

    @property
    def state(self) -> State:
        if self._away:
            return "offline"
        if self._job:
            return "catching up" if self._job in _CATCHING_UP else "computing"
        if self._asked:
            return "catching up"
        return "waiting for the dual" if self.awaits_dual else "waiting otherwise"

    def met(self, what: str, kind: str) -> None:
        """It happened to this client."""
        match what, kind:
            case what, _ if what in _AWAY:
                self._away = True
                if what != "paused":  # a suspended device keeps its memory
                    self._job, self._asked, self.awaits_dual = "", False, False
            case what, _ if what in _BACK:
                self._away = False
            case "job_started", job:
                self._job = job
            case (("job_done" | "job_failed"), _):
                self._job = ""
            case "sent", "CatchUp":
                self._asked = True
            case "delivered", ("LogPage" | "Snapshot"):
                self._asked = False
            case "sent", "SmashedData":
                self.awaits_dual = True
            case "delivered", ("DualVariable" | "DualRefused"):
                self.awaits_dual = False
            case "recorded", "cut_off":
                self.awaits_dual = False
            case _:
                pass


class Checked(Struct, frozen=True, gc=False):
    """Digest of the client half's parameters at ``version``, as the agent itself has it."""

    version: Count
    digest: _Hex


class Evaluated(Struct, frozen=True, array_like=True, gc=False):
    """One evaluation on held-out data."""

    version: Count
    server_steps: Count
    accuracy: _Number
    loss: _Number
    time_s: _Seconds
    """On the split server's clock."""


class RunTold(Struct, frozen=True, omit_defaults=True):
    """What the run is. Said by the aggregator."""

    scenario: _Text
    seed: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    clients: Count
    client_steps_wanted: Count


class LogTold(Struct, frozen=True, omit_defaults=True):
    """How the update log stands. Said by the aggregator."""

    head: Count
    client_steps: Count
    steps_per_s: _Number = 0.0
    """Over its latest commits, by modelled time."""
    staleness_sum: _Number = 0.0
    staleness_count: Count = 0
    staleness_max: Count = 0
    """Of the contributions admitted since its process began, in versions."""
    digests_compared: Count = 0
    digests_differ: Count = 0
    over: bool = False
    """It has all its client steps."""
    digest: _Hex | None = None
    """At the final head, once known."""
    clients_confirmed: Count = 0
    """Clients whose digest at the final head is equal."""
    run: RunTold | None = None


class Telemetry(Struct, frozen=True, omit_defaults=True):
    """One record. Counts are those since the agent's process began."""

    schema: int
    agent: Name
    boot: Count
    serial: Count
    time_s: _Seconds
    """Modelled seconds on its own clock."""
    every_s: _Seconds
    """Wall seconds until its next one."""
    state: State
    step: _Text = ""
    """The latest step that it worked on."""
    awaits_dual: bool = False
    version: Count = 0
    """Of its copy of the client half; of the aggregator, the head."""
    accepted: Count = 0
    """``Accepted`` answers that it was given."""
    refused: Count = 0
    """``Refused`` and ``DualRefused`` answers that it was given."""
    dropped: Count = 0
    """Frames that its host or its connection had to drop, or could not read."""
    finished: bool = False
    broken: _Text = ""
    """Why it stopped for good, if it did."""
    checked: Checked | None = None
    log: LogTold | None = None
    server_steps: Count | None = None
    curve: Annotated[tuple[Evaluated, ...], Meta(max_length=CURVE_POINTS_MAX)] = ()


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Telemetry)


def encode_telemetry(record: Telemetry) -> bytes:
    return _ENCODER.encode(record)


def decode_telemetry(agent: str, payload: bytes) -> Telemetry:
    """The record that ``agent`` (the topic's word for the sender) said. Raises ``CodecError``, whatever the bytes."""
    if len(payload) > TELEMETRY_BYTES_MAX:
        raise CodecError(f"telemetry of {agent}: expected at most {TELEMETRY_BYTES_MAX} bytes, found {len(payload)}")
    try:
        record = _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise CodecError(f"telemetry of {agent}, {len(payload)} bytes: {str(problem)[:200]}") from None
    if record.schema != TELEMETRY_VERSION:
        raise CodecError(f"telemetry of {agent}: schema: expected {TELEMETRY_VERSION}, found {record.schema}")
    if record.agent != agent:
        raise CodecError(f"telemetry of {agent}: claims to be {record.agent}")
    return record


def thinned(curve: list[Evaluated]) -> list[Evaluated]:
    """At most ``CURVE_POINTS_MAX`` points: while there are more, every second one but the ends goes."""
    while len(curve) > CURVE_POINTS_MAX:
        del curve[1:-1:2]
    return curve
