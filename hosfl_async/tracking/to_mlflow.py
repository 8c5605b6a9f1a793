"""A run in an MLflow tracking store: a server (http://...), or a database file of one's own (sqlite:///mlflow.db, the default).

The experiment is the scenario. MLflow's step is the client step, its timestamp the start of the run plus the modelled time, and the bytes
sent are a metric, which MLflow's charts take as an axis, too. Final figures have the prefix ``final.``.

MLflow reports its use to its makers unless told otherwise, waits minutes for a server that does not answer, and tells of every table
that it makes. Where the person has not chosen (by MLflow's own environment variables), this module chooses: no reports, short patience,
warnings only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

for _variable, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}.items():
    os.environ.setdefault(_variable, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402

from hosfl_async.report import Summary  # noqa: E402
from hosfl_async.report.recorder import Evaluation  # noqa: E402
from hosfl_async.tracking.facts import RunFacts, final_figures, final_words, point_figures  # noqa: E402

KEY = "hosfl.key"
PARAMETERS_AT_ONCE_MAX = 100
VALUE_CHARACTERS_MAX = 6000
TAG_CHARACTERS_MAX = 5000
"""MLflow's own limits of one request; what is longer is cut."""


class MlflowTracker:
    """``place``: a tracking URI, or the path of a database file; MLFLOW_TRACKING_URI or ``mlflow.db`` here if empty."""

    def __init__(self, place: str) -> None:
        place = place or os.environ.get("MLFLOW_TRACKING_URI", "") or "mlflow.db"
        self.place = place if ":" in place else f"sqlite:///{place}"
        self._client: Any = None
        self._run = ""
        self._began_s = 0.0

    def begin(self, facts: RunFacts) -> bool:
        self._client = MlflowClient(tracking_uri=self.place, registry_uri=self.place)
        experiment = self._experiment(facts.project)
        if self._client.search_runs([experiment], f"tags.`{KEY}` = '{facts.key}'", max_results=1):
            return False
        self._began_s = facts.began_s
        tags = {KEY: facts.key, "mlflow.note.content": facts.about, **facts.tags}
        cut = {name: value[:TAG_CHARACTERS_MAX] for name, value in tags.items()}
        made = self._client.create_run(experiment, self._stamp(0), cut, facts.name)
        self._run = made.info.run_id
        parameters = [Param(name, str(value)[:VALUE_CHARACTERS_MAX]) for name, value in facts.parameters.items()]
        for begin in range(0, len(parameters), PARAMETERS_AT_ONCE_MAX):
            self._client.log_batch(self._run, params=parameters[begin : begin + PARAMETERS_AT_ONCE_MAX])
        return True

    def point(self, point: Evaluation) -> None:
        self._metrics(point_figures(point), point.time_s, point.client_steps)

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        figures = {f"final.{name}": value for name, value in final_figures(summary).items()}
        self._metrics(figures, summary.modelled_time_s, summary.client_steps)
        tags = [RunTag(name, value[:TAG_CHARACTERS_MAX]) for name, value in final_words(summary).items()]
        self._client.log_batch(self._run, tags=tags)
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run, "FINISHED", self._stamp(summary.modelled_time_s))

    def abandon(self) -> None:
        self._client.set_terminated(self._run, "KILLED")

    def _experiment(self, name: str) -> Any:
        """Its identifier; made if there is none. A database file has the artefacts in a folder beside it."""
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return known.experiment_id
        file = self.place.removeprefix("sqlite:///")
        beside = Path(file).absolute().parent / "mlartifacts" / name if file != self.place else None
        return self._client.create_experiment(name, artifact_location=beside.as_uri() if beside else None)

    def _metrics(self, figures: Mapping[str, float], time_s: float, step: int) -> None:
        stamp = self._stamp(time_s)
        self._client.log_batch(self._run, metrics=[Metric(name, float(value), stamp, step) for name, value in figures.items()])

    def _stamp(self, time_s: float) -> int:
        """Milliseconds since 1970, as MLflow has them, ``time_s`` modelled seconds into the run."""
        return round(1000 * (self._began_s + time_s))
