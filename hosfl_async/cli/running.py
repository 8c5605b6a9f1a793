"""One run: in virtual time, or over a real broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hosfl_async.cli.app import TRAIN, app
from hosfl_async.cli.console import Progress, errors, say, tell
from hosfl_async.cli.options import AsJson, Control, FileUnlessResumed, Out, Overrides, Resume, Seed, Track
from hosfl_async.errors import SettingsError


@app.command(rich_help_panel=TRAIN, epilog="Example: hosfl simulate quickstart --seed 7 --set aggregator.client_steps=500")
def simulate(
    file: FileUnlessResumed = None,
    seed: Seed = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    as_json: AsJson = False,
    control: Control = True,
    track: Track = None,
    check: Annotated[bool, typer.Option("--check", help="Hold the run to every invariant while it goes on; slower.")] = False,
) -> None:
    """Run a scenario in virtual time: every agent in one thread, the same seed gives the same bytes."""
    from hosfl_async import assembly

    scenario, stopped = _asked_for(file, resume, set_ or [], seed, out)
    with Progress() as progress:
        folder = resume or out or assembly.free_folder(scenario)
        summary = assembly.simulate(
            scenario, folder=folder, control=control, watch=progress.show, check=check, track=track or (), told=say, stopped=stopped
        )
    tell(summary, as_json, progress.folder)


@app.command(rich_help_panel=TRAIN, epilog="Example: hosfl live quickstart --time-scale 0.1 --broker mqtt://127.0.0.1:1883")
def live(
    file: FileUnlessResumed = None,
    broker: Annotated[str, typer.Option(help="auto, mosquitto or iotcore start one; or mqtt://host:port.")] = "auto",
    time_scale: Annotated[float | None, typer.Option(help="Wall seconds per modelled second.", show_default=False)] = None,
    seed: Seed = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    as_json: AsJson = False,
    control: Control = True,
    track: Track = None,
) -> None:
    """Run a scenario in wall-clock time over a real MQTT broker: the very same agents, each with its own connection."""
    from hosfl_async import assembly

    overrides = [*(set_ or ()), *([f"live.time_scale={time_scale}"] if time_scale is not None else [])]
    scenario, stopped = _asked_for(file, resume, overrides, seed, out)
    with Progress() as progress:
        folder = resume or out or assembly.free_folder(scenario)
        summary = assembly.run_live(
            scenario,
            folder=folder,
            broker=broker,
            control=control,
            watch=progress.show,
            on_open=_tell_where,
            track=track or (),
            told=say,
            stopped=stopped,
        )
    tell(summary, as_json, progress.folder)


def _asked_for(file: Path | None, resume: Path | None, overrides: list[str], seed: int | None, out: Path | None) -> tuple[Any, Any]:
    """The scenario to run, and where it was stopped if it is to go on."""
    from hosfl_async.assembly.resuming import stopped_run
    from hosfl_async.scenario import load_scenario

    if (file is None) == (resume is None):
        found = "neither" if file is None else "both"
        raise SettingsError("what to run", "it is not clear", expected="a scenario file, or --resume with the folder of a run", found=found)
    if resume is None:
        assert file is not None
        return load_scenario(file, overrides, seed), None
    for option, given in (("--seed", seed), ("--out", out)):
        if given is not None:
            raise SettingsError(option, "a run that goes on keeps its seed and its folder", mend="leave it out")
    stopped = stopped_run(resume, overrides)
    return stopped.scenario, stopped


def _tell_where(url: str, run: str) -> None:
    errors.print(f"[dim]to follow it from anywhere: hosfl watch --broker {url} --run-id {run}[/dim]")
