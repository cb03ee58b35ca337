"""A job as the calls on it answer it: its record, and what only the service can compute."""

from __future__ import annotations

import time

from api.schemas import JobView, Wait
from api.server.context import context
from jobs.model.record import Job


def view_of(job: Job) -> JobView:
    """The job, with its place in the queue and why it waits."""
    place = context().store.queues.place(job)
    waiting = context().forecast.waiting(job, place)
    return JobView.model_construct(
        **dict(job),
        queue_position=place.ahead if place else None,
        wait=None if waiting is None else Wait(reason=waiting.reason, seconds=waiting.seconds),
        goodput=job.goodput_at(time.time()),
        files=f"{context().settings.storage_url.rstrip('/')}/{job.id}",
    )
