"""How much a contribution counts when the log has moved on since it was begun.

Staleness tau is a number of versions: the head at admission minus the base version of the step. One pure function per rule, each
from [0, inf) to [0, 1], never increasing, 1 at tau = 0. The aggregator and the split server each have a policy of their own.
Sources: FedAsync (arXiv:1903.03934, section 5.2) for constant, polynomial and hinge; cutoff is the usual tau_max.
"""

from __future__ import annotations

from collections.abc import Callable

from hosfl_async.agents.settings import StalenessSettings


def constant(tau: int, settings: StalenessSettings) -> float:
    return 1.0


def polynomial(tau: int, settings: StalenessSettings) -> float:
    return float((1.0 + tau) ** -settings.exponent)


def hinge(tau: int, settings: StalenessSettings) -> float:
    late = tau - settings.hinge_from
    return 1.0 if late <= 0 else 1.0 / (settings.hinge_slope * late + 1.0)


def cutoff(tau: int, settings: StalenessSettings) -> float:
    return 1.0 if tau <= settings.versions_max else 0.0


RULES: dict[str, Callable[[int, StalenessSettings], float]] = {
    "constant": constant,
    "polynomial": polynomial,
    "hinge": hinge,
    "cutoff": cutoff,
}


def staleness_weight(tau: int, settings: StalenessSettings) -> float:
    """The weight in [0, 1] of a contribution ``tau`` versions old; 0 means: refuse it."""
    return RULES[settings.rule](tau, settings)
