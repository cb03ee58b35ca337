"""How an attempt is brought to its end: what it is stopped for, and when its patience is over."""

from __future__ import annotations

import logging
import math
import time

from worker.attempt.context import WorkerContext
from worker.attempt.outcome import Intent, grace
from worker.launch.child import Child

log = logging.getLogger(__name__)


class Stopping:
    """Asks a child to leave, once, and kills it when its grace is over.

    The weightiest of several reasons counts: `intent`, None while there is none.
    """

    def __init__(self, context: WorkerContext, job_id: str) -> None:
        self.intent: Intent | None = None
        self._shutdown_state = context.shutdown_state
        self._settings = context.settings
        self._job_id = job_id
        self._kill_at = math.inf  # time.monotonic

    def intend(self, intent: Intent) -> None:
        """Notes a reason for the end."""
        if self.intent is None or intent.value > self.intent.value:
            self.intent = intent

    def ask(self, child: Child, intent: Intent, last_upload: float) -> None:
        """Asks the child to leave; `last_upload` is in seconds (`worker.attempt.outcome.grace`)."""
        first = self.intent is None
        self.intend(intent)
        since = self._shutdown_state.stop_since
        pressing = intent if since is None else Intent.SHUTDOWN
        seconds = grace(pressing, self.grace_seconds, last_upload)
        self._kill_at = min(self._kill_at, (time.monotonic() if since is None else since) + seconds)
        if first:
            log.info("job %s: asking the child to stop (%s)", self._job_id, intent.name.lower())
            child.terminate()

    def kill_when_due(self, child: Child) -> None:
        """Kills a child that was asked and did not leave in its grace."""
        if time.monotonic() > self._kill_at:
            child.kill()

    @property
    def grace_seconds(self) -> float:
        """From a stop request to the kill; less where the machine is gone sooner."""
        return self._shutdown_state.seconds(self._settings.grace_seconds)

    @property
    def worker_leaves_at(self) -> float:
        """The `time.monotonic` by which this worker must be gone; infinite while it may stay."""
        since = self._shutdown_state.stop_since
        return math.inf if since is None else since + self.grace_seconds
