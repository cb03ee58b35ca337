"""The lease of an attempt: renews it, reports progress, and receives the requests for the job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

from jobs.errors import STORE_AWAY, ForgottenError, RecordGoneError
from jobs.model.record import Job, Progress
from worker.attempt.advice import Advice
from worker.attempt.background import Background
from worker.attempt.context import WorkerContext

# The fraction of a lease for which a process may stand still without a doubt about its attempt.
# The lease is renewed five times in its duration: it survives a pause this long, and may not
# survive a longer one.
MAX_PAUSE = 1 / 2


class Lease:
    """Renews the lease five times in its duration, in a thread of its own, through Redis outages.

    Each renewal reports `progress`; the first one after `advice` was set reports that too.
    `request` is the last request made for the attempt; `limits` are the job's limits, which can
    change while it runs. Both are read as soon as the worker is notified of a request, or a little
    later if the notification is lost. `is_followed`: somebody reads the run's log or metrics.
    """

    def __init__(self, context: WorkerContext, job: Job) -> None:
        self.progress = Progress()
        self.advice: Advice | None = None
        self.request = job.request
        self.limits = job.spec.limits
        self.is_followed = False
        self._store = context.store
        self._wake = context.shutdown_state.wake
        self._job = job
        self._advised = False
        self._remarks: list[tuple[str, Mapping[str, object]]] = []
        self._recording = threading.Lock()
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
        """Starts to renew the lease."""
        self._shutdown_state.on_request = self._read_requests
        self._thread.start()
        # A request made since the claim has found nobody to notify.
        self._thread.trigger()

    def stop(self) -> None:
        """Stops renewing the lease."""
        self._shutdown_state.on_request = None
        self._thread.stop()

    def report(self, progress: Progress) -> None:
        """Reports the progress with the next renewal; at once for a first step or a checkpoint."""
        before, self.progress = self.progress, progress
        if (progress.first_step, progress.checkpoint_step) != (
            before.first_step, before.checkpoint_step,
        ):  # fmt: skip
            self._thread.trigger()

    @property
    def overtaken(self) -> bool:
        """Whether a newer attempt has the job."""
        return self._thread.overtaken

    def remark(self, kind: str, data: Mapping[str, object]) -> None:
        """Adds an event to the job's with the next renewal."""
        self._remarks.append((kind, data))

    def record_advice(self) -> None:
        """Adds the advice to the job's events, once, and what is to be remarked."""
        with self._recording:  # the renewals and the end of the attempt both call it
            while self._remarks:
                self._store.note(self._job.id, self._job.attempt, *self._remarks[0])
                del self._remarks[0]
            if self.advice is not None and not self._advised:
                data = self.advice.data()
                self._store.note(self._job.id, self._job.attempt, "grace_too_short", data)
                self._advised = True

    def confirm(self, since: float) -> bool:
        """Whether a process that stood still may publish; False while Redis does not answer.

        All threads of such a process wake up together, and it must learn that the job was given to
        another attempt before it publishes: then this raises `StaleAttemptError`. If Redis was
        already unavailable when the process was last active, at `since` (`time.monotonic`), it may
        publish unconfirmed: every call would only run into its timeout.
        """
        if self._thread.failing_since is not None and self._thread.failing_since < since:
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
        # The lease is renewed, even if one of the calls below fails.
        self.is_followed = self._store.is_followed(self._job.id)
        self.record_advice()
        if time.monotonic() - self._limits_read > self._limits_seconds:
            self._limits_read = time.monotonic()
            self.limits = self._store.limits(self._job.id)

    def _read_requests(self) -> None:
        self._limits_read = -math.inf
        self._thread.trigger()
