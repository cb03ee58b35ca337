"""The lease of an attempt: kept, with its progress, in exchange for what is asked of it."""

from __future__ import annotations

import time

from jobs.record import Job, Progress
from worker.advice import Advice
from worker.background import Background
from worker.service import Service

_RENEW_SECONDS = 1.0
_LIMITS_SECONDS = 5.0


def period(lease_seconds: float) -> float:
    """Seconds between one word to Redis or to storage and the next."""
    return min(_RENEW_SECONDS, lease_seconds / 5)


class Lease:
    """Renews the lease in a thread of its own, through outages of Redis.

    `progress` is told with each renewal, and `advice` once. `request` is what was asked of the
    attempt last; `limits` are those of the job, which may be changed while it runs.
    """

    def __init__(self, service: Service, job: Job) -> None:
        self.progress = Progress()
        self.advice: Advice | None = None
        self.request = job.request
        self.limits = job.spec.limits
        self._store = service.store
        self._wake = service.attendance.wake
        self._job = job
        self._advised = False
        self._limits_read = time.monotonic()
        self._thread = Background(
            "Redis",
            self._renew,
            seconds=period(service.settings.lease_seconds),
            on_overtaken=self._wake,
        )

    def start(self) -> None:
        """Starts renewing."""
        self._thread.start()

    def stop(self) -> None:
        """Renews no more."""
        self._thread.stop()

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

    def _renew(self) -> None:
        request = self._store.renew(self._job.id, self._job.attempt, self.progress)
        if request is not self.request:
            self.request = request
            self._wake.set()
        # Whatever cannot be done of these, the lease has been renewed.
        self.note_advice()
        if time.monotonic() - self._limits_read > _LIMITS_SECONDS:
            self._limits_read = time.monotonic()
            self.limits = self._store.limits(self._job.id)
