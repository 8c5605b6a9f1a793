"""One agent as a process of the operating system: its settings file, durable state, health, logs and exit codes."""

from hosfl_async.process.running import run_agent
from hosfl_async.process.settings import ProcessSettings, Role, load_process_settings

__all__ = ["ProcessSettings", "Role", "load_process_settings", "run_agent"]
