"""Decisions: pure state machines that know no clock, socket, random number or tensor library."""

from hosfl_async.agents.aggregator import Aggregator
from hosfl_async.agents.edge_client import EdgeClient
from hosfl_async.agents.settings import AggregatorSettings, EdgeClientSettings, RetrySettings, SplitServerSettings, StalenessSettings
from hosfl_async.agents.split_server import SplitServer

__all__ = [
    "Aggregator",
    "AggregatorSettings",
    "EdgeClient",
    "EdgeClientSettings",
    "RetrySettings",
    "SplitServer",
    "SplitServerSettings",
    "StalenessSettings",
]
