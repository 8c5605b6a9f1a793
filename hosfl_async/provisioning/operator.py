"""An operator's folder: the authority, the broker's files, and one kit of files for each agent of a run.

::

    operator.json        the run, and every certificate that was ever issued or revoked
    authority/           ca.pem, ca.key: whoever has the key decides who is who
    broker/              mosquitto.conf, access.list, broker.pem, broker.key, ca.pem, crl.pem: to the broker's machine
    kits/NAME/           settings.toml, settings.sig, scenario.toml, ca.pem, device.pem, device.key: to the device

What is issued stands in ``operator.json``, durably, before the certificate leaves; private files can be read by their owner only; nothing
that exists is overwritten unless that is what the command means.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Self

import msgspec

from hosfl_async.broker.address import parse_broker_url
from hosfl_async.broker.settings import BrokerSettings
from hosfl_async.broker.topics import check_name
from hosfl_async.durable_files import sync_folder, write_durably
from hosfl_async.errors import SettingsError
from hosfl_async.provisioning.access import OPERATOR, SERVICES, mosquitto_list
from hosfl_async.provisioning.authority import Pair, facts_of, issue, new_authority, revocation_list, sign
from hosfl_async.provisioning.broker_files import mosquitto_settings
from hosfl_async.scenario import Scenario, load_scenario, scenario_digest, to_toml

BOOK, AUTHORITY, BROKER, KITS = "operator.json", "authority", "broker", "kits"
SETTINGS, SIGNATURE, SCENARIO = "settings.toml", "settings.sig", "scenario.toml"
BROKER_NAME = "broker"
"""Name on the broker's certificate; no agent may have it."""

CERTIFICATE_DAYS = 365
DEVICES_MAX = 100_000
"""Certificates that one operator's folder keeps account of."""


class Issued(msgspec.Struct, frozen=True):
    """One certificate. ``serial`` is hexadecimal text, since it is longer than JSON's numbers."""

    name: str
    serial: str
    ends: datetime
    revoked: datetime | None = None


