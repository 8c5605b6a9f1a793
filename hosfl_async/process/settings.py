"""The settings file of one agent process (TOML); environment variables override it, and every mistake is explained.

What the agents of a run must agree upon stands in the scenario file, which all of them are given; what differs from one machine to the next
stands here. ``HOSFL_BROKER__URL=mqtts://b:8883`` overrides ``url`` of ``[broker]``: two underscores lead into a table.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from hosfl_async.broker.address import TlsFiles
from hosfl_async.errors import SettingsError
from hosfl_async.messages import AGGREGATOR, SPLIT_SERVER
from hosfl_async.scenario import Scenario, load_scenario, scenario_digest

Role = Literal["aggregator", "server", "client"]
ENVIRONMENT = "HOSFL_"

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_FIXED_NAMES = {"aggregator": AGGREGATOR, "server": SPLIT_SERVER}
_TABLE = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class BrokerTable(BaseModel):
    """Where the broker is, and how to prove who we are."""

    model_config = _TABLE

    url: str = "mqtt://127.0.0.1:1883"
    """mqtt://host:port, or mqtts:// for TLS."""
    ca: Path | None = None
    """Certificate of the authority that signed the broker's; with it and mqtts:// the broker must prove itself."""
    certificate: Path | None = None
    """Our own certificate; its common name is our name."""
    key: Path | None = None
    """The private key of our certificate."""
    patience_s: Annotated[float, Ge(0)] = 300.0
    """Seconds to wait for a broker that cannot be reached, at the start and later, before the process gives up."""


class HealthTable(BaseModel):
    """Who asks how the process is."""

    model_config = _TABLE

    file: Path | None = None
    """A JSON file, replaced every few seconds."""
    port: Annotated[int, Ge(0), Le(65535)] | None = None
    """HTTP on this port of 127.0.0.1: 200 while all is well, 503 otherwise, the same JSON as body. 0 takes a free one, told in the log."""
    every_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    """Seconds between two writings of the file."""


class MetricsTable(BaseModel):
    """Counts for Prometheus (extra ``prometheus``)."""

    model_config = _TABLE

    port: Annotated[int, Ge(0), Le(65535)] | None = None
    """HTTP on this port: every path answers with the metrics. 0 takes a free one, told in the log. Nothing is served without it."""
    address: str = "127.0.0.1"
    """Where it listens. Whoever reaches it may read the counts: open it to a network of your own only."""


class LogTable(BaseModel):
    """What goes to standard error."""

    model_config = _TABLE

    format: Literal["console", "json"] = "console"
    """json: one object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """debug tells every step and every commit."""


class ProcessSettings(BaseSettings):
    """One agent process."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENVIRONMENT, env_nested_delimiter="__", use_attribute_docstrings=True
    )

    run: _Name
    """Name of the run: a topic level, the same for all agents."""
    name: _Name | None = None
    """Name of the client as the scenario's fleet numbers it, such as client-3; the aggregator and the split server have fixed ones."""
    scenario: Path
    """The scenario file, the same for all agents."""
    scenario_digest: str = ""
    """If given, the scenario's digest must be this one (``hosfl provision`` writes it)."""
    overrides: tuple[str, ...] = ()
    """key=value pairs put into the scenario, as with --set; the same for all agents."""
    state: Path
    """Folder of what must outlive the process. One process at a time."""
    checkpoint_every_steps: Annotated[int, Ge(1)] = 20
    """Server: steps of the server half between two checkpoints. A crash costs at most so many steps of the server half."""
    pace: Literal["real", "modelled"] = "real"
    """modelled: jobs and messages take the times of the scenario's fleet and network, for demonstrations on one machine."""
    floor_time: datetime | None = None
    """A clock that shows an earlier time is wrong, and certificates would be refused for it (`hosfl provision` writes it)."""
    linger_s: Annotated[float, Ge(0)] = 60.0
    """Aggregator and server: seconds to go on answering once their work is done, for those who have not heard of it."""
    trace: Path | None = None
    """Journal of everything that happens, for `hosfl story`; grows without bound."""
    broker: BrokerTable = BrokerTable()
    health: HealthTable = HealthTable()
    metrics: MetricsTable = MetricsTable()
    log: LogTable = LogTable()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    def tls_files(self) -> TlsFiles | None:
        """The files of the broker table, if there are any."""
        table = self.broker
        if table.ca is None and table.certificate is None and table.key is None:
            return None
        return TlsFiles(*(None if path is None else str(path) for path in (table.ca, table.certificate, table.key)))


def load_process_settings(file: Path, role: Role, health: str | None = None) -> ProcessSettings:
    """Read a settings file. Relative paths are seen from the file's folder. ``health``: a port or a file, instead of the table's.

    Raises ``SettingsError`` that lists everything wrong.
    """
    if not file.is_file():
        raise SettingsError(str(file), "no such settings file", expected="a TOML file", mend="agents/ has examples")
    try:
        tables = TomlConfigSettingsSource(ProcessSettings, file)()
        settings = ProcessSettings(**tables)
    except ValidationError as error:
        raise _explained(file, error) from None
    except ValueError as error:
        raise SettingsError(str(file), f"not TOML: {error}") from None
    settings = _with_paths_from(file.parent, settings)
    _check_signature(file, settings)
    _check_clock(file, settings)
    if health is not None:
        asked = {"port": int(health), "file": None} if health.isdecimal() else {"file": Path(health), "port": None}
        settings = settings.model_copy(update={"health": settings.health.model_copy(update=asked)})
    named = _named(file, settings, role)
    _check_certificate(named)
    return named


