"""Errors of the service, with messages for the person who submitted the job."""

from __future__ import annotations

import redis.exceptions

# What a call to the store raises while Redis is unreachable, restarting or loading its file, and
# while it refuses commands (MISCONF for a full disk, OOM, READONLY in a failover, BUSY). An error
# within a script has no class of its own.
STORE_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,
)


class SpectrainError(Exception):
    """Base class of the errors that Spectrain raises."""


class JobNotFoundError(SpectrainError):
    """No job has that id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}.")
        self.job_id = job_id


class WorkerNotFoundError(SpectrainError):
    """No worker of that name is registered."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no worker {name!r}.")
        self.name = name


class ClaimRefusedError(SpectrainError):
    """The worker is draining or unhealthy, so it may not claim a job."""

    def __init__(self, worker: str, state: str) -> None:
        super().__init__(f"Worker {worker} takes no further job: it is {state}.")
        self.state = state


class IllegalMoveError(SpectrainError):
    """The state of the job forbids the call."""

    def __init__(self, job_id: str, action: str, state: str, detail: str = "") -> None:
        verb = "has" if state in {"succeeded", "failed"} else "is"
        super().__init__(f"Cannot {action} job {job_id}: it {verb} {state}{detail}.")
        self.job_id = job_id
        self.action = action
        self.state = state


class StaleAttemptError(SpectrainError):
    """A newer attempt exists, so the write was refused."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"Attempt {attempt} of job {job_id} has been overtaken.")
        self.job_id = job_id
        self.attempt = attempt


class RecordGoneError(StaleAttemptError):
    """Redis has no record of the job: the job was deleted, or Redis was reset.

    `epoch` identifies the data that Redis has now, '' for none. Another epoch than before means
    that Redis was reset.
    """

    def __init__(self, job_id: str, attempt: int, epoch: str) -> None:
        super().__init__(job_id, attempt)
        self.epoch = epoch


class ForgottenError(SpectrainError):
    """Redis was reset and has no record of a running job; storage has a copy."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"Redis has no record of job {job_id} (was it reset?): run `spectrain reindex`"
        )


class IdempotencyConflictError(SpectrainError):
    """The Idempotency-Key was used before, with another specification."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used for job {job_id}, which has another specification."
        )
        self.job_id = job_id
