"""Exit codes of an agent process. A supervisor may restart after 3, 4 and 5; after 1 and 2 somebody must look first."""

from __future__ import annotations

from hosfl_async.errors import HosflError, LogError, SettingsError, TransportError

FINISHED = 0
"""The run is over, and this agent has confirmed it."""
STOPPED_FOR_GOOD = 1
"""The agent was refused or fenced, or its parameters differ from the aggregator's: the log says why."""
WRONG_SETTINGS = 2
"""Settings, scenario, certificate or state folder cannot be; one line says what."""
STORAGE = 3
"""The state could not be read or written: damaged, the disk fails, or in use by another process."""
NO_BROKER = 4
"""The broker could not be reached for longer than ``broker.patience_s``, refused us, or another process took over our name."""
OWN_FAULT = 5
"""A bug in this package; the agent's latest events are in the log."""
INTERRUPTED, TERMINATED = 130, 143
"""SIGINT or SIGTERM, in good order."""


def code_of(problem: HosflError) -> int:
    """The exit code for an error."""
    match problem:
        case SettingsError():
            return WRONG_SETTINGS
        case LogError():
            return STORAGE
        case TransportError():
            return NO_BROKER
        case _:
            return OWN_FAULT
