"""How an agent process is, as plain data: what health files, health ports and the last log line tell."""

from __future__ import annotations

import os
import time
from importlib.metadata import version as version_of
from typing import Any

from hosfl_async.live.host import LiveHost


def status_of(host: LiveHost, run: str, boot: int) -> dict[str, Any]:
    """``well``: nobody needs to look. Counts are those since the start of the process."""
    agent: Any = host.agent
    broken = getattr(agent, "broken", "")
    version = agent.log.head if hasattr(agent, "log") else getattr(agent, "version", None)
    told: dict[str, Any] = {
        "well": not broken and not host.failed and not host.disk_full,
        "agent": agent.name,
        "run": run,
        "process": os.getpid(),
        "boot": boot,
        "software": version_of("hosfl-async"),
        "time_s": round(time.time(), 3),
        "connected": host.connected,
        "finished": agent.finished,
        "broken": broken,
        "disk_full": host.disk_full,
        "version": version,
        "phase": agent.phase.value if hasattr(agent, "phase") else "",
        "server_steps": getattr(agent, "server_steps", None),
        "client_steps": getattr(agent, "steps_in_log", None),
        "digest": _hex(getattr(agent, "final_digest", None)),
        "agent_counts": dict(agent.counts),
        "host_counts": dict(host.tally.counts),
        "transport_counts": dict(host.transport.counts),
        "bytes": dict(host.tally.bytes),
    }
    return {key: value for key, value in told.items() if value is not None and value != ""}


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