class Book(msgspec.Struct):
    """``operator.json``."""

    run: str
    url: str
    hosts: list[str]
    scenario_digest: str
    issued: list[Issued] = []


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is, for `hosfl provision init`. ``hosts``: names and addresses of the broker beside that of ``url``."""

    run: str
    scenario: Path
    url: str
    hosts: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    days: int = CERTIFICATE_DAYS


class Operator:
    """An operator's folder; one process at a time works in it. ``now`` is given, so that a test can choose it."""

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        """Raises ``SettingsError`` if this is not such a folder, or somebody works in it."""
        self.folder, self.now = folder, (now or datetime.now(UTC)).replace(microsecond=0)
        try:
            self.book = msgspec.json.decode((folder / BOOK).read_bytes(), type=Book)
            self.authority = Pair((folder / AUTHORITY / "ca.pem").read_bytes(), (folder / AUTHORITY / "ca.key").read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
            mend = "`hosfl provision init` makes one"
            raise SettingsError(str(folder), "not an operator's folder", found=str(problem), mend=mend) from problem
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(self._lock, LOCK_EX | LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise SettingsError(str(folder), "somebody else works in this folder", mend="try again when they have finished") from None

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def create(cls, folder: Path, plan: Plan, now: datetime | None = None) -> Operator:
        """A new authority, the broker's files and the kits of the two services. Raises ``SettingsError``, having made nothing."""
        check_name(plan.run, "run name")
        address = parse_broker_url(plan.url)
        if not address.tls:
            raise SettingsError("--broker", "devices are provisioned for TLS", expected="mqtts://host[:port]", found=plan.url)
        scenario = load_scenario(plan.scenario, plan.overrides)
        if folder.exists() and any(folder.iterdir()):
            raise SettingsError(str(folder), "holds something already", expected="a new or empty folder")
        moment = (now or datetime.now(UTC)).replace(microsecond=0)
        authority = new_authority(f"hosfl {plan.run}", moment)
        for part in (AUTHORITY, BROKER, KITS):
            (folder / part).mkdir(parents=True, mode=0o700)
        write_durably(folder / AUTHORITY / "ca.pem", authority.certificate)
        write_durably(folder / AUTHORITY / "ca.key", authority.key)
        write_durably(folder / SCENARIO, to_toml(scenario).encode())
        hosts = list(dict.fromkeys([address.host, *plan.hosts]))
        book = Book(plan.run, str(address), hosts, scenario_digest(scenario))
        write_durably(folder / BOOK, msgspec.json.format(msgspec.json.encode(book), indent=1))
        operator = cls(folder, moment)
        operator._write_broker(address.port, scenario.broker, plan.days)
        operator.add(SERVICES, plan.days)
        return operator

    def add(self, names: Sequence[str], days: int = CERTIFICATE_DAYS) -> list[Path]:
        """Kits for agents that have none. Raises ``SettingsError``, having made nothing, for names that cannot be or have one."""
        scenario = self._scenario()
        known = {*SERVICES, OPERATOR, *(name for name, _ in scenario.devices())}
        for name in names:
            if name not in known:
                expected = f"client-1 to client-{scenario.clients}, or {OPERATOR}"
                raise SettingsError(name, "no such device in the scenario's fleet", expected=expected, found=name)
            if (self.folder / KITS / name).exists():
                raise SettingsError(name, "has a kit already", mend="`hosfl provision renew` makes a new certificate")
        if len(self.book.issued) + len(names) > DEVICES_MAX:
            raise SettingsError(str(self.folder), "too many certificates for one folder", expected=f"at most {DEVICES_MAX:,}")
        return [self._write_kit(name, scenario, days) for name in names]

    def without_kit(self) -> list[str]:
        """Devices of the fleet that have no kit."""
        return [name for name, _ in self._scenario().devices() if not (self.folder / KITS / name).exists()]

    def renew(self, name: str, days: int = CERTIFICATE_DAYS, *, revoke: bool = False) -> Path:
        """A new key and certificate in place of the old; with ``revoke``, the old ones are no longer valid, as after a theft."""
        if name == BROKER_NAME:
            self._issue_broker(days)
            self._write_revocations()
            return self.folder / BROKER
        if not (self.folder / KITS / name).exists():
            raise SettingsError(name, "has no kit", mend="`hosfl provision device` makes one")
        if revoke:
            self._revoke(name)
        kit = self._write_kit(name, self._scenario(), days)
        self._write_revocations()
        return kit

    def revoke(self, name: str) -> int:
        """Make every certificate of ``name`` invalid; its kit goes. Returns how many there were. Raises ``SettingsError`` if none."""
        number = self._revoke(name)
        if not number:
            raise SettingsError(name, "has no valid certificate")
        self._write_revocations()
        shutil.rmtree(self.folder / KITS / name, ignore_errors=True)
        return number

    def _scenario(self) -> Scenario:
        scenario = load_scenario(self.folder / SCENARIO)
        if scenario_digest(scenario) != self.book.scenario_digest:
            raise SettingsError(str(self.folder / SCENARIO), "was changed after the run was provisioned", mend="begin a new run")
        return scenario

    def _write_broker(self, port: int, settings: BrokerSettings, days: int) -> None:
        place = self.folder / BROKER
        write_durably(place / "mosquitto.conf", mosquitto_settings(self.book.run, port, settings).encode())
        write_durably(place / "access.list", mosquitto_list(self.book.run).encode())
        write_durably(place / "ca.pem", self.authority.certificate)
        self._issue_broker(days)
        self._write_revocations()

    def _issue_broker(self, days: int) -> None:
        pair = self._issue(BROKER_NAME, days, self.book.hosts)
        write_durably(self.folder / BROKER / "broker.key", pair.key)
        write_durably(self.folder / BROKER / "broker.pem", pair.certificate)

    def _write_kit(self, name: str, scenario: Scenario, days: int) -> Path:
        """The kit beside its place, then in it: a device's folder is whole or not there."""
        kit = self.folder / KITS / name
        part = kit.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        pair = self._issue(name, days)
        settings = self._settings(name).encode()
        for file, content in {
            "device.key": pair.key,
            "device.pem": pair.certificate,
            "ca.pem": self.authority.certificate,
            SCENARIO: to_toml(scenario).encode(),
            SETTINGS: settings,
            SIGNATURE: sign(self.authority, settings),
        }.items():
            write_durably(part / file, content)
        old = kit.with_name(f"{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if kit.exists():
            kit.rename(old)
        part.rename(kit)
        sync_folder(kit.parent)
        shutil.rmtree(old, ignore_errors=True)
        return kit

    def _settings(self, name: str) -> str:
        return (
            f"# {name} of run {self.book.run}, signed by the operator: environment variables (HOSFL_STATE, HOSFL_LOG__LEVEL, ...) change\n"
            "# what is this machine's own; a changed file is refused.\n"
            f'run = "{self.book.run}"\nname = "{name}"\nscenario = "{SCENARIO}"\nscenario_digest = "{self.book.scenario_digest}"\n'
            f'state = "state"\nfloor_time = {self.now.isoformat()}\n\n'
            f'[broker]\nurl = "{self.book.url}"\nca = "ca.pem"\ncertificate = "device.pem"\nkey = "device.key"\n\n'
            '[health]\nfile = "health.json"\n'
        )

    def _issue(self, name: str, days: int, hosts: Sequence[str] = ()) -> Pair:
        pair = issue(self.authority, name, self.now, days, hosts=hosts)
        facts = facts_of(pair.certificate)
        self.book.issued.append(Issued(name, f"{facts.serial:x}", facts.ends))
        self._write_book()
        return pair

    def _revoke(self, name: str) -> int:
        valid = [place for place, each in enumerate(self.book.issued) if each.name == name and each.revoked is None]
        for place in valid:
            self.book.issued[place] = msgspec.structs.replace(self.book.issued[place], revoked=self.now)
        self._write_book()
        return len(valid)

    def _write_revocations(self) -> None:
        revoked = [(int(each.serial, 16), each.revoked) for each in self.book.issued if each.revoked is not None]
        write_durably(self.folder / BROKER / "crl.pem", revocation_list(self.authority, revoked, self.now))

    def _write_book(self) -> None:
        write_durably(self.folder / BOOK, msgspec.json.format(msgspec.json.encode(self.book), indent=1))
