"""Following a deployment by telemetry, from a settings file: under the operator's name, or under one that nobody has."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hosfl_async.assembly.listening import TelemetryWatch
from hosfl_async.errors import SettingsError
from hosfl_async.process.settings import ProcessSettings, Role, load_process_settings, scenario_for
from hosfl_async.provisioning.access import OPERATOR

_ROLES: dict[str, Role] = {"aggregator": "aggregator", "": "aggregator", "split_server": "server"}


def watch_of(file: Path, run: str | None = None) -> TelemetryWatch:
    """A watch over the broker of a settings file, not yet open; of its run, or of ``run``.

    Raises ``SettingsError``, also for a file with an agent's certificate: a second connection under that name would end the agent's own.
    """
    settings = any_settings(file)
    certified = settings.broker.certificate is not None
    if certified and settings.name != OPERATOR:
        mend = f"`hosfl provision device FOLDER {OPERATOR}` makes a kit for whoever watches"
        raise SettingsError(
            str(file), "is an agent's own: watching under its name would end its connection", found=settings.name or "", mend=mend
        )
    scenario = scenario_for(settings) if run in (None, settings.run) else None
    name = OPERATOR if certified else None
    return TelemetryWatch(settings.broker.url, run or settings.run, name=name, tls=settings.tls_files(), scenario=scenario)


def any_settings(file: Path) -> ProcessSettings:
    """The settings in ``file``, whoever's they are."""
    try:
        name = str(tomllib.loads(file.read_text(encoding="utf-8")).get("name", ""))
    except OSError as problem:
        raise SettingsError(str(file), "cannot be read", expected="a settings file (TOML)", found=str(problem)) from problem
    except ValueError as problem:
        raise SettingsError(str(file), f"not TOML: {problem}") from None
    return load_process_settings(file, _ROLES.get(name, "client"))
