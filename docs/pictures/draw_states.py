"""Draws the edge client's phases from its own table of transitions: ``python docs/pictures/draw_states.py`` writes edge-client.svg here."""

from __future__ import annotations

import math
from pathlib import Path

from hosfl_async.agents.edge_client import TRANSITIONS, Phase

FILE = Path(__file__).parent / "edge-client.svg"
CENTRES = {
    Phase.JOINING: (70, 40),
    Phase.RESTING: (310, 40),
    Phase.DONE: (550, 40),
    Phase.FORWARD: (70, 180),
    Phase.BROKEN: (310, 180),
    Phase.PROJECTING: (550, 180),
    Phase.AWAITING_DUAL: (310, 330),
}
"""Where each phase is drawn. One that is missing here is an error; a transition needs nothing."""
WIDTH, HEIGHT, GAP = 116, 36, 3
BEND = 14
AROUND = {(Phase.AWAITING_DUAL, Phase.RESTING): 140}
"""Ways that would run through a third box, and how far aside they go."""
STYLE = """
  svg { background: #fff; font: 13px system-ui, sans-serif }
  rect { fill: #eef4fb; stroke: #2b5d8c; stroke-width: 1.5 }
  rect.end { fill: #f3f3f3; stroke: #666 }
  text { fill: #111; text-anchor: middle; dominant-baseline: central }
  path { fill: none; stroke: #2b5d8c; stroke-width: 1.4; marker-end: url(#tip) }
  path.broken { stroke: #999; stroke-dasharray: 4 3 }
"""
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" style="fill:#555;stroke:none;marker-end:none"/></marker></defs>'
)


def edge_of(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from a box's centre leaves the box."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    shares = [(side / 2 + GAP) / abs(way) for side, way in ((WIDTH, across), (HEIGHT, down)) if way]
    return centre[0] + across * min(shares), centre[1] + down * min(shares)


def arrow(here: Phase, there: Phase) -> str:
    """A curve from box to box; two ways between the same phases bend apart."""
    start, end = CENTRES[here], CENTRES[there]
    across, down = end[0] - start[0], end[1] - start[1]
    bend = AROUND.get((here, there), BEND if here in TRANSITIONS[there] else 0) / math.hypot(across, down)
    middle = (start[0] + end[0]) / 2 - down * bend, (start[1] + end[1]) / 2 + across * bend
    numbers = [*edge_of(start, middle), *middle, *edge_of(end, middle)]
    kind = ' class="broken"' if there is Phase.BROKEN else ""
    x0, y0, x1, y1, x2, y2 = (f"{number:.0f}" for number in numbers)
    return f'<path{kind} data-way="{here}-{there}" d="M{x0} {y0} Q{x1} {y1} {x2} {y2}"/>'


def box(phase: Phase) -> str:
    x, y = CENTRES[phase]
    kind = "" if TRANSITIONS[phase] else ' class="end"'
    shape = f'<rect{kind} x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    return f'{shape}<text x="{x}" y="{y}">{phase}</text>'


def drawn() -> str:
    """The whole picture, in the order of the phases: the same table gives the same bytes."""
    ways = [arrow(here, there) for here in Phase for there in Phase if there in TRANSITIONS[here]]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 360" role="img"><title>Phases of an edge client</title>'
    return "\n".join([head, f"<style>{STYLE}</style>", TIP, *ways, *map(box, Phase), "</svg>"]) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawn())
