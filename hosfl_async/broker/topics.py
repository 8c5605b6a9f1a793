"""The topic scheme, and the quality of service of each message kind.

::

    hosfl/<run>/to/<recipient>/from/<sender>     a frame to one agent or to a group
    hosfl/<run>/presence/<agent>                 "here" | "lost", retained; empty after a farewell

Identity is a topic level: an access list with one pattern per agent (``write hosfl/+/to/+/from/%u``, ``read hosfl/+/to/%u/from/+``)
proves the sender's name, and no payload has to be trusted for it. Presence is the only retained topic; "lost" is the last will.
"""

from __future__ import annotations

import re

from hosfl_async.broker.transport import Station
from hosfl_async.errors import SettingsError

ROOT = "hosfl"
HERE, LOST, LEFT = b"here", b"lost", b""
"""Payloads on the presence topic. An empty retained payload deletes the retained message: who left in good order leaves no trace."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can be a topic level (the rule of ``messages.Name``), else raise ``SettingsError``."""
    if not _NAME.match(name):
        raise SettingsError(what, "not a name", expected="1 to 64 of A-Z a-z 0-9 _ . -", found=repr(name))
    return name


class Topics:
    """The topics of one station."""

    def __init__(self, station: Station) -> None:
        check_name(station.run, "run name")
        check_name(station.name, "agent name")
        self._name = station.name
        self._base = f"{ROOT}/{station.run}"
        self._levels = (ROOT, station.run)
        self.presence = f"{self._base}/presence/{station.name}"
        addresses = (station.name, *(check_name(group, "group name") for group in station.groups))
        self.frame_filters = tuple(f"{self._base}/to/{address}/from/+" for address in addresses)
        self.presence_filters = tuple(f"{self._base}/presence/{peer}" for peer in station.watches)
        self._to: dict[str, str] = {}

    def to(self, recipient: str) -> str:
        """The topic on which this station speaks to ``recipient``. Raises ``SettingsError`` for a name that cannot be a topic level."""
        topic = self._to.get(recipient)
        if topic is None:
            topic = f"{self._base}/to/{check_name(recipient, 'recipient')}/from/{self._name}"
            if len(self._to) < TOPICS_KEPT_MAX:
                self._to[recipient] = topic
        return topic

    def sender_of(self, topic: str) -> str | None:
        """The sender of a frame topic of this run, ``None`` for any other topic."""
        levels = topic.split("/")
        if len(levels) == 6 and levels[2] == "to" and levels[4] == "from" and (levels[0], levels[1]) == self._levels:
            return levels[5] if _NAME.match(levels[5]) else None
        return None

    def peer_of(self, topic: str) -> str | None:
        """The agent of a presence topic of this run, ``None`` for any other topic."""
        levels = topic.split("/")
        if len(levels) == 4 and levels[2] == "presence" and (levels[0], levels[1]) == self._levels:
            return levels[3] if _NAME.match(levels[3]) else None
        return None


TOPICS_KEPT_MAX = 4096
"""Topic strings kept ready per station; beyond it they are built anew for each frame."""
