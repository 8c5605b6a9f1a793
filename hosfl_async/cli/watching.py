"""A run while it goes on, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hosfl_async.cli.app import FOLLOW, app
from hosfl_async.errors import SettingsError

if TYPE_CHECKING:
    from hosfl_async.assembly.watching import RunWatch, Watched
    from hosfl_async.report.following import ClientLook, Look

HEARD_WITHIN_S = 3.0
"""Wall seconds in which every agent of a live run is expected to have spoken (``live.telemetry_every_s`` is 2 by default)."""
SHOWN_MAX = 16
"""Clients in the table: those that lag most."""

COLOURS = {
    "computing": "green",
    "waiting for the dual": "yellow",
    "catching up": "cyan",
    "waiting otherwise": "blue",
    "offline": "red",
}
_BARS = "▁▂▃▄▅▆▇█"


MaybeRun = Annotated[Path | None, typer.Argument(help="Folder of a run; left out with --broker or --config.", show_default=False)]
Broker = Annotated[
    str | None, typer.Option("--broker", help="Follow a live run over this broker instead: mqtt://host:port.", show_default=False)
]
RunId = Annotated[
    str | None, typer.Option("--run-id", help="Which run on that broker; left out, the only one that is heard.", show_default=False)
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Follow a live run over the broker of this settings file, such as the kit `operator`.", show_default=False
    ),
]
Every = Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.1, max=3600)]


@app.command(rich_help_panel=FOLLOW, epilog="Example: hosfl watch --broker mqtt://127.0.0.1:1883 --run-id spring-1")
def watch(
    run: MaybeRun = None,
    broker: Broker = None,
    run_id: RunId = None,
    config: Config = None,
    every_s: Every = 0.5,
    once: Annotated[bool, typer.Option("--once", help="One look, and no more.")] = False,
) -> None:
    """Follow a run in the terminal: by its growing folder, or a live one over its broker. It only reads.

    It ends with the run, or with Ctrl-C.
    """
    with chosen(run, broker, run_id, config) as followed:
        seen = followed.look()
        if once:
            while not seen.caught_up:
                seen = followed.look()
            if seen.connection:
                sleep(HEARD_WITHIN_S)
                seen = followed.look()
            Console(highlight=False).print(screen(seen))
            return
        with Live(screen(seen), console=Console(highlight=False), auto_refresh=False) as shown:
            while seen.ended is None or not seen.caught_up:
                sleep(0 if not seen.caught_up else every_s)
                seen = followed.look()
                shown.update(screen(seen), refresh=True)


@contextmanager
def chosen(run: Path | None, broker: str | None, run_id: str | None, config: Path | None) -> Iterator[RunWatch]:
    """What is to be followed: exactly one of a folder, a broker and a settings file."""
    if sum(each is not None for each in (run, broker, config)) != 1:
        expected = "a run folder, or --broker, or --config"
        raise SettingsError("run", "what is to be followed?", expected=expected, mend="see --help")
    if run is not None:
        if run_id is not None:
            raise SettingsError("--run-id", "goes with --broker", expected="a run folder alone")
        from hosfl_async.assembly.watching import FolderWatch

        yield FolderWatch(run)
        return
    from hosfl_async.assembly.listening import TelemetryWatch, the_run

    if broker is not None:
        with TelemetryWatch(broker, run_id or the_run(broker, None, HEARD_WITHIN_S)) as watching:
            yield watching
        return
    assert config is not None
    from hosfl_async.process.watching import watch_of

    with watch_of(config, run_id) as watching:
        yield watching


def screen(seen: Watched) -> Group:
    """Everything that is shown, one below the other."""
    parts: list[Text | Table] = [_title(seen), _figures(seen)]
    if seen.journal:
        parts += [_states(seen.look), _clients(seen.look)]
    else:
        parts.append(Text("this run keeps no journal: nothing is known of its clients", style="dim"))
    return Group(*parts)


def _title(seen: Watched) -> Text:
    state = "going on" if seen.ended is None else "ended"
    seed = "" if seen.seed is None else f", seed {seen.seed}"
    return Text.assemble(
        (seen.scenario, "bold"),
        f"{seed}: {state} at {seen.look.time_s:,.1f} s modelled time",
        (f"\n{seen.connection}" if seen.connection else "", "dim"),
    )


def _figures(seen: Watched) -> Table:
    look, points = seen.look, seen.evaluations
    table = Table.grid(padding=(0, 2))
    wanted = "" if seen.client_steps_wanted is None else f" of {seen.client_steps_wanted:,}"
    rows = {
        "accuracy": f"{points[-1].accuracy:.4f}, best {max(each.accuracy for each in points):.4f}  {_line(seen)}" if points else "none yet",
        "client steps": f"{look.client_steps:,}{wanted}, {look.steps_per_s:,.2f} a modelled second",
        "log": f"version {look.version:,}{_digest(seen)}",
        "staleness": f"mean {look.staleness_mean_versions:.2f}, max {look.staleness_max_versions} versions",
        "duals in flight": f"{look.duals_in_flight:,} (split server did {look.server_steps:,} steps)",
        "trouble": f"{look.refusals:,} refused, {look.lost:,} messages lost or dropped",
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _digest(seen: Watched) -> str:
    look = seen.look
    if seen.ended is None:
        if look.digests_differ:
            return f"; {look.digests_differ:,} DIGESTS DIFFER"
        return f"; {look.digests_compared:,} digests compared, all agree" if look.digests_compared else ""
    agree = "digests agree" if seen.ended.digests_agree else "DIGESTS DIFFER"
    return f"; {seen.ended.clients_confirmed} of {seen.ended.clients} clients confirmed {str(seen.ended.digest)[:12]}, {agree}"


def _line(seen: Watched) -> str:
    """The curve in one line: at most 40 evaluations, between 0 and 1."""
    points = seen.evaluations
    chosen = points if len(points) <= 40 else [points[round(place * (len(points) - 1) / 39)] for place in range(40)]
    return "".join(_BARS[min(7, max(0, int(each.accuracy * 8)))] for each in chosen)


def _states(look: Look) -> Text:
    """One mark for each client, in its state's colour, up to a few lines; then how many there are in each."""
    marks = Text()
    if len(look.clients) <= 400:
        for client in look.clients:
            marks.append("■", COLOURS[client.state])
        marks.append("\n")
    for state, number in look.states.items():
        marks.append("■ ", COLOURS[state])
        marks.append(f"{number:,} {state}   ")
    return marks


