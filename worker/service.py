"""What a worker process has for all its attempts."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

from jobs.messages import Messenger
from jobs.settings import Settings
from jobs.store import JobStore
from monitoring.storage import Storage
from worker.child import Start, start_cold
from worker.launch import Slot


@dataclass
class Attendance:
    """Whether this worker was told to stop, and what wakes its supervisor."""

    wake: threading.Event = field(default_factory=threading.Event)
    stop_since: float | None = None  # time.monotonic

    def stop(self) -> None:
        """Asks the attempt under way to end; asked again, to end at once, its grace over.

        May be called by a signal handler.
        """
        self.stop_since = time.monotonic() if self.stop_since is None else -math.inf
        self.wake.set()


@dataclass(frozen=True)
class Service:
    """What a worker process has for all its attempts."""

    settings: Settings
    store: JobStore
    messenger: Messenger
    storage: Storage
    slot: Slot
    attendance: Attendance
    start: Start = start_cold
