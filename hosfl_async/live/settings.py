"""Settings of the live host. Scenario files hold this very struct; each field's text is its documentation everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

_SCHEMA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads these dataclasses when they stand in a scenario file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How agents run on the wall clock."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _SCHEMA

    time_scale: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Wall seconds per modelled second: 0.1 runs ten times faster than modelled. Agents live in modelled time: their timers, the modelled
    durations of jobs and the modelled delays of links are all waited in this scale. 1 for real devices."""
    sends_waiting_max: Annotated[int, Ge(1)] = 4096
    """Frames of one agent that wait out their modelled link delay or for room in the transport; above it they are dropped and counted."""
    workers: Annotated[int, Ge(1), Le(64)] = 1
    """Worker threads that compute the jobs of all agents of this process. 1 serialises the learners' work."""
    stop_s: Annotated[float, Gt(0)] = 10.0
    """Wall seconds that a stopping host waits at most for the job under way and for its last messages to leave; and that clients have to
    finish once the services have."""
    disk_full_retry_s: Annotated[float, Gt(0)] = 1.0
    """Wall seconds between two attempts to keep a record for which the disk had no space."""
    frames_per_s_max: Annotated[float, Ge(0)] = 0.0
    """Frames that one sender may send per wall second, on the average; above it, it is put into quarantine. 0: no limit."""
    frames_burst: Annotated[int, Ge(1)] = 2048
    """Frames that it may send at once: activations of a large batch travel in many."""
    refused_frame_cost: Annotated[float, Ge(0)] = 50.0
    """What a frame that had to be refused counts besides itself, in frames."""
    quarantine_first_s: Annotated[float, Gt(0)] = 1.0
    """Wall seconds of a sender's first quarantine; each further one is twice as long."""
    quarantine_max_s: Annotated[float, Gt(0)] = 3600.0
    """Upper bound of a quarantine; whoever keeps the limit for so long after one begins anew."""
    senders_known_max: Annotated[int, Ge(1)] = 1_000_000
    """Senders whose frames are counted; beyond it the one that has been silent longest is forgotten."""
    telemetry_every_s: Annotated[float, Ge(0), Le(3600)] = 2.0
    """Wall seconds between two records of what an agent says of itself to `hosfl watch` and `hosfl dashboard`. 0: it says nothing."""
    story_events_kept: Annotated[int, Ge(1)] = 20
    """Latest events of an agent that are told when it fails."""
