"""A run for Weights & Biases, offline: a folder ``wandb/offline-run-...`` that ``wandb sync`` uploads when a person wants it to.

Nothing leaves the machine here, and nothing about the machine is written: no host statistics, no console, no git state, no list of
packages. Every figure may be the horizontal axis; client steps are it until somebody chooses another.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking.facts import RunFacts, final_figures, final_words, point_figures

AXIS = "client_steps"


class WandbTracker:
    """``place``: the folder in which ``wandb`` is made."""

    def __init__(self, place: str) -> None:
        self._directory = Path(place)
        self.place = str(self._directory / "wandb")
        self._run: Any = None

    def begin(self, facts: RunFacts) -> bool:
        if any(self._directory.glob(f"wandb/offline-run-*-{facts.key}")):
            return False
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(self._directory),
            project=facts.project,
            id=facts.key,
            name=facts.name,
            notes=facts.about,
            config=dict(facts.settings),
            tags=[f"{name}:{value}"[:64] for name, value in facts.tags.items()],
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self.place = str(Path(self._run.dir).parent)
        self._run.define_metric(AXIS)
        self._run.define_metric("*", step_metric=AXIS)
        return True

    def point(self, point: Evaluation) -> None:
        self._run.log(point_figures(point))

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        self._run.summary.update({**final_words(summary), **{f"final_{name}": value for name, value in final_figures(summary).items()}})
        for file in files:  # copied, since wandb would leave links to where they are now
            copied = shutil.copy(file, self._run.dir)
            self._run.save(copied, base_path=self._run.dir, policy="now")
        self._run.finish(exit_code=0)

    def abandon(self) -> None:
        self._run.finish(exit_code=1)
