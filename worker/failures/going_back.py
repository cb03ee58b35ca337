"""Decides when an attempt starts from an older moment of its run than the newest."""

from __future__ import annotations

from jobs.model.record import Job
from jobs.model.states import Reason
from worker.failures.repeats import SHORT_SECONDS


def moment_to_avoid(job: Job) -> str | None:
    """The moment that the attempt before this one started from, if it may be why that failed.

    Its program failed before it made a step: what it resumed from may be half a checkpoint, or one
    that cannot be loaded. None if nothing speaks against the newest moment.
    """
    ended = job.attempts[:-1]
    if not ended or ended[-1].reason is not Reason.ERROR or ended[-1].last_step is not None:
        return None
    last = ended[-1]
    counts = any(attempt.last_step is not None for attempt in ended)
    seconds = (last.ended_at or last.started_at) - last.started_at
    return last.moment if counts or seconds < SHORT_SECONDS else None
