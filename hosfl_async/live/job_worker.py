"""Where jobs are computed: a small pool of threads shared by all agents of the process.

Torch on the event loop stalls it for seconds, and the keepalive dies; in a thread the worst lag is some tens of milliseconds, because torch
and numpy let go of the interpreter's lock. One thread by default: the learners of twenty clients then compute one after another, with
all cores each, instead of fighting for them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from hosfl_async.agent import Learner


class JobWorker:
    """A context manager; leaving it waits for the jobs under way, so that nobody computes for an agent that is gone."""

    def __init__(self, workers: int = 1) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="job-worker")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def start(self, learner: Learner, job: Any) -> asyncio.Future[Any]:
        """Compute ``job`` when a thread is free. The future has the result, or what the learner raised."""
        return asyncio.get_running_loop().run_in_executor(self._threads, learner.run, job)
