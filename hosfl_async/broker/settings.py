"""Settings of the broker room. Scenario files hold this very struct; each field's text is its documentation everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads these dataclasses when they stand in a scenario file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """How one agent's connection to the broker behaves, and the broker that we start ourselves."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    qos: Literal[0, 1] = 0
    """MQTT quality of service of messages between agents. 0 by default: our own acknowledgements carry the guarantees, see broker/topics.py
    for the measurement behind it."""
    payload_bytes_max: Annotated[int, Ge(1024), Le(200 * 2**20)] = 320 * 1024
    """Largest payload of one frame; a larger one is refused before anything is sent. Must hold the codec's largest frame."""
    inbox_frames_max: Annotated[int, Ge(1)] = 64
    """Frames received and not yet taken by the agent; when so many wait, nothing more is read from the connection."""
    receive_maximum: Annotated[int, Ge(1), Le(65_535)] = 8
    """MQTT 5 Receive Maximum: frames of QoS 1 that the broker may send before we acknowledge one, after the agent took it."""
    outbox_frames_max: Annotated[int, Ge(1)] = 1024
    """Frames waiting to leave. Full while connected: the sender waits. Full while disconnected: the oldest is dropped and counted."""
    outbox_bytes_max: Annotated[int, Ge(1024)] = 64 * 2**20
    """Bytes waiting to leave; as above."""
    inflight_max: Annotated[int, Ge(1), Le(65_535)] = 20
    """Frames handed to the MQTT client and not yet written (QoS 0) or acknowledged by the broker (QoS 1)."""
    keepalive_s: Annotated[int, Ge(1), Le(3600)] = 30
    """MQTT keepalive: the broker declares us lost after one and a half times as long without a word."""
    connect_timeout_s: Annotated[float, Gt(0)] = 10.0
    """Bound on one attempt to connect and subscribe. Later attempts are repeated, the first one only if
    first_connect_s says so."""
    first_connect_s: Annotated[float, Ge(0)] = 0.0
    """The first attempt to connect is repeated for so long before its failure is an error. 0: one attempt, for a person who waits."""
    reconnect_first_s: Annotated[float, Gt(0)] = 0.1
    """Pause before the first attempt to reconnect; it doubles with each attempt and varies by a seeded half."""
    reconnect_max_s: Annotated[float, Gt(0)] = 5.0
    """Upper bound of that pause."""
    outage_max_s: Annotated[float, Gt(0)] = 120.0
    """Give up with an error when no attempt has succeeded for so long."""
    farewell_s: Annotated[float, Ge(0)] = 2.0
    """At most so long a closing connection tries to send what still waits."""
    broker_queue_bytes_max: Annotated[int, Ge(2**20)] = 256 * 2**20
    """Bytes that the broker started by ourselves may keep for one slow agent before it drops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFaults:
    """What the in-process transport does to frames on purpose, drawn from ``seed``; all zero is a perfect link."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    seed: int = 0
    """Seed of every draw."""
    loss: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a frame vanishes."""
    duplication: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a frame that is not lost arrives twice."""
    reordering: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a frame is held back until the next frame for the same agent has passed it, or ``delay_max_s`` is over."""
    delay_max_s: Annotated[float, Ge(0)] = 0.0
    """Each frame is late by a uniform share of this; also the bound on holding back (10 ms if zero)."""
