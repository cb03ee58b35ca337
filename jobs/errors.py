"""What can go wrong with a job, in sentences for the person who submitted it."""

from __future__ import annotations

import redis.exceptions

# What a call to the store raises while Redis is away, restarting or loading its file, and while it
# refuses (MISCONF for a full disk, OOM, READONLY in a failover, BUSY). What a script raises has no
# class of its own.
STORE_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,
)


class SpectrainError(Exception):
    """Base of everything that Spectrain raises on purpose."""


class JobNotFoundError(SpectrainError):
    """There is no job of that id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}.")
        self.job_id = job_id


class WorkerNotFoundError(SpectrainError):
    """No worker of that name is in the register."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no worker {name!r}.")
        self.name = name


class ClaimRefusedError(SpectrainError):
    """The worker takes no further job, says the register."""

    def __init__(self, worker: str, state: str) -> None:
        super().__init__(f"Worker {worker} takes no further job: it is {state}.")
        self.state = state


class IllegalMoveError(SpectrainError):
    """The job's state forbids what was asked."""

    def __init__(self, job_id: str, action: str, state: str, detail: str = "") -> None:
        verb = "has" if state in {"succeeded", "failed"} else "is"
        super().__init__(f"Cannot {action} job {job_id}: it {verb} {state}{detail}.")
        self.job_id = job_id
        self.action = action
        self.state = state


class StaleAttemptError(SpectrainError):
    """The attempt that wrote is not the job's current one; nothing was written."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"Attempt {attempt} of job {job_id} has been overtaken.")
        self.job_id = job_id
        self.attempt = attempt


class RecordGoneError(StaleAttemptError):
    """Redis has no record of the job: it was deleted, or Redis has lost its memory.

    `memory` names the one that Redis has now, '' for none: another than before, and all that it
    held is gone.
    """

    def __init__(self, job_id: str, attempt: int, epoch: str) -> None:
        super().__init__(job_id, attempt)
        self.epoch = epoch


class ForgottenError(SpectrainError):
    """Redis has lost the record of a running job; storage has what brings it back."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"it has lost its memory, with the record of job {job_id}: run `spectrain reindex`"
        )


class IdempotencyConflictError(SpectrainError):
    """The same Idempotency-Key came with another specification."""

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was used for job {job_id}, which has another specification."
        )
        self.job_id = job_id
