"""What an agent process writes to standard error: one line for each thing that happens, for people or as JSON.

Numbers that an agent tells (``agent.Record``) are debug lines, but for the few that a person following a run wants to see.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from hosfl_async.agent import Record

NAME = "hosfl_async.process"
_TOLD = frozenset({"evaluation", "broken", "disk_full", "disk_has_space"})
"""Records that are told at level info."""


class _AsJson(logging.Formatter):
    def format(self, line: logging.LogRecord) -> str:
        told = {"time": _moment(line), "level": line.levelname.lower(), "event": line.getMessage(), **_fields(line)}
        if line.exc_info:
            told["traceback"] = self.formatException(line.exc_info)
        return json.dumps(told, default=str)


class _ForPeople(logging.Formatter):
    def format(self, line: logging.LogRecord) -> str:
        fields = "  ".join(f"{key}={_short(value)}" for key, value in _fields(line).items() if value != "")
        text = f"{_moment(line)} {line.levelname.lower():7} {line.getMessage():12} {fields}".rstrip()
        return f"{text}\n{self.formatException(line.exc_info)}" if line.exc_info else text


def process_log(format_: Literal["console", "json"], level: str) -> logging.Logger:
    """The process's logger, writing to standard error. Calling it again replaces the former set-up."""
    log = logging.getLogger(NAME)
    log.handlers = [logging.StreamHandler(sys.stderr)]
    log.handlers[0].setFormatter(_AsJson() if format_ == "json" else _ForPeople())
    log.setLevel(level.upper())
    log.propagate = False
    return log


def tell(log: logging.Logger, level: int, event: str, **fields: Any) -> None:
    """One line."""
    log.log(level, event, extra={"fields": fields})


def record_teller(log: logging.Logger) -> Callable[[float, str, Record], None]:
    """A host's ``on_record`` that writes to the log."""

    def note(_now_s: float, agent: str, record: Record) -> None:
        level = logging.INFO if record.name in _TOLD else logging.DEBUG
        if log.isEnabledFor(level):
            tell(log, level, record.name, agent=agent, step=str(record.step), **record.values)

    return note


def _fields(line: logging.LogRecord) -> dict[str, Any]:
    return getattr(line, "fields", {})


def _moment(line: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(line.created)) + f".{int(line.msecs):03d}Z"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
