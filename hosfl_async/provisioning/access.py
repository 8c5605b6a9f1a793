"""Who may speak and listen where: the access list of a run, from the topic scheme of ``broker.topics``.

Every agent speaks in its own name and hears what is said to it. Devices speak to the two services only, never to each other, and hear of
nobody's presence but their own; the services speak to everyone and hear of everyone's presence. Telemetry is said by all, each of itself,
and heard by the operator alone, who says nothing to anybody: the rules that everyone has are denied to that name. Whatever no rule allows
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hosfl_async.broker.topics import ROOT, check_name
from hosfl_async.messages import AGGREGATOR, CLIENTS, SPLIT_SERVER

SERVICES = (AGGREGATOR, SPLIT_SERVER)
OPERATOR = "operator"
"""Who watches: a name of its own, since a second connection under an agent's name would end the agent's."""
Access = Literal["read", "write", "deny"]
SELF = "%u"
"""In a rule for everyone: the user's own name, as mosquitto writes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``user`` may read, or write, what ``topic`` matches; ``user`` None: everyone, with ``SELF`` in the topic for the own name.

    ``deny``: neither, whatever else is allowed.
    """

    user: str | None
    access: Access
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
        Rule(None, "write", f"{base}/telemetry/{SELF}"),
    ]
    services = [
        rule
        for service in SERVICES
        for rule in (Rule(service, "write", f"{base}/to/+/from/{service}"), Rule(service, "read", f"{base}/presence/+"))
    ]
    operator = [
        *(Rule(OPERATOR, "deny", f"{base}/{levels}") for levels in ("to/#", "presence/#", f"telemetry/{OPERATOR}")),
        Rule(OPERATOR, "read", f"{base}/telemetry/+"),
    ]
    return [*everyone, *services, *operator]


def mosquitto_list(run: str) -> str:
    """The access list as a mosquitto ``acl_file``."""
    found = rules(run)
    lines = [f"# Access list of run {run}. Written by `hosfl provision`; what no line allows is refused.", ""]
    lines += [f"pattern {rule.access} {rule.topic}" for rule in found if rule.user is None]
    for user in (*SERVICES, OPERATOR):
        lines += ["", f"user {user}", *(f"topic {rule.access} {rule.topic}" for rule in found if rule.user == user)]
    return "\n".join(lines) + "\n"


def allows(run: str, user: str, access: Literal["read", "write"], topic: str) -> bool:
    """Whether the rules let ``user`` do that with a topic (no wildcards): the list's meaning, for tests and for people."""
    own = [rule for rule in rules(run) if rule.user in (None, user) and _matches(rule.topic.replace(SELF, user), topic)]
    return any(rule.access == access for rule in own) and not any(rule.access == "deny" for rule in own)


def _matches(pattern: str, topic: str) -> bool:
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))
