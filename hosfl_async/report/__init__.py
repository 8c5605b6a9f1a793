"""A run boiled down to numbers and tables.

``recorder`` listens while the run goes on; ``summary`` is what ``summary.json`` holds; ``tables`` is what a person reads.
"""

from hosfl_async.report.recorder import Recorder
from hosfl_async.report.summary import Staleness, Summary, read_summary, write_summary
from hosfl_async.report.tables import summary_table

__all__ = ["Recorder", "Staleness", "Summary", "read_summary", "summary_table", "write_summary"]
