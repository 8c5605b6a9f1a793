"""A run, written down: schema, loading and writing of scenario files.

``schema`` composes the rooms' own settings structs into one :class:`Scenario`; ``loading`` makes one from a TOML file, overrides and a
seed; ``inheritance`` reads the files that it extends; ``sweeping`` makes many; ``consistency`` finds settings that are each allowed but
cannot stand together; ``problems`` says of every mistake where it is and how to mend it; ``writing`` gives the resolved scenario back as
TOML.
"""

from hosfl_async.scenario.loading import find_problems, load_scenario, scenario_of_tables
from hosfl_async.scenario.names import gallery, scenario_file
from hosfl_async.scenario.schema import Expectations, Scenario, SharedSettings, schema
from hosfl_async.scenario.sweeping import SweepPoint, sweep_points
from hosfl_async.scenario.writing import scenario_digest, to_toml

__all__ = [
    "Expectations",
    "Scenario",
    "SharedSettings",
    "SweepPoint",
    "find_problems",
    "gallery",
    "load_scenario",
    "scenario_digest",
    "scenario_file",
    "scenario_of_tables",
    "schema",
    "sweep_points",
    "to_toml",
]
