"""What waits for the split server's learner: jobs of the cut in order of arrival, handed out one by one or as micro-batches.

A micro-batch is a run of training jobs at the head of the queue, at most ``micro_batch_max`` of them. It goes to the learner when it is
full, when its oldest job has waited ``micro_batch_wait_s``, or when a job of another kind follows it, so that nobody can join it any more.
With a maximum of 1 every job goes alone and at once. A micro-batch that failed is taken apart: one misfit among strangers must not cost
them their step, so each part is tried once more, alone.

The queue is bounded in jobs and in bytes of activations; the parts of a micro-batch that was taken apart stand beside it, at most one
micro-batch of them, since nothing else is handed out before they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from hosfl_async.agents.settings import SplitServerSettings
from hosfl_async.jobs import Backward, BackwardTogether, Estimate, EvaluateDual

CutJob = Backward | Estimate | EvaluateDual


class CutQueue:
    """See the module's text. ``len`` counts all jobs that wait."""

    def __init__(self, settings: SplitServerSettings) -> None:
        self._settings = settings
        self._jobs: deque[tuple[float, CutJob]] = deque()
        """With the time of arrival, in the agent's time."""
        self._bytes = 0
        self._apart: deque[Backward] = deque()
        self._ripe = False

    def __len__(self) -> int:
        return len(self._jobs) + len(self._apart)

    def __iter__(self) -> Iterator[CutJob]:
        yield from self._apart
        yield from (job for _, job in self._jobs)

    def full(self, more_bytes: int) -> bool:
        """Whether a job with so many bytes of activations finds no room. An empty queue takes any."""
        over = self._bytes + more_bytes > self._settings.queue_bytes_max
        return len(self._jobs) >= self._settings.queue_max or (bool(self._jobs) and over)

    def add(self, job: CutJob, now: float) -> None:
        self._jobs.append((now, job))
        self._bytes += len(job.activations.data)

    def take_apart(self, parts: Sequence[Backward]) -> None:
        """The micro-batch failed: its parts come next, each alone."""
        self._apart.extend(parts)

    def clear(self) -> None:
        self._jobs.clear()
        self._apart.clear()
        self._bytes = 0
        self._ripe = False

    def ripen(self) -> None:
        """The oldest job has waited long enough, whatever the clock's rounding says."""
        self._ripe = True

    def due_in_s(self, now: float) -> float | None:
        """Seconds until what waits at the head need not wait any longer; None if nothing waits."""
        if not self._jobs:
            return None
        return max(self._jobs[0][0] + self._settings.micro_batch_wait_s - now, 1e-6)

    def take(self, now: float) -> CutJob | BackwardTogether | None:
        """What the learner does next, or None if there is nothing or it waits for company."""
        if self._apart:
            return self._apart.popleft()
        if not self._jobs:
            return None
        if self._settings.micro_batch_max == 1:
            return self._pop()
        count = self._together()
        closed = count >= self._settings.micro_batch_max or count < len(self._jobs)
        waited = self._ripe or now - self._jobs[0][0] >= self._settings.micro_batch_wait_s
        if count and not closed and not waited:
            return None
        self._ripe = False
        taken = [self._pop() for _ in range(max(1, count))]
        parts = tuple(job for job in taken if isinstance(job, Backward))
        return BackwardTogether(parts) if len(parts) > 1 else taken[0]

    def _together(self) -> int:
        """Training jobs at the head, as many as may go together."""
        count = 0
        for _, job in islice(self._jobs, self._settings.micro_batch_max):
            if not isinstance(job, Backward):
                break
            count += 1
        return count

    def _pop(self) -> CutJob:
        job = self._jobs.popleft()[1]
        self._bytes -= len(job.activations.data)
        return job
