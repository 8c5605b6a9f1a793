"""One run: in virtual time, or over a real broker."""

from __future__ import annotations

from typing import Annotated

import typer

from hosfl_async.cli.app import app
from hosfl_async.cli.console import Progress, errors, say, tell
from hosfl_async.cli.options import AsJson, Control, File, Out, Overrides, Seed, Track


@app.command()
def simulate(
    file: File,
    seed: Seed = None,
    set_: Overrides = None,
    out: Out = None,
    as_json: AsJson = False,
    control: Control = True,
    track: Track = None,
    check: Annotated[bool, typer.Option("--check", help="Hold the run to every invariant while it goes on; slower.")] = False,
) -> None:
    """Run a scenario in virtual time: every agent in one thread, the same seed gives the same bytes."""
    from hosfl_async import assembly
    from hosfl_async.scenario import load_scenario

    scenario = load_scenario(file, set_ or (), seed)
    with Progress() as progress:
        folder = out or assembly.free_folder(scenario)
        summary = assembly.simulate(scenario, folder=folder, control=control, watch=progress.show, check=check, track=track or (), told=say)
    tell(summary, as_json, progress.folder)


@app.command()
def live(
    file: File,
    broker: Annotated[str, typer.Option(help="auto, mosquitto or iotcore start one; or mqtt://host:port.")] = "auto",
    time_scale: Annotated[float | None, typer.Option(help="Wall seconds per modelled second.", show_default=False)] = None,
    seed: Seed = None,
    set_: Overrides = None,
    out: Out = None,
    as_json: AsJson = False,
    control: Control = True,
    track: Track = None,
) -> None:
    """Run a scenario in wall-clock time over a real MQTT broker: the very same agents, each with its own connection."""
    from hosfl_async import assembly
    from hosfl_async.scenario import load_scenario

    overrides = [*(set_ or ()), *([f"live.time_scale={time_scale}"] if time_scale is not None else [])]
    scenario = load_scenario(file, overrides, seed)
    with Progress() as progress:
        folder = out or assembly.free_folder(scenario)
        summary = assembly.run_live(
            scenario,
            folder=folder,
            broker=broker,
            control=control,
            watch=progress.show,
            on_open=_tell_where,
            track=track or (),
            told=say,
        )
    tell(summary, as_json, progress.folder)


def _tell_where(url: str, run: str) -> None:
    errors.print(f"[dim]to follow it from anywhere: hosfl watch --broker {url} --run-id {run}[/dim]")
