"""Stops the child of an attempt: asks it to leave, and kills it when its grace period is over."""

from __future__ import annotations

import logging
import math
import time

from worker.attempt.context import WorkerContext
from worker.attempt.outcome import StopReason, grace
from worker.launch.child import Child

log = logging.getLogger(__name__)


class Stopping:
    """Asks a child to stop, once, and kills it when its grace period is over.

    `reason` is the strongest of the reasons given so far, None while there is none.
    """

    def __init__(self, context: WorkerContext, job_id: str) -> None:
        self.reason: StopReason | None = None
        self._shutdown_state = context.shutdown_state
        self._settings = context.settings
        self._job_id = job_id
        self._kill_at = math.inf  # time.monotonic

    def note(self, reason: StopReason) -> None:
        """Records a reason; the strongest one counts."""
        if self.reason is None or reason.value > self.reason.value:
            self.reason = reason

    def request(self, child: Child, reason: StopReason, last_upload: float) -> None:
        """Asks the child to stop.

        `last_upload` is the time in seconds that the last upload may need, as for
        `worker.attempt.outcome.grace`.
        """
        first = self.reason is None
        self.note(reason)
        since = self._shutdown_state.stop_since
        pressing = reason if since is None else StopReason.SHUTDOWN
        seconds = grace(pressing, self.grace_seconds, last_upload)
        self._kill_at = min(self._kill_at, (time.monotonic() if since is None else since) + seconds)
        if first:
            log.info("job %s: asking the child to stop (%s)", self._job_id, reason.name.lower())
            child.terminate()

    def kill_when_due(self, child: Child) -> None:
        """Kills a child that did not stop within its grace period."""
        if time.monotonic() > self._kill_at:
            child.kill()

    @property
    def grace_seconds(self) -> float:
        """From a stop request to the kill; less if the machine will be gone sooner."""
        return self._shutdown_state.grace_seconds(self._settings.grace_seconds)

    @property
    def worker_leaves_at(self) -> float:
        """The `time.monotonic` by which this worker must be gone; infinite while it may stay."""
        since = self._shutdown_state.stop_since
        return math.inf if since is None else since + self.grace_seconds
