"""What is noted of a run: the latest events in memory, for an agent's story when it fails, and the trace on disk, if one is wanted.

Noting must cost next to nothing, so a note is a plain tuple and turns into text only when somebody reads it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from hosfl_async.trace import TraceWriter, Value

STORY_LINES_MAX = 20
"""Lines of an agent's story in an error."""

_KINDS: dict[type, tuple[str, bool]] = {}


def kind_and_step(subject: Any) -> tuple[str, Any]:
    """The name of a job's kind, and the ``StepId`` that it is about, or None."""
    kind = type(subject)
    try:
        name, names_step = _KINDS[kind]
    except KeyError:
        name, names_step = _KINDS[kind] = kind.__name__, hasattr(subject, "step")
    return name, subject.step if names_step else None


Note = tuple[Any, ...]
"""(modelled seconds, agent, what, kind, step, peer, size, values), in the words of ``hosfl_async.trace``; what follows on ``what`` may
be left out from the right. ``step`` is a ``StepId``, or anything whose text names it, or None."""


class Journal:
    """The notes of one run; ``kept`` is how many of the latest stay in memory."""

    __slots__ = ("_latest", "note", "tracing")

    def __init__(self, kept: int, trace: TraceWriter | None) -> None:
        self._latest: deque[Note] = deque(maxlen=kept)
        self.tracing = trace is not None and trace.enabled
        """Whether notes go to disk: ask before gathering what only a trace needs."""
        self.note: Callable[[Note], None] = self._latest.append
        """Note that an agent met something."""
        if trace is not None and trace.enabled:
            self.note = self._noting_to(trace)

    def _noting_to(self, trace: TraceWriter) -> Callable[[Note], None]:
        def note(
            time_s: float,
            agent: str,
            what: str,
            kind: str = "",
            step: Any = None,
            peer: str = "",
            size: int = 0,
            values: Mapping[str, Value] | None = None,
        ) -> None:
            trace.note(time_s, agent, what, kind, "" if step is None else str(step), peer, size, values)

        def keep_and_note(noted: Note) -> None:
            self._latest.append(noted)
            note(*noted)

        return keep_and_note

    def story(self, agent: str) -> str:
        """The latest notes about one agent, oldest first, one a line."""
        about = [note for note in self._latest if note[1] == agent][-STORY_LINES_MAX:]
        return "\n".join(_line(*note) for note in about)


def _line(time_s: float, agent: str, what: str, kind: str = "", step: Any = None, peer: str = "", size: int = 0, *_: Any) -> str:
    about = f" {step}" if step is not None else ""
    other = f" ({peer}, {size} B)" if size else f" ({peer})" if peer else ""
    return f"  {time_s:12.6f} s  {agent} {what} {kind}{about}{other}"
