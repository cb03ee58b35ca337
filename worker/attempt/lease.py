"""The lease of an attempt: kept, with its progress, in exchange for what is asked of it."""

from __future__ import annotations

import math
import time

from jobs.errors import STORE_AWAY, ForgottenError, RecordGoneError
from jobs.model.record import Job, Progress
from worker.attempt.advice import Advice
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext

# Of a lease. What is renewed five times in it does not run out in so short an absence, and may in a
# longer one.
ABSENCE = 1 / 2


class Lease:
    """Renews the lease five times in a period, in a thread of its own, through outages of Redis.

    `progress` is told with each renewal, and `advice` once. `request` is what was asked of the
    attempt last; `limits` are those of the job, which may be changed while it runs. Both are read
    at once when the worker hears that something was asked, and where it does not, a little later.
    """

    def __init__(self, context: WorkerContext, job: Job) -> None:
        self.progress = Progress()
        self.advice: Advice | None = None
        self.request = job.request
        self.limits = job.spec.limits
        self._store = context.store
        self._wake = context.shutdown_state.wake
        self._job = job
        self._advised = False
        self._epoch: str | None = None  # of the Redis that had the record last
        self._shutdown_state = context.shutdown_state
        self._limits_read = time.monotonic()
        self._limits_seconds = context.settings.lease_seconds
        self._thread = Background(
            "Redis",
            self._renew,
            seconds=context.settings.lease_seconds / 5,
            on_overtaken=self._wake,
        )

    def start(self) -> None:
        """Starts renewing."""
        self._shutdown_state.on_asked = self._look
        self._thread.start()

    def stop(self) -> None:
        """Renews no more."""
        self._shutdown_state.on_asked = None
        self._thread.stop()

    def tell(self, progress: Progress) -> None:
        """Has the progress told with the next renewal; at once for a first step or a checkpoint."""
        before, self.progress = self.progress, progress
        if (progress.first_step, progress.checkpoint_step) != (
            before.first_step, before.checkpoint_step,
        ):  # fmt: skip
            self._thread.hurry()

    @property
    def overtaken(self) -> bool:
        """Whether another attempt has the job."""
        return self._thread.overtaken

    def note_advice(self) -> None:
        """Adds the advice to the job's events, where there is one that they have not."""
        if self.advice is not None and not self._advised:
            data = self.advice.data()
            self._store.note(self._job.id, self._job.attempt, "grace_too_short", data)
            self._advised = True

    def confirm(self, since: float) -> bool:
        """Whether the attempt is known to be the job's, for a process that stood still.

        It wakes up everywhere at once, and must hear that the job was taken from it before it
        publishes. Raises StaleAttemptError then. Where Redis was away when it fell asleep, `since`
        (`time.monotonic`), it may go on unasked: each answer would be as long in not coming.
        """
        if self._thread.away_since is not None and self._thread.away_since < since:
            return True
        try:
            self._store.renew(self._job.id, self._job.attempt, self.progress, self._job.worker)
        except RecordGoneError:
            return True  # forgotten by Redis, or deleted: the renewals find out
        except STORE_AWAY:
            return False
        return True

    def _renew(self) -> None:
        try:
            request = self._store.renew(
                self._job.id, self._job.attempt, self.progress, self._job.worker
            )
        except RecordGoneError as error:
            if error.epoch and error.epoch == self._epoch:
                raise  # deleted
            self._epoch = None
            raise ForgottenError(self._job.id) from error
        self._epoch = self._epoch or self._store.epoch()
        self._shutdown_state.renewed_at = time.monotonic()
        if request is not self.request:
            self.request = request
            self._wake.set()
        # Whatever cannot be done of these, the lease has been renewed.
        self.note_advice()
        if time.monotonic() - self._limits_read > self._limits_seconds:
            self._limits_read = time.monotonic()
            self.limits = self._store.limits(self._job.id)

    def _look(self) -> None:
        self._limits_read = -math.inf
        self._thread.hurry()
