"""Asynchronous hybrid-order split federated learning.

::

    from hosfl_async import simulate

    run = simulate("quickstart")
    print(run.accuracy_final, run.accuracy_frozen_control)

These names are the public interface; everything else may change. They are imported when first used, so that ``import hosfl_async``
costs nothing and only what needs torch loads it. ``runs`` has the interface for notebooks and scripts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hosfl_async.agents import Aggregator, EdgeClient, SplitServer
    from hosfl_async.assembly import replay, run_live
    from hosfl_async.errors import HosflError, SettingsError
    from hosfl_async.learning.split_model import SplitModel
    from hosfl_async.report import Summary
    from hosfl_async.runs import Compared, Run, compare, simulate
    from hosfl_async.scenario import Scenario, gallery, load_scenario

_HOMES = {
    "Aggregator": "agents",
    "Compared": "runs",
    "EdgeClient": "agents",
    "HosflError": "errors",
    "Run": "runs",
    "Scenario": "scenario",
    "SettingsError": "errors",
    "SplitModel": "learning.split_model",
    "SplitServer": "agents",
    "Summary": "report",
    "compare": "runs",
    "gallery": "scenario",
    "load_scenario": "scenario",
    "replay": "assembly",
    "run_live": "assembly",
    "simulate": "runs",
}

__all__ = [
    "Aggregator",
    "Compared",
    "EdgeClient",
    "HosflError",
    "Run",
    "Scenario",
    "SettingsError",
    "SplitModel",
    "SplitServer",
    "Summary",
    "compare",
    "gallery",
    "load_scenario",
    "replay",
    "run_live",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hosfl_async' has no attribute {name!r}")
    return getattr(import_module(f"hosfl_async.{_HOMES[name]}"), name)
