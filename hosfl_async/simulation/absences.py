"""Going away and coming back. A pause suspends an agent, a crash takes its memory; both take its link down.

==========  ======================================  ==============================================
kind        while away                              on return
==========  ======================================  ==============================================
pause       job and timers stand still              they go on with the time they had left
crash       job, timers, agent, learner are gone    all made anew; ``Started`` with a higher boot
==========  ======================================  ==============================================

A device that joins late is away until then, one that leaves for ever never comes back; it counts as finished, for nobody waits for it.

What arrives meanwhile is missed; what is under way and arrives after the return is delivered, as the world's late messages are. An
absence that comes up during another one has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from hosfl_async.agent import Event, PeerGone
from hosfl_async.simulation.journal import Journal
from hosfl_async.simulation.nemesis import Nemesis
from hosfl_async.simulation.node import Entry, Node
from hosfl_async.simulation.outcome import Tally
from hosfl_async.simulation.settings import Outage
from hosfl_async.simulation.timeline import Timeline


class Absences:
    """Carries out the nemesis's plan on the nodes.

    ``start`` starts a node anew; ``unfinish`` takes back that a node was finished; ``peer_gone_after_s`` as in the settings.
    ``dropouts_to_come`` counts entries on the timeline that by themselves are no reason to go on.
    """

    def __init__(
        self,
        timeline: Timeline,
        nemesis: Nemesis,
        journal: Journal,
        tally: Tally,
        *,
        start: Callable[[Node, Any], None],
        unfinish: Callable[[Node], None],
        feed: Callable[[Node, Event], None],
        peer_gone_after_s: float,
    ) -> None:
        self._timeline, self._nemesis, self._journal, self._counts = timeline, nemesis, journal, tally.counts
        self._start, self._unfinish, self._feed = start, unfinish, feed
        self._peer_gone_after_s = peer_gone_after_s
        self._services: list[Node] = []
        self.dropouts_to_come = 0

    def watch(self, node: Node) -> None:
        """Tell this service when another agent is gone."""
        self._services.append(node)

    def plan(self, node: Node, outage: Outage) -> None:
        """An absence known in advance; it has no effect if the node is away already."""
        self._timeline.schedule(max(outage.at_s, self._timeline.now_s), self._leave, node, outage)

    def plan_dropout(self, node: Node) -> None:
        """Draw the next absence of a device, if it ever drops out."""
        if node.group is None or node.dropout_planned:
            return
        outage = self._nemesis.next_absence(node.name, node.group, node.dropouts, self._timeline.now_s)
        if outage is not None:
            node.dropouts += 1
            node.dropout_planned = True
            self.dropouts_to_come += 1
            self._timeline.schedule(outage.at_s, self._drop_out, node, outage)

    def _drop_out(self, node: Node, outage: Outage) -> None:
        """A drawn absence comes up. A device that is finished is left alone from now on."""
        self.dropouts_to_come -= 1
        node.dropout_planned = False
        if not node.finished:
            self._leave(node, outage)

    def strike_step(self, node: Node, job: Any, number: int, lasts_s: float) -> None:
        """A job of a step begins on a device that may drop out in it."""
        assert node.group is not None
        outage = self._nemesis.step_dropout(node.name, node.group.dropout, job, number, self._timeline.now_s, lasts_s)
        if outage is not None:
            self.dropouts_to_come += 1
            self._timeline.schedule(outage.at_s, self._drop_out_of_step, node, outage)

    def _drop_out_of_step(self, node: Node, outage: Outage) -> None:
        self.dropouts_to_come -= 1
        if not node.finished:
            self._leave(node, outage)

    def join(self, node: Node, start: Callable[[Node, Any], None]) -> None:
        """Start the node when it joins, and plan its leaving for ever."""
        now_s = joins_s = self._timeline.now_s
        if node.group is not None:
            habits = self._nemesis.habits
            joins_s = habits.joins_at_s(node.name, node.group)
            leaves_s = habits.leaves_at_s(node.name, node.group, joins_s)
            joins_s = max(now_s, joins_s) if leaves_s > now_s else inf  # in a run that goes on it may have left before
            if now_s < leaves_s < inf:
                self.dropouts_to_come += 1
                self._timeline.schedule(leaves_s, self._leave_for_ever, node, None)
        node.away = joins_s > now_s
        if joins_s < inf:
            self._timeline.schedule(joins_s, start, node, None)
        else:
            self._depart(node)

    def _leave_for_ever(self, node: Node, _: Any) -> None:
        self.dropouts_to_come -= 1
        if not node.departed:
            self._depart(node)

    def _depart(self, node: Node) -> None:
        """It is gone: nothing of it is left but what it has counted."""
        node.away = node.departed = True
        interrupted, _ = self._interrupt(node)
        if interrupted or any(not isinstance(detail, str) for _, _, detail in node.suspended or ()):
            self._counts["jobs_lost"] += 1
        node.suspended = None
        self._counts["departed"] += 1
        if node.agent is not None and self._peer_gone_after_s:
            self._timeline.schedule(self._timeline.now_s + self._peer_gone_after_s, self._report, node, None)
        self._journal.note((self._timeline.now_s, node.name, "departed"))
        self._forget(node)
        self._unfinish(node)  # it is not finished, and becomes so

    def _interrupt(self, node: Node) -> tuple[Entry | None, list[Entry]]:
        """Take back what the node has under way: its job, and both job and timers in order."""
        job, node.job = node.job, None
        if job is not None:
            self._timeline.cancel(job)
        return job, sorted([*self._timeline.cancel_timers(node), *([job] if job else [])])

    def _leave(self, node: Node, outage: Outage) -> None:
        if node.away:
            return
        if outage.absence_s == inf:
            self._depart(node)
            return
        node.away = True
        now_s = self._timeline.now_s
        interrupted, pending = self._interrupt(node)
        if outage.kind == "pause":
            self._counts["pauses"] += 1
            self._journal.note((now_s, node.name, "paused"))
            node.suspended = [(entry[0] - now_s, entry[2], entry[4]) for entry in pending]
        else:
            self._counts["crashes"] += 1
            self._counts["jobs_lost"] += interrupted is not None
            self._journal.note((now_s, node.name, "crashed"))
            self._forget(node)
        self._timeline.schedule(now_s + outage.absence_s, self._come_back, node, None)
        if 0 < self._peer_gone_after_s < outage.absence_s:
            self._timeline.schedule(now_s + self._peer_gone_after_s, self._report, node, None)

    def _forget(self, node: Node) -> None:
        node.counts_before = node.counts()
        node.agent = node.learner = None
        if node.finished:
            self._unfinish(node)

    def _come_back(self, node: Node, _: Any) -> None:
        if node.departed:
            return
        node.away = False
        if node.agent is None:
            self._start(node, None)
        else:
            self._resume(node)
        self.plan_dropout(node)

    def _resume(self, node: Node) -> None:
        now_s = self._timeline.now_s
        self._journal.note((now_s, node.name, "resumed"))
        for left_s, act, detail in node.suspended or ():
            if isinstance(detail, str):
                self._timeline.set_timer(now_s + left_s, act, node, detail)
            else:
                node.job = self._timeline.schedule(now_s + left_s, act, node, detail)
        node.suspended = None

    def _report(self, gone: Node, _: Any) -> None:
        """The transport has noticed: both services hear of it, if they are there to hear."""
        for service in self._services:
            if service is not gone and service.present:
                self._counts["peers_gone"] += 1
                self._journal.note((self._timeline.now_s, service.name, "peer_gone", "", None, gone.name))
                self._feed(service, PeerGone(gone.name))
