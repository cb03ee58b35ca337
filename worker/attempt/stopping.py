"""Stops an attempt: knows why it must, asks its processes to leave, and kills them when due."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

from jobs.model.states import Reason
from worker.attempt.context import WorkerContext
from worker.attempt.lease import Lease
from worker.attempt.outcome import (
    STOP_REASONS,
    Outcome,
    StopReason,
    grace,
    stopped_before_start,
)
from worker.launch.child import Child

log = logging.getLogger(__name__)


class Stopping:
    """Asks a child to stop, once, and kills it when its grace period is over.

    `reason` is the strongest of the reasons given so far, None while there is none.
    """

    def __init__(self, context: WorkerContext, lease: Lease, job_id: str) -> None:
        self.reason: StopReason | None = None
        self._lease = lease
        self._shutdown_state = context.shutdown_state
        self._settings = context.settings
        self._job_id = job_id
        self._kill_at = math.inf  # time.monotonic

    @property
    def asked(self) -> StopReason | None:
        """Why the attempt is asked to stop: by a request for the job, else by a shutdown."""
        leaving = self._shutdown_state.stop_since is not None
        request = self._lease.request  # read once: it may be withdrawn
        shutdown = StopReason.SHUTDOWN if leaving else None
        return STOP_REASONS[request] if request is not None else shutdown

    def is_wanted(self) -> bool:
        """Whether the attempt may go on: nobody asks it to stop, and nothing is wrong with it."""
        return self.reason is None and self.asked is None

    def before_start(self) -> Outcome | None:
        """The outcome of an attempt that must stop before its program starts; None if it may go on.

        It has no process that could have done anything else.
        """
        reason = self.reason or self.asked
        return None if reason is None else self.with_notice(stopped_before_start(reason))

    def with_notice(self, ended: Outcome) -> Outcome:
        """The outcome, with the cloud's spot notice as its message if that was the reason."""
        notice, reason = self._shutdown_state.notice, self.reason or self.asked
        if notice and reason is StopReason.SHUTDOWN and ended.reason is Reason.PREEMPTED:
            return replace(ended, message=notice)
        return ended

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
