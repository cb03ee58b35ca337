"""The receipts of attempts, identical byte for byte in the record and in `attempts/N.json`."""

from __future__ import annotations

import time
from pathlib import Path

from jobs.model.record import Attempt, Job, Progress
from monitoring.paths import RunPaths
from worker.attempt.outcome import Outcome
from worker.files.own_files import OwnFiles

_PATHS = RunPaths(Path())


class Receipts:
    """Writes the receipt of a job's current attempt, and any that earlier attempts left unwritten.

    Create it when the attempt begins, in the thread that ends it.
    """

    def __init__(self, job: Job, own: OwnFiles) -> None:
        self._job = job
        self._own = own
        self._begun = time.monotonic()
        self._ended_at: float | None = None  # seconds since the epoch
        self.moment: str | None = None  # that the attempt started from

    def of(self, ended: Outcome, progress: Progress) -> Attempt:
        """The current attempt's receipt; its end is the time of the first call."""
        current = self._job.attempts[-1]
        if self._ended_at is None:
            # By the clock of Redis, which may be unavailable; the same however often it is written.
            self._ended_at = current.started_at + time.monotonic() - self._begun
        return self._job.so_far(current, progress).model_copy(
            update={
                "ended_at": self._ended_at,
                "reason": ended.reason,
                "message": ended.message,
                "exit_code": ended.exit_code,
                "log_tail": list(ended.log_tail),
                "moment": self.moment,
            }
        )

    def write_missing(self) -> None:
        """Has each earlier receipt published that storage lacks or that differs from the record.

        A killed worker wrote no receipt, or one without the final verdict. What is there under
        another name is none, and is removed. Raises `OSError` and `StorageError`.
        """
        earlier = {f"{attempt.number}.json" for attempt in self._job.attempts[:-1]}
        self._own.remove(_PATHS.attempts.as_posix(), but=earlier)
        for attempt in self._job.attempts[:-1]:
            self.write(attempt)

    def write(self, attempt: Attempt) -> None:
        """Has a receipt published."""
        self._own.add(_PATHS.attempt(attempt.number).as_posix(), attempt.receipt())
