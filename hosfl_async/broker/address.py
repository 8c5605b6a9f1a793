"""Where a broker is: ``mqtt://[user[:password]@]host[:port]``, read strictly so that a typing error is one clear line."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from msgspec import Struct

from hosfl_async.errors import SettingsError

PORT_DEFAULT = 1883


class BrokerAddress(Struct, frozen=True):
    """A broker's host and port, and the credentials to show there. Printing it never shows the password."""

    host: str
    port: int = PORT_DEFAULT
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{user}{host}:{self.port}"

    def __repr__(self) -> str:
        return f"BrokerAddress({self})"


def parse_broker_url(url: str) -> BrokerAddress:
    """Read a broker's URL; user and password may be percent-encoded. Raises ``SettingsError``, never with the password in its text."""
    expected = "mqtt://[user[:password]@]host[:port]"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise SettingsError("broker", f"not a broker's URL ({error})", expected=expected) from None
    if parts.scheme != "mqtt":
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
    return BrokerAddress(parts.hostname, PORT_DEFAULT if port is None else port, username, password)
