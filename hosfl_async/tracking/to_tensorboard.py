"""A run as TensorBoard's event files, through TensorBoard's own writer (neither torch nor TensorFlow is loaded).

TensorBoard draws against one whole number. So the curves are written three times: ``accuracy/by_client_steps``,
``accuracy/by_modelled_ms`` and ``accuracy/by_bytes``. The wall time of each event is the start of the run plus its modelled time: the axis
RELATIVE is modelled time. Settings and final figures stand in the HPARAMS view, the summary and the digest under TEXT.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, DATA_CLASS_TENSOR, SummaryMetadata
from tensorboard.compat.proto.summary_pb2 import Summary as SummaryProto
from tensorboard.plugins.hparams import metadata as hparams_words
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.metadata import PLUGIN_NAME as SCALARS
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from hosfl_async.report import Summary
from hosfl_async.report.recorder import Evaluation
from hosfl_async.tracking.facts import RunFacts, final_figures, final_words, point_figures

CURVES = ("accuracy", "loss", "staleness_mean_versions")
"""Written against each of the three axes; the other figures against client steps alone."""


class TensorBoardTracker:
    """``place``: the log directory; each run is a folder NAME-KEY in it."""

    def __init__(self, place: str) -> None:
        self._directory = Path(place)
        self.place = place
        self._writer: Any = None
        self._began_s = 0.0
        self._step = 0

    def begin(self, facts: RunFacts) -> bool:
        folder = self._directory / f"{facts.name}-{facts.key[:8]}"
        if any(folder.glob("*.tfevents.*")):
            return False
        self.place = str(folder)
        self._began_s = facts.began_s
        self._writer = EventFileWriter(str(folder))
        self._add(hparams_pb(facts.parameters, trial_id=facts.name, start_time_secs=facts.began_s), self._began_s, 0)
        self._text("run/scenario", f"**{facts.project}** {facts.about}".strip() + "\n\n" + _table(facts.tags))
        self._writer.flush()
        return True

    def point(self, point: Evaluation) -> None:
        figures = point_figures(point)
        self._step = point.client_steps
        at_s = self._began_s + point.time_s
        axes = {"client_steps": point.client_steps, "modelled_ms": round(1000 * point.time_s), "bytes": int(figures["bytes"])}
        for name, value in figures.items():
            for axis, step in axes.items() if name in CURVES else (("client_steps", point.client_steps),):
                if name != axis:
                    self._scalar(f"{name}/by_{axis}", value, at_s, step)
        self._writer.flush()

    def end(self, summary: Summary, files: Sequence[Path]) -> None:
        at_s = self._began_s + summary.modelled_time_s
        figures = final_figures(summary)
        for name, value in figures.items():
            self._scalar(f"final/{name}", value, at_s, summary.client_steps)
        self._text("run/summary", _table(final_words(summary) | {name: f"{value:,.6g}" for name, value in figures.items()}))
        self._close(STATUS_SUCCESS)

    def abandon(self) -> None:
        self._close(STATUS_FAILURE)

    def _close(self, status: Any) -> None:
        data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
        metadata = hparams_words.create_summary_metadata(data)
        value = SummaryProto.Value(tag=hparams_words.SESSION_END_INFO_TAG, metadata=metadata, tensor=hparams_words.NULL_TENSOR)
        self._add(SummaryProto(value=[value]), self._began_s, self._step)
        self._writer.close()

    def _scalar(self, tag: str, value: float, at_s: float, step: int) -> None:
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=SCALARS), data_class=DATA_CLASS_SCALAR)
        tensor = make_tensor_proto(np.float32(value))
        self._add(SummaryProto(value=[SummaryProto.Value(tag=tag, metadata=metadata, tensor=tensor)]), at_s, step)

    def _text(self, tag: str, text: str) -> None:
        metadata = create_summary_metadata(None, None)
        metadata.data_class = DATA_CLASS_TENSOR
        value = SummaryProto.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto(np.array(text.encode(), dtype=object)))
        self._add(SummaryProto(value=[value]), self._began_s, self._step)

    def _add(self, summary: Any, at_s: float, step: int) -> None:
        self._writer.add_event(Event(wall_time=at_s, step=step, summary=summary))


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
