"""Every bound of the codec, in one struct. Scenario files hold this very struct; each field's text is its documentation everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecLimits:
    """Bounds on what is encoded, cut, put together again and decoded."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    message_bytes_max: Annotated[int, Ge(1024)] = 64 * 2**20
    """Longest envelope, in bytes, whole or put together from fragments."""
    frame_bytes_max: Annotated[int, Ge(1024), Le(2**30)] = 256 * 2**10
    """Longest single frame, in bytes: a longer envelope is cut into fragments."""
    fragments_max: Annotated[int, Ge(1), Le(2**31)] = 4096
    """Fragments of one message."""
    partial_messages_max: Annotated[int, Ge(1)] = 8
    """Incomplete messages kept per sender; above it the sender's oldest is dropped and counted."""
    partial_bytes_per_sender_max: Annotated[int, Ge(1024)] = 128 * 2**20
    """Bytes kept for one sender's incomplete messages; above it the sender's oldest is dropped and counted."""
    partial_bytes_max: Annotated[int, Ge(1024)] = 2**30
    """Bytes kept for the incomplete messages of all senders; above it the oldest of the longest waiting sender is dropped."""


DEFAULT_LIMITS = CodecLimits()
