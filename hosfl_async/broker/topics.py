"""The topic scheme, and the quality of service of each message kind.

::

    hosfl/<run>/to/<recipient>/from/<sender>     a frame to one agent or to a group
    hosfl/<run>/presence/<agent>                 "here <token>" | "lost <token>", retained; empty after a farewell
    hosfl/<run>/telemetry/<agent>                what it says of itself to people who watch (``telemetry.Telemetry``); no agent listens

Identity is a topic level: an access list with one pattern per agent (``write hosfl/+/to/+/from/%u``, ``read hosfl/+/to/%u/from/+``)
proves the sender's name, and no payload has to be trusted for it. Presence is the only retained topic; "lost" is the last will. The token
names one connection and grows with time, so that late news of an old connection cannot be taken for news of the present one.

Quality of service: 0 for frames of every kind, by default. What each kind would gain from QoS 1, the broker's word that it has the frame,
it has already, from its receiver's own answer, which says more:

=====================================================  =====================================================================
message kind                                           who repeats it until it is answered
=====================================================  =====================================================================
SmashedData, DualRequest                               the client, until DualVariable or DualRefused
Join, ProjectedGradients, CatchUp                      the client (CatchUp: the split server as well), until answered
DualVariable, DualRefused, Welcome, JoinRefused,       nobody: the question is repeated, and the remembered answer with it
Accepted, Refused, LogPage, Snapshot, DigestDiffers
HeadAnnounced                                          nobody: a hint
presence                                               (QoS 1: rare, and a farewell must have arrived before DISCONNECT)
telemetry                                              nobody (always QoS 0, at most one each few seconds: the next one says more)
=====================================================  =====================================================================

And QoS 1 costs: with mosquitto 1.1 to 1.3 times the processor time per message, with iotcore, which leaves Nagle's algorithm on, 44 ms
instead of 0.4 ms for a question and its answer (``python -m benchmarks.broker``). On a connection that holds, TCP loses nothing; one that
breaks may lose frames at either quality, since sessions are not resumed. QoS 1 remains a setting, for brokers that drop QoS 0 under load.
"""

from __future__ import annotations

import re

from hosfl_async.broker.transport import ANYONE, Station
from hosfl_async.errors import SettingsError

ROOT = "hosfl"
HERE, LOST = "here", "lost"
LEFT = b""
"""An empty retained payload deletes the retained message: who left in good order leaves no trace."""

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
        self.telemetry = f"{self._base}/telemetry/{station.name}"
        addresses = (station.name, *(check_name(group, "group name") for group in station.groups))
        self.frame_filters = tuple(f"{self._base}/to/{address}/from/+" for address in addresses)
        watched = station.watches if ANYONE in station.watches else (*station.watches, station.name)
        self.presence_filters = tuple(f"{self._base}/presence/{peer}" for peer in watched)
        """Always with the station's own, since that is where it hears of a namesake."""
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


def presence(word: str, token: str) -> bytes:
    """The payload that says ``word`` (``HERE`` or ``LOST``) of the connection named by ``token``."""
    return f"{word} {token}".encode()


def read_presence(payload: bytes) -> tuple[str, str]:
    """Word and token of a presence payload; two empty strings for a farewell and for anything unreadable."""
    word, _, token = payload.decode("ascii", "replace").partition(" ")
    return (word, token) if word in (HERE, LOST) else ("", "")


def telemetry_filter(run: str | None) -> str:
    """What whoever watches subscribes to: the telemetry of all agents of a run, or of every run. Raises ``SettingsError`` for no name."""
    return f"{ROOT}/{ANYONE if run is None else check_name(run, 'run name')}/telemetry/{ANYONE}"


def telemetry_of(topic: str) -> tuple[str, str] | None:
    """Run and agent of a telemetry topic, ``None`` for any other topic."""
    levels = topic.split("/")
    if len(levels) == 4 and levels[0] == ROOT and levels[2] == "telemetry" and _NAME.match(levels[1]) and _NAME.match(levels[3]):
        return levels[1], levels[3]
    return None


TOPICS_KEPT_MAX = 4096
"""Topic strings kept ready per station; beyond it they are built anew for each frame."""
