"""Stories: tests/stories/*.txt, each a history of the whole toy system that a person can read, commands and what came of them.

A line that begins with ``>`` is a command; what follows it, down to the next command or comment, is what happened, an event and its
effects (indented). The first differing line is shown when a story has changed. If the change is meant, write it down anew and read
the difference before you commit it::

    HOSFL_REWRITE_STORIES=1 python -m pytest tests/agents/test_stories.py

Commands::

    > world clients=1 client_steps=2 ...   a new world; any setting of aggregator, client or server by name
    > start NAME ...                       machines start (``all``: everyone that is down)
    > crash NAME                           it loses all but its records
    > crash NAME before N                  inside its next event, when N effects have been obeyed
    > deliver WHAT                         the oldest message under way of that kind (or ``all`` that are under way now)
    > deliver WHAT to NAME                 ... to that agent (or ``from NAME``: from that agent)
    > repeat WHAT [to NAME]                it arrives, and a copy stays under way
    > lose WHAT [to NAME]                  it does not arrive
    > job NAME                             the job under way ends
    > timer NAME TIMER                     it fires
    > gone NAME                            the transport reports it to the aggregator
    > go on until WHAT                     jobs end and messages arrive in order, until one of that kind is under way; not told in full
    > go on until version N              likewise, until the log has N entries
    > go on to the end                     likewise, timers too, until all are finished; what must hold is checked
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from toy import SMALL_AGGREGATOR, SMALL_CLIENT, SMALL_SERVER, World

STORIES = Path(__file__).parent.parent / "stories"
REWRITE = os.environ.get("HOSFL_REWRITE_STORIES") == "1"


def setting(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Teller:
    """Carries commands out and says what came of them."""

    world: World

    def tell(self, command: str) -> list[str]:
        verb, *words = command.split()
        if verb == "world":
            return self.new_world(dict(word.split("=") for word in words))
        self.world.story.clear()
        told = getattr(self, f"_{verb}")(*words)
        return self.world.story if told is None else told

    def new_world(self, given: dict[str, str]) -> list[str]:
        clients = int(given.pop("clients", "1"))
        changes = {name: setting(value) for name, value in given.items()}
        parts = []
        for part in (SMALL_AGGREGATOR, SMALL_CLIENT, SMALL_SERVER):
            own = {field.name for field in fields(part)}
            parts.append(replace(part, **{name: value for name, value in changes.items() if name in own}))
            given = {name: value for name, value in given.items() if name not in own}
        assert not given, f"no agent has the setting {given}"
        self.world = World(clients, aggregator=parts[0], client=parts[1], server=parts[2])
        return []

    def _start(self, *names: str) -> None:
        for name in [node.name for node in self.world.nodes.values() if not node.up] if names == ("all",) else names:
            self.world.start(name)

    def _crash(self, name: str, before: str = "", number: str = "") -> None:
        if before:
            self.world.nodes[name].crash_before_effect = int(number)
            return
        self.world.crash(name)

    def _find(self, what: str, to: str, name: str) -> int:
        for index, flight in enumerate(self.world.in_flight):
            end = {"": "", "to": flight.recipient, "from": flight.sender}[to]
            if type(flight.message).__name__ == what and end == name:
                return index
        under_way = [(type(flight.message).__name__, flight.recipient) for flight in self.world.in_flight]
        raise AssertionError(f"no {what} {to} {name} is under way: {under_way}")

    def _deliver(self, what: str, to: str = "", name: str = "") -> None:
        if what == "all":
            for _ in range(len(self.world.in_flight)):
                self.world.deliver()
        else:
            self.world.deliver(self._find(what, to, name))

    def _repeat(self, what: str, to: str = "", name: str = "") -> None:
        self.world.deliver(self._find(what, to, name), keep=True)

    def _lose(self, what: str, to: str = "", name: str = "") -> list[str]:
        flight = self.world.drop(self._find(what, to, name))
        return [f"{flight.sender} -> {flight.recipient} lost"]

    def _job(self, name: str) -> None:
        self.world.run_job(name)

    def _timer(self, name: str, timer: str) -> None:
        self.world.fire(name, timer)

    def _gone(self, name: str) -> None:
        self.world.report_gone(name)

    def _go(self, _on: str, how: str, what: str, number: str = "") -> list[str]:
        world = self.world
        if how == "to":
            world.calm()
            world.check_end()
        elif what == "version":
            while len(world.entries) < int(number):
                world.happen(0)
        else:
            while what not in [type(flight.message).__name__ for flight in world.in_flight]:
                assert world.jobs or world.in_flight, f"no {what} ever comes"
                world.happen(0)
        return [self.state()]

    def state(self) -> str:
        world = self.world
        parts = []
        for name, node in world.nodes.items():
            what = "down" if not node.up else "finished" if node.agent.finished else "at work"
            parts.append(f"{name} {what}" + (f" at version {node.learner.version}" if node.up else ""))
        return f"{len(world.logged)} steps in {len(world.entries)} entries; " + ", ".join(parts)


def retold(text: str) -> str:
    """The same comments and commands, with what comes of them now."""
    teller, lines = Teller(), []
    kept_blank = False
    for line in text.splitlines():
        if line.startswith("#") or (line == "" and not kept_blank):
            lines.append(line)
        elif line.startswith(">"):
            lines += [line, *teller.tell(line[1:])]
        kept_blank = line == ""
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize("path", sorted(STORIES.glob("*.txt")), ids=lambda path: path.stem)
def test_story(path: Path) -> None:
    text = path.read_text()
    again = retold(text)
    if REWRITE:
        path.write_text(again)
    else:
        assert text.splitlines() == again.splitlines(), f"{path.name} has changed; see the text of this module"


def test_there_are_stories_and_each_says_first_what_it_shows() -> None:
    paths = list(STORIES.glob("*.txt"))
    assert len(paths) >= 7
    for path in paths:
        assert path.read_text().startswith("# "), path.name
