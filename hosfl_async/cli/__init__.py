"""The ``hosfl`` command. Figures go to standard output; progress and errors go to standard error.

Exit codes: 0 done; 1 the run or check found something wrong (an expectation not met, digests that differ); 2 a file, option or setting
that cannot be; 130 interrupted.
"""

from hosfl_async.cli import running, comparing, hunting, looking, calibrating, watching, describing, agents, provisioning, tending, assets  # noqa: F401, I001 (the order is that of --help)
from hosfl_async.cli.app import app, main

__all__ = ["app", "main"]
