"""A run in the tracking tool that people already use: TensorBoard, MLflow, Weights & Biases; or a Parquet file.

``tracker`` says what a tool is told of a run; a module for each tool says it in the tool's own words, through the tool's own library, which
is an extra and loaded only here and only when it is asked for. ``follower`` keeps a slow or broken tool from holding up the run.
"""

from hosfl_async.tracking.facts import RunFacts
from hosfl_async.tracking.follower import Follower, guarded
from hosfl_async.tracking.opening import TOOLS, open_tracker
from hosfl_async.tracking.tracker import Tracker

__all__ = ["TOOLS", "Follower", "RunFacts", "Tracker", "guarded", "open_tracker"]