def _clients(look: Look) -> Table:
    worst: list[ClientLook] = sorted(look.clients, key=lambda client: -client.lag_versions)[:SHOWN_MAX]
    title = f"the {len(worst)} clients that lag most, of {len(look.clients):,}" if len(worst) < len(look.clients) else ""
    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("client", "state"):
        table.add_column(name)
    for name in ("lag, versions", "in the log", "refused"):
        table.add_column(name, justify="right")
    table.add_column("latest step")
    for each in worst:
        colour = COLOURS[each.state]
        table.add_row(each.name, Text(each.state, colour), str(each.lag_versions), str(each.steps), str(each.refused), each.step)
    return table


@app.command(rich_help_panel=FOLLOW, epilog="Example: hosfl dashboard runs/quickstart-seed0 --port 0")
def dashboard(
    run: MaybeRun = None,
    broker: Broker = None,
    run_id: RunId = None,
    config: Config = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)] = 8770,
    every_s: Every = 0.5,
) -> None:
    """Follow a run in the browser: by its growing folder, or a live one over its broker. Served on this machine alone, and only to read.

    Ctrl-C ends it, never the run.
    """
    from hosfl_async.assembly.dashboard import Dashboard

    with chosen(run, broker, run_id, config) as followed, Dashboard(followed, port, every_s) as server:
        typer.echo(server.url)
        try:
            server.serve_forever()
        finally:
            server.over.set()
