"""The turnstile: how many client steps are in flight, and who goes next.

Theory. FedBuff (arXiv:2106.06639, section 3) keeps M client steps in flight, its concurrency: staleness is about M / K, so M is what
trades speed against it. Here a client wishes for a step and gets a *place*, or is parked. A place is free again when the step's
contribution has arrived, when its client wishes for a later step (it works on one at a time), is reported gone, or has been silent until
the place's deadline. Places and parked wishes are soft state: nothing of them is durable, a client repeats its wish until it is granted,
and admission never asks for a place. So the turnstile may forget everything and costs progress at most, never correctness.

Two ways to open places:

* *Concurrency* M: each freed place goes to one parked client, chosen by ``selection``. O(log parked) for each grant, never a broadcast.
* *Cohort* (HO-SFL, arXiv:2603.14773, section 3: m of N clients for each version; over-selection, Bonawitz et al., arXiv:1902.01046: m + x):
  each version opens m + x places once; a place that brought a contribution stays shut until the next version. With selection ``random``
  the cohort is drawn from everyone who joined, and whoever is drawn and does not wait yet is expected: its place is kept for a while.

Choices are deterministic: they hash the run's key and the number of grants so far. Whoever waits while ``overtaken_max`` places go to
others is next, whatever the selection says: nobody starves.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heapify, heappop, heappush

from msgspec import Struct

from hosfl_async.agents.settings import AggregatorSettings
from hosfl_async.errors import AgentError
from hosfl_async.messages import StepId

COUNTS = ("wishes", "granted_at_once", "parked", "granted_later", "wishes_repeated", "wishes_late", "wishes_dropped", "unparked",
          "places_expired", "draws_failed")  # fmt: skip

_LINE_SLACK = 16
_DRAWS_PER_PLACE = 4


class Wish(Struct, frozen=True, gc=False):
    """A client wants to begin ``step`` and has the log up to ``from_version``; among waiting wishes, a lower ``rank`` goes first."""

    step: StepId
    from_version: int
    rank: float


class Place(Struct, frozen=True, gc=False):
    """A step in flight, or (``step`` None) a drawn client that is expected; ``cohort`` numbers the opening it belongs to."""

    step: StepId | None
    since_s: float
    cohort: int


class Turnstile:
    """Places, parked wishes and the choice between them. Every method gives the wishes that are granted now, in order."""

    def __init__(
        self, settings: AggregatorSettings, counts: dict[str, int], *, member: Callable[[int], str | None], members: Callable[[], int]
    ) -> None:
        """``member(i)`` names the i-th of the ``members()`` clients that ever joined, or None if it is not there just now."""
        self._settings = settings
        self._counts = counts
        self._member = member
        self._members = members
        self.key = b""
        """Of the run; hashed into every choice."""
        self._places: dict[str, Place] = {}
        self._parked: dict[str, tuple[Wish, int]] = {}
        self._line: list[tuple[float, bytes, StepId]] = []
        self._cohort = 0
        self._grants = 0
        self._draws = 0
        self._open = settings.cohort + settings.cohort_extra if settings.cohort else settings.concurrency

    # -- what others may read -----------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Places that are taken, by clients at work or expected."""
        return len(self._places)

    @property
    def waiting(self) -> int:
        return len(self._parked)

    @property
    def places_max(self) -> int:
        """Greatest number of places that can be taken by one opening; 0: no limit."""
        settings = self._settings
        return settings.cohort + settings.cohort_extra if settings.cohort else settings.concurrency

    def next_deadline_s(self) -> float | None:
        """When the oldest place expires, in the agent's time; places are kept in the order in which they were taken."""
        oldest = next(iter(self._places.values()), None)
        return None if oldest is None else oldest.since_s + self._settings.place_deadline_s

    # -- what happens -------------------------------------------------------------------------------------

    def wish(self, wish: Wish, now: float) -> list[Wish]:
        """A client asks, perhaps again."""
        self._counts["wishes"] += 1
        client = wish.step.client
        if not self.places_max:
            self._counts["granted_at_once"] += 1
            return [wish]
        known = self._parked.get(client)
        place = self._places.get(client)
        latest = place.step if place and place.step else known[0].step if known else None
        if latest is not None and wish.step < latest:
            self._counts["wishes_late"] += 1
            return []
        if latest == wish.step:
            self._counts["wishes_repeated"] += 1
            if known:
                self._parked[client] = (wish, known[1])
            return [] if known else [wish]
        opened = self._vacate(client)  # expected, or done with an earlier step whose contribution is lost, late or will never be
        self._withdraw(client)
        if self._open > 0 and (not self._parked or (opened and self._settings.cohort)):
            self._counts["granted_at_once"] += 1
            return [self._grant(wish, now)]
        self._park(wish)
        return self.fill(now)

    def contributed(self, step: StepId, now: float, *, admitted: bool) -> float | None:
        """The contribution of ``step`` is here: for how many seconds its place was taken, or None if it had none. ``fill`` comes next."""
        place = self._places.get(step.client)
        if place is None or place.step != step:
            return None
        self._vacate(step.client, used=admitted)
        return now - place.since_s

    def forget(self, client: str, now: float) -> list[Wish]:
        """The client is gone, or has begun a new life."""
        self._withdraw(client)
        return self.fill(now) if self._vacate(client) else []

    def expire(self, now: float) -> list[Wish]:
        """Take back the places whose deadline has passed."""
        expired = False
        while (due := self.next_deadline_s()) is not None and due <= now:
            self._counts["places_expired"] += 1
            self._vacate(next(iter(self._places)))
            expired = True
        return self.fill(now) if expired else []

    def next_cohort(self, now: float) -> list[Wish]:
        """A version was committed: open the places of the next cohort. Steps of earlier ones stay in flight; they hold no place of it."""
        if not self._settings.cohort:
            return []
        self._cohort += 1
        self._open = self.places_max
        for client in [client for client, place in self._places.items() if place.step is None]:
            del self._places[client]
        return self.fill(now)

    def fill(self, now: float) -> list[Wish]:
        """Give the open places to those who wait."""
        granted = self._draw(now) if self._settings.cohort and self._settings.selection == "random" else []
        while self._open > 0 and self._parked:
            granted.append(self._grant(self._leave_line(self._choose()), now))
        return granted

    def validate(self) -> None:
        """Raise ``AgentError`` if wishes are not conserved, or more places are taken than there are."""
        counts, wished = self._counts, self._counts["wishes"]
        sorted_out = sum(counts[kind] for kind in ("granted_at_once", "parked", "wishes_repeated", "wishes_late", "wishes_dropped"))
        if wished != sorted_out or counts["parked"] != counts["granted_later"] + counts["unparked"] + len(self._parked):
            raise AgentError(f"wishes are not conserved: {counts}, {len(self._parked)} parked")
        taken = sum(place.cohort == self._cohort for place in self._places.values())
        free = self.places_max - taken - self._open
        if self._open < 0 or free < 0 or (free and not self._settings.cohort) or len(self._parked) > self._settings.parked_max:
            raise AgentError(f"{taken} places taken and {self._open} open of {self.places_max}, {len(self._parked)} parked")

    # -- places -------------------------------------------------------------------------------------------

    def _grant(self, wish: Wish, now: float) -> Wish:
        self._open -= 1
        self._grants += 1
        self._places[wish.step.client] = Place(wish.step, now, self._cohort)
        return wish

    def _vacate(self, client: str, *, used: bool = False) -> bool:
        """Free a place; True if it is open to others. In a cohort, one that was used is not, nor one of an earlier cohort."""
        place = self._places.pop(client, None)
        if place is None or (self._settings.cohort and (used or place.cohort != self._cohort)):
            return False
        self._open += 1
        return True

    def _draw(self, now: float) -> list[Wish]:
        """Draw clients from all who joined; those who are parked are granted, the others expected."""
        granted: list[Wish] = []
        for _ in range(_DRAWS_PER_PLACE * self._open):
            if self._open <= 0:
                break
            self._draws += 1
            client = self._member(self._hashed(self._draws) % self._members())
            if client is None or client in self._places:
                self._counts["draws_failed"] += 1
            elif client in self._parked:
                granted.append(self._grant(self._leave_line(client), now))
            else:
                self._open -= 1
                self._places[client] = Place(None, now, self._cohort)
        return granted

    # -- the line -----------------------------------------------------------------------------------------

    def _park(self, wish: Wish) -> None:
        if len(self._parked) >= self._settings.parked_max:
            self._counts["wishes_dropped"] += 1  # it will be repeated
            return
        self._counts["parked"] += 1
        self._parked[wish.step.client] = (wish, self._grants)
        entry = (wish.rank, self._tie(wish.step), wish.step)
        if self._settings.selection == "random":
            self._line.append(entry)
        else:
            heappush(self._line, entry)
        if len(self._line) > 2 * len(self._parked) + _LINE_SLACK:
            self._line = [entry for entry in self._line if self._waits(entry[2])]
            if self._settings.selection != "random":
                heapify(self._line)

    def _leave_line(self, client: str) -> Wish:
        """It is granted now. What it leaves behind in the line is skipped later."""
        self._counts["granted_later"] += 1
        return self._parked.pop(client)[0]

    def _withdraw(self, client: str) -> None:
        if self._parked.pop(client, None) is not None:
            self._counts["unparked"] += 1

    def _waits(self, step: StepId) -> bool:
        parked = self._parked.get(step.client)
        return parked is not None and parked[0].step == step

    def _choose(self) -> str:
        """The client that goes next; at least one is parked."""
        client, (_, parked_at) = next(iter(self._parked.items()))
        if self._grants - parked_at >= self._settings.overtaken_max:
            return client
        while True:
            if self._settings.selection == "random":
                index = self._hashed(self._grants) % len(self._line)
                self._line[index], self._line[-1] = self._line[-1], self._line[index]
                step = self._line.pop()[2]
            else:
                step = heappop(self._line)[2]
            if self._waits(step):
                return step.client

    def _hashed(self, number: int) -> int:
        return int.from_bytes(blake2b(number.to_bytes(8, "little"), key=self.key, digest_size=8).digest(), "little")

    def _tie(self, step: StepId) -> bytes:
        """Among equal ranks the order is random, not that of the names."""
        return blake2b(str(step).encode(), key=self.key, digest_size=8).digest()
