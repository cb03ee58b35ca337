"""Repeats a call to storage through an outage, for as long as the attempt can afford to wait."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.attempt.background import Background
from worker.attempt.context import WorkerContext
from worker.attempt.lease import Lease
from worker.attempt.stopping import Stopping

TICK_SECONDS = 1.0
RETRY_SECONDS = 0.5
# An outage of storage that lasts longer than this at the end of an attempt fails it.
OUTAGE_SECONDS = 900.0


class Overtaken(Exception):  # noqa: N818 - nothing went wrong with this attempt
    """A newer attempt has the job: this one stops and writes nothing."""


def storage_calls(
    context: WorkerContext, action: Callable[[], None], *, nice: int = 0
) -> Background:
    """Calls of `action`, which uses storage, at the supervisor's pace."""
    seconds = min(TICK_SECONDS, context.settings.lease_seconds / 5)
    wake = context.shutdown_state.wake
    return Background("storage", action, seconds=seconds, on_overtaken=wake, nice=nice)


class StorageRetry:
    """Repeats calls to storage for one attempt; each call raises `Overtaken` once it is stale."""

    def __init__(self, context: WorkerContext, lease: Lease, stopping: Stopping) -> None:
        self._context = context
        self._lease = lease
        self._stopping = stopping

    def __call__(
        self, action: Callable[[], None], *, worthwhile: Callable[[], bool] = lambda: True
    ) -> bool:
        """Repeats `action` until it succeeds; False if storage was unavailable for too long.

        It also gives up when the worker must be gone, or when `worthwhile` returns False.
        """
        calls = storage_calls(self._context, action)
        deadline = time.monotonic() + OUTAGE_SECONDS
        while not calls.call():
            if self._lease.overtaken or calls.overtaken:
                raise Overtaken
            give_up_at = min(deadline, self._stopping.worker_leaves_at)
            if time.monotonic() > give_up_at or not worthwhile():
                return False
            time.sleep(RETRY_SECONDS)
        return True
