"""Draws what agents go through from their own tables of transitions: ``python docs/pictures/draw_states.py`` writes the .svg files here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from hosfl_async.agents import cut_step, edge_client
from hosfl_async.agents.cut_step import CutPhase
from hosfl_async.agents.edge_client import Phase
from hosfl_async.agents.membership import FATES, Fate

FOLDER = Path(__file__).parent
HEIGHT, GAP = 36, 3
BEND = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A table, and where each of its phases stands. A phase without a place is an error; a transition needs nothing."""

    title: str
    table: dict[StrEnum, frozenset[StrEnum]]
    centres: dict[StrEnum, tuple[int, int]]
    size: tuple[int, int]
    width: int = 116
    """Of a box."""
    faint: StrEnum | None = None
    """The phase that nearly all others lead to; ways there are drawn dashed."""
    around: dict[tuple[StrEnum, StrEnum], int] = field(default_factory=dict)
    """Ways that would run through a third box, and how far aside they go."""


DRAWINGS = {
    "edge-client": Drawing(
        title="Phases of an edge client",
        table=edge_client.TRANSITIONS,
        centres={
            Phase.JOINING: (70, 40),
            Phase.RESTING: (310, 40),
            Phase.DONE: (550, 40),
            Phase.FORWARD: (70, 180),
            Phase.BROKEN: (310, 180),
            Phase.PROJECTING: (550, 180),
            Phase.AWAITING_DUAL: (310, 330),
        },
        size=(620, 360),
        faint=Phase.BROKEN,
        around={(Phase.AWAITING_DUAL, Phase.RESTING): 140},
    ),
    "cut-step": Drawing(
        title="A client step at the split server",
        table=cut_step.TRANSITIONS,
        centres={
            CutPhase.QUEUED: (100, 150),
            CutPhase.ASKED: (100, 40),
            CutPhase.TRAINED: (330, 40),
            CutPhase.EVALUATING: (560, 40),
            CutPhase.ANSWERED: (790, 95),
            CutPhase.REFUSED: (445, 240),
            CutPhase.FORGOTTEN: (790, 240),
        },
        size=(890, 280),
        width=168,
        faint=CutPhase.FORGOTTEN,
    ),
    "contribution": Drawing(
        title="A client step at the aggregator",
        table=FATES,
        centres={
            Fate.UNKNOWN: (75, 110),
            Fate.WAITING: (310, 40),
            Fate.IN_LOG: (545, 40),
            Fate.REFUSED: (310, 180),
            Fate.SUPERSEDED: (545, 180),
        },
        size=(620, 250),
        faint=Fate.SUPERSEDED,
        around={(Fate.UNKNOWN, Fate.SUPERSEDED): 130},
    ),
}
LIGHT = "--ground:#fff;--ink:#111;--line:#2b5d8c;--box:#eef4fb;--end-line:#666;--end-box:#f3f3f3;--faint:#999;--tip:#555"
DARK = "--ground:#161b22;--ink:#e6ebef;--line:#7fb2e0;--box:#1f3347;--end-line:#999;--end-box:#2a2f36;--faint:#8a929b;--tip:#b6bec6"
STYLE = f"""
  .states {{ {LIGHT}; background: var(--ground); font: 13px system-ui, sans-serif }}
  @media (prefers-color-scheme: dark) {{ .states {{ {DARK} }} }}
  .states rect {{ fill: var(--box); stroke: var(--line); stroke-width: 1.5 }}
  .states rect.end {{ fill: var(--end-box); stroke: var(--end-line) }}
  .states text {{ fill: var(--ink); text-anchor: middle; dominant-baseline: central }}
  .states path {{ fill: none; stroke: var(--line); stroke-width: 1.4; marker-end: url(#states-tip) }}
  .states path.broken {{ stroke: var(--faint); stroke-dasharray: 4 3 }}
"""
"""Colours are words: the site puts a drawing into its page and chooses them by its own light or dark; alone it follows its reader."""
TIP = (
    '<defs><marker id="states-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" style="fill:var(--tip);stroke:none;marker-end:none"/></marker></defs>'
)


def edge_of(centre: tuple[float, float], towards: tuple[float, float], width: int) -> tuple[float, float]:
    """Where the line from a box's centre leaves the box."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    shares = [(side / 2 + GAP) / abs(way) for side, way in ((width, across), (HEIGHT, down)) if way]
    return centre[0] + across * min(shares), centre[1] + down * min(shares)


def arrow(drawing: Drawing, here: StrEnum, there: StrEnum) -> str:
    """A curve from box to box; two ways between the same phases bend apart."""
    start, end = drawing.centres[here], drawing.centres[there]
    across, down = end[0] - start[0], end[1] - start[1]
    bend = drawing.around.get((here, there), BEND if here in drawing.table[there] else 0) / math.hypot(across, down)
    middle = (start[0] + end[0]) / 2 - down * bend, (start[1] + end[1]) / 2 + across * bend
    numbers = [*edge_of(start, middle, drawing.width), *middle, *edge_of(end, middle, drawing.width)]
    kind = ' class="broken"' if there is drawing.faint else ""
    x0, y0, x1, y1, x2, y2 = (f"{number:.0f}" for number in numbers)
    return f'<path{kind} data-way="{here}-{there}" d="M{x0} {y0} Q{x1} {y1} {x2} {y2}"/>'


def box(drawing: Drawing, phase: StrEnum) -> str:
    x, y = drawing.centres[phase]
    kind = "" if drawing.table[phase] else ' class="end"'
    shape = f'<rect{kind} x="{x - drawing.width // 2}" y="{y - HEIGHT // 2}" width="{drawing.width}" height="{HEIGHT}" rx="8"/>'
    return f'{shape}<text x="{x}" y="{y}">{phase}</text>'


def drawn(drawing: Drawing) -> str:
    """The whole picture, in the order of the phases: the same table gives the same bytes."""
    phases = list(drawing.table)
    ways = [arrow(drawing, here, there) for here in phases for there in phases if there in drawing.table[here]]
    width, height = drawing.size
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="states" viewBox="0 0 {width} {height}" role="img"><title>{drawing.title}</title>'
    )
    boxes = [box(drawing, phase) for phase in phases]
    return "\n".join([head, f"<style>{STYLE}</style>", TIP, *ways, *boxes, "</svg>"]) + "\n"


if __name__ == "__main__":
    for name, drawing in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(drawn(drawing))
