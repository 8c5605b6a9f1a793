"""Where a broker is: ``mqtt[s]://[user[:password]@]host[:port]``, read strictly so that a typing error is one clear line; and TLS."""

from __future__ import annotations

import ssl
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from hosfl_async.errors import SettingsError, TransportError

PORT_DEFAULT = 1883
PORT_TLS = 8883


class BrokerAddress(Struct, frozen=True):
    """A broker's host and port, and the credentials to show there. Printing it never shows the password."""

    host: str
    port: int = PORT_DEFAULT
    username: str | None = None
    password: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerAddress({self})"


def parse_broker_url(url: str) -> BrokerAddress:
    """Read a broker's URL; user and password may be percent-encoded. Raises ``SettingsError``, never with the password in its text."""
    expected = "mqtt://[user[:password]@]host[:port], or mqtts:// for TLS"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise SettingsError("broker", f"not a broker's URL ({error})", expected=expected) from None
    if parts.scheme not in ("mqtt", "mqtts"):
        found = f"{parts.scheme}://..." if parts.scheme else "no scheme"
        raise SettingsError("broker", "only MQTT over TCP is spoken", expected=expected, found=found)
    if not parts.hostname:
        raise SettingsError("broker", "the URL names no host", expected=expected)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingsError("broker", "nothing may follow host and port", expected=expected, found=parts.path or "a query")
    if port == 0:
        raise SettingsError("broker", "port 0 cannot be connected to", expected="1..65535")
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    tls = parts.scheme == "mqtts"
    standard = PORT_TLS if tls else PORT_DEFAULT
    return BrokerAddress(parts.hostname, standard if port is None else port, username, password, tls)


def unreachable(name: str, address: BrokerAddress, problem: Exception) -> TransportError:
    """Nobody answered, or refused: who wanted to connect, where, and why it failed."""
    hint = "; does a broker run there? `hosfl broker` runs one" if "Connection refused" in str(problem) else ""
    return TransportError(f"{name} cannot connect to {address}: {problem}{hint}")


class TlsFiles(Struct, frozen=True):
    """Paths of PEM files: the authority that the broker's certificate must come from (else the machine's own authorities), and our own
    certificate with its key, if the broker wants one."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """What a TLS connection needs; TLS 1.2 at least, the broker's name is checked. Raises ``SettingsError`` naming the file."""
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("broker", "a certificate and its key belong together", expected="both, or none")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError("broker.ca", "not a certificate authority's file", expected="PEM", found=f"{self.ca} ({error})") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except (OSError, ssl.SSLError) as error:
                found = f"{self.certificate}, {self.key} ({error})"
                raise SettingsError("broker.certificate", "not a certificate with its key", expected="PEM", found=found) from None
        return context
