"""What a worker process has for all its attempts."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.messages import Messenger
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import Storage
from worker.launch.child import Start, start_cold
from worker.launch.prepare import Slot


@dataclass
class ShutdownState:
    """Whether this worker was told to stop and why, and what wakes its supervisor."""

    wake: threading.Event = field(default_factory=threading.Event)
    stop_since: float | None = None  # time.monotonic
    renewed_at: float = -math.inf  # time.monotonic of the lease's last renewal
    on_asked: Callable[[], None] | None = None  # the attempt's own, while there is one
    notice: str = ""  # of the cloud that takes the machine away
    _gone_at: float = math.inf  # time.monotonic
    _signalled: bool = False

    def asked(self) -> None:
        """Has the attempt under way look at what was asked of it."""
        if (look := self.on_asked) is not None:
            look()

    def stop(self) -> None:
        """Asks the attempt under way to end; asked again, to end at once, its grace over.

        May be called by a signal handler. The first call after `leave` is no second one: it is
        the platform that stops what runs on the machine it takes away.
        """
        if self._signalled:
            self.stop_since = -math.inf
        elif self.stop_since is None:
            self.stop_since = time.monotonic()
        self._signalled = True
        self.wake.set()

    def leave(self, notice: str, seconds: float) -> None:
        """Asks the same, because the machine will be gone in so many seconds."""
        now = time.monotonic()
        self._gone_at = min(self._gone_at, now + seconds)
        self.notice = notice
        if self.stop_since is None:
            self.stop_since = now
        self.wake.set()

    @property
    def why(self) -> str:
        """Why this worker leaves, for the register; '' while it stays."""
        return self.notice or ("" if self.stop_since is None else "it was told to stop")

    def seconds(self, grace: float) -> float:
        """How long after `stop_since` this worker must be gone: the grace, or less."""
        return grace if self.stop_since is None else min(grace, self._gone_at - self.stop_since)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker process has for all its attempts."""

    settings: Settings
    store: JobStore
    messenger: Messenger
    storage: Storage
    slot: Slot
    shutdown_state: ShutdownState
    start: Start = start_cold
