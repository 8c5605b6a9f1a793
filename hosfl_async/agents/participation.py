"""How much a contribution counts given how often its client has contributed: a remedy for the bias towards fast clients.

Asynchronously a client takes part as often as it is fast, so the log minimises the loss weighted by speed, not by data; with label-skewed
data that is another model (FedBuff, arXiv:2106.06639, discusses it). With n the client's steps in the log, this
one included, and m the mean of that number over all clients that contributed::

    any      1
    capped   min(1, cap m / n)          nobody's sum of weights runs away from cap times the mean
    inverse  min(boost_max, m / n)      where speeds are steady, everybody's sum of weights grows alike

The factor multiplies the staleness weight and stands in the record of the admission. n and m come from the log alone, so they survive a
restart and do not depend on what waits in the buffer. Nothing is refused: a cap that refused would stall a run whose slow clients left.
"""

from __future__ import annotations

from hosfl_async.agents.settings import ParticipationSettings


def participation_weight(steps: int, mean_steps: float, settings: ParticipationSettings) -> float:
    """The factor for a client with ``steps`` >= 1 steps in the log, this one included; ``mean_steps`` as in the module's text."""
    if settings.rule == "any":
        return 1.0
    if settings.rule == "capped":
        return min(1.0, settings.cap * mean_steps / steps)
    return min(settings.boost_max, mean_steps / steps)
