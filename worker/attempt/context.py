"""The settings, connections and shutdown state that all attempts of a worker process share."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.messages import Messenger
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.preemption import TOGETHER_SECONDS
from monitoring.storage.base import Storage
from worker.cache.cache import Cache
from worker.gpu.health import GpuReading
from worker.launch.child import Start, start_cold
from worker.launch.prepare import Slot
from worker.launch.rights import AS_THE_WORKER, Rights
from worker.launch.user import JobUser


@dataclass
class ShutdownState:
    """Whether and why this worker shuts down, and the event that wakes its supervisor."""

    wake: threading.Event = field(default_factory=threading.Event)
    stop_since: float | None = None  # time.monotonic
    renewed_at: float = -math.inf  # time.monotonic of the lease's last renewal
    on_request: Callable[[], None] | None = None  # set by the lease of the running attempt
    notice: str = ""  # the cloud's spot notice, '' without one
    _gone_at: float = math.inf  # time.monotonic
    _signalled_at: float | None = None  # time.monotonic of the first SIGTERM

    def notify_request(self) -> None:
        """Makes the running attempt read its requests."""
        if (callback := self.on_request) is not None:
            callback()

    def stop(self) -> None:
        """Asks the running attempt to end; a later call ends its grace period at once.

        Calls within `TOGETHER_SECONDS` of the first are the same request. Safe to call from a
        signal handler. The first call after `leave` does not count as a later one: the platform
        stops the processes of a machine that it reclaims.
        """
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            self.stop_since = now if self.stop_since is None else self.stop_since
        elif now - self._signalled_at > TOGETHER_SECONDS:
            self.stop_since = -math.inf
        self.wake.set()

    def leave(self, notice: str, seconds: float) -> None:
        """Asks the running attempt to end because the machine will be gone in `seconds`."""
        now = time.monotonic()
        self._gone_at = min(self._gone_at, now + seconds)
        self.notice = notice
        if self.stop_since is None:
            self.stop_since = now
        self.wake.set()

    @property
    def reason(self) -> str:
        """Why this worker shuts down, for the registry; '' if it does not."""
        return self.notice or ("" if self.stop_since is None else "it was told to stop")

    def grace_seconds(self, configured: float) -> float:
        """Seconds from `stop_since` until this worker must be gone, at most `configured`."""
        if self.stop_since is None:
            return configured
        return min(configured, self._gone_at - self.stop_since)


@dataclass(frozen=True)
class WorkerContext:
    """What all attempts of a worker process share."""

    settings: Settings
    store: JobStore
    messenger: Messenger
    storage: Storage
    slot: Slot
    shutdown_state: ShutdownState
    start: Start = start_cold
    gpus: Callable[[], Sequence[GpuReading]] = tuple  # the last reading of each
    user: JobUser | None = None
    rights: Rights = AS_THE_WORKER  # of all processes of jobs

    @property
    def cache(self) -> Cache:
        """The cache that the workers of this machine share."""
        for_others = self.rights.uid is not None
        return Cache(self.settings.cache_path, self.settings.cache_bytes, for_others=for_others)