def scenario_for(settings: ProcessSettings) -> Scenario:
    """The scenario of the run, with the connection's patience put into the broker's settings. Raises ``SettingsError``."""
    scenario = load_scenario(settings.scenario, settings.overrides)
    digest = scenario_digest(scenario)
    if settings.scenario_digest not in ("", digest):
        raise SettingsError(
            str(settings.scenario),
            "not the scenario that this device was provisioned for",
            expected=f"digest {settings.scenario_digest}",
            found=digest,
            mend="copy the operator's file again, or have the kit renewed",
        )
    patience_s = settings.broker.patience_s
    patient = replace(scenario.broker, first_connect_s=patience_s, outage_max_s=max(patience_s, 1.0))
    return replace(scenario, broker=patient)


def _check_signature(file: Path, settings: ProcessSettings) -> None:
    """A settings file with a signature beside it is the operator's; one that was changed is refused."""
    signature = file.with_suffix(".sig")
    if not signature.is_file():
        return
    from hosfl_async.provisioning.authority import is_signed

    if settings.broker.ca is None:
        raise SettingsError(
            f"{file}: broker.ca", "missing: the signature beside the file cannot be checked", expected="the operator's ca.pem"
        )
    try:
        sound = is_signed(settings.broker.ca.read_bytes(), file.read_bytes(), signature.read_bytes())
    except (OSError, ValueError) as problem:
        raise SettingsError(str(signature), "the signature cannot be checked", found=str(problem)) from problem
    if not sound:
        mend = "copy the kit again; what is this machine's own is changed by environment variables"
        raise SettingsError(str(file), "not as the operator signed it", mend=mend)


def _check_clock(file: Path, settings: ProcessSettings) -> None:
    now, floor = datetime.now(UTC), settings.floor_time
    if floor is not None and now < floor.astimezone(UTC):
        found = now.isoformat(timespec="seconds")
        raise SettingsError(f"{file}: floor_time", "this machine's clock is wrong", expected=f"at least {floor.isoformat()}", found=found)


def _check_certificate(settings: ProcessSettings) -> None:
    """Told here in plain words what a broker would refuse in a few letters: a certificate for another name, or at another time."""
    if settings.broker.certificate is None or settings.broker.key is None:
        return
    try:
        from hosfl_async.provisioning.authority import facts_of
    except SettingsError:
        return  # the broker will tell
    try:
        facts = facts_of(settings.broker.certificate.read_bytes())
    except OSError as problem:
        raise SettingsError("broker.certificate", "cannot be read", found=str(problem)) from problem
    if facts.name != settings.name:
        where = str(settings.broker.certificate)
        raise SettingsError(where, "the certificate is somebody else's", expected=str(settings.name), found=facts.name)
    now = datetime.now(UTC)
    if not facts.begins <= now <= facts.ends:
        valid = f"a time from {facts.begins:%Y-%m-%d} to {facts.ends:%Y-%m-%d}"
        mend = "`hosfl provision renew` makes a new one"
        raise SettingsError(
            str(settings.broker.certificate), "the certificate is not valid now", expected=valid, found=f"{now:%Y-%m-%d}", mend=mend
        )


def _named(file: Path, settings: ProcessSettings, role: Role) -> ProcessSettings:
    fixed = _FIXED_NAMES.get(role)
    if fixed is None and settings.name is None:
        raise SettingsError(f"{file}: name", "missing", expected="the client's name, such as client-3")
    if fixed is not None and settings.name not in (None, fixed):
        raise SettingsError(f"{file}: name", f"the {role} has a fixed name", expected=fixed, found=str(settings.name))
    return settings.model_copy(update={"name": fixed or settings.name})


def _with_paths_from(folder: Path, settings: ProcessSettings) -> ProcessSettings:
    def seen(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    broker = settings.broker
    update = {"ca": seen(broker.ca), "certificate": seen(broker.certificate), "key": seen(broker.key)}
    return settings.model_copy(
        update={
            "scenario": folder / settings.scenario,
            "state": folder / settings.state,
            "trace": seen(settings.trace),
            "broker": broker.model_copy(update=update),
            "health": settings.health.model_copy(update={"file": seen(settings.health.file)}),
        }
    )


def _explained(file: Path, error: ValidationError) -> SettingsError:
    lines = []
    for detail in error.errors(include_url=False):
        key = ".".join(map(str, detail["loc"]))
        variable = ENVIRONMENT + "__".join(map(str, detail["loc"])).upper()
        what = {"missing": "missing", "extra_forbidden": "unknown key"}.get(detail["type"], detail["msg"])
        lines.append(f"{key} (or {variable}): {what}")
    return SettingsError(str(file), lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems", *lines]))
