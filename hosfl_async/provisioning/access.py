"""Who may speak and listen where: the access list of a run, from the topic scheme of ``broker.topics``.

Every agent speaks in its own name and hears what is said to it. Devices speak to the two services only, never to each other, and hear of
nobody's presence but their own; the services speak to everyone and hear of everyone's presence. Whatever no rule allows is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hosfl_async.broker.topics import ROOT, check_name
from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER

SERVICES = (AGGREGATOR, SPLIT_SERVER)
SELF = "%u"
"""In a rule for everyone: the user's own name, as mosquitto writes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``user`` may read, or write, what ``topic`` matches; ``user`` None: everyone, with ``SELF`` in the topic for the own name."""

    user: str | None
    access: Literal["read", "write"]
    topic: str


def rules(run: str) -> list[Rule]:
    """The whole access list of a run."""
    base = f"{ROOT}/{check_name(run, 'run name')}"
    everyone = [
        Rule(None, "read", f"{base}/to/{SELF}/from/+"),
        *(Rule(None, "write", f"{base}/to/{service}/from/{SELF}") for service in SERVICES),
        Rule(None, "read", f"{base}/to/{CLIENTS}/from/{AGGREGATOR}"),
        Rule(None, "write", f"{base}/presence/{SELF}"),
        Rule(None, "read", f"{base}/presence/{SELF}"),
    ]
    services = [
        rule
        for service in SERVICES
        for rule in (Rule(service, "write", f"{base}/to/+/from/{service}"), Rule(service, "read", f"{base}/presence/+"))
    ]
    return [*everyone, *services]


def mosquitto_list(run: str) -> str:
    """The access list as a mosquitto ``acl_file``."""
    found = rules(run)
    lines = [f"# Access list of run {run}. Written by `hosfl provision`; what no line allows is refused.", ""]
    lines += [f"pattern {rule.access} {rule.topic}" for rule in found if rule.user is None]
    for service in SERVICES:
        lines += ["", f"user {service}", *(f"topic {rule.access} {rule.topic}" for rule in found if rule.user == service)]
    return "\n".join(lines) + "\n"


def allows(run: str, user: str, access: Literal["read", "write"], topic: str) -> bool:
    """Whether the rules let ``user`` do that with a topic (no wildcards): the list's meaning, for tests and for people."""
    return any(
        rule.access == access and rule.user in (None, user) and _matches(rule.topic.replace(SELF, user), topic) for rule in rules(run)
    )


def _matches(pattern: str, topic: str) -> bool:
    wanted, given = pattern.split("/"), topic.split("/")
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))
