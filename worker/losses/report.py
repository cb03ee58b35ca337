"""Ends the attempt of a dead worker, and wakes another worker for its job."""

from __future__ import annotations

import logging
from pathlib import Path

from jobs.errors import JobNotFoundError, StaleAttemptError
from jobs.messages import Messenger
from jobs.model.record import Job, Progress
from jobs.model.rules import lost_attempt
from jobs.model.states import Reason, State
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from monitoring.step_counter import read_steps
from worker.losses.note import Note

log = logging.getLogger(__name__)


def end_attempt(
    store: JobStore, note: Note, message: str, *, silent_seconds: float | None = None
) -> Job | None:
    """Ends the attempt of a note as lost or out of memory; None if it has ended already.

    `silent_seconds` is the time since its worker died; if it is unknown, since the last renewal of
    its lease. Raises `redis.exceptions.RedisError`.
    """
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=store.lease_seconds)
    try:
        job = store.get(note.job)
        if (job.state, job.attempt) != (State.RUNNING, note.attempt):
            return None
        registry.leave(note.worker)
        now = store.now()
        if silent_seconds is None:
            expiry = store.queues.lease_expiry(job.id)
            silent_seconds = 0.0 if expiry is None else now - expiry + store.lease_seconds
        seen = _progress(job, note)
        ended = lost_attempt(job, now, max(0.0, silent_seconds), message=message, seen=seen)
        if note.same_boot and note.memory.was_exceeded():
            message = f"the kernel killed worker {note.worker} and its job for lack of memory"
            ended = ended.model_copy(update={"reason": Reason.OUT_OF_MEMORY, "message": message})
        return store.finish(job.id, ended, progress=seen)
    except (JobNotFoundError, StaleAttemptError):
        return None


def announce(store: JobStore, messenger: Messenger) -> None:
    """Wakes a worker for the job that is queued again."""
    try:
        messenger.flush(store.now())
    except Exception as error:  # it stays in the outbox, and the reaper sends it
        log.warning("cannot send the message of a lost job, the reaper sends it: %s", error)


def _progress(job: Job, note: Note) -> Progress:
    """The progress of the last renewal, with the last step by the step counter."""
    seen = job.progress or Progress()
    try:
        steps = read_steps(Path(note.steps))
    except OSError:
        steps = None
    if steps is None:
        return seen
    return seen.model_copy(
        update={
            "step": steps.last,
            "first_step": steps.first,
            "step_seconds": max(0.0, steps.last_at - steps.first_at),
        }
    )
