"""Calls an action at intervals in a thread of its own, so that it never delays the supervision."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from jobs.errors import STORE_AWAY, ForgottenError, StaleAttemptError
from monitoring.storage.base import OvertakenError, StorageError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

# Errors of a server that is unreachable for now; any other error is logged with its traceback.
OUTAGE_ERRORS = (*STORE_AWAY, ForgottenError, OSError, StorageError)


class Background:
    """Calls `action` every `seconds` in a thread of its own, and survives outages.

    An outage is logged once when it begins and once when it ends, and so is that Redis has
    forgotten the job, which somebody must mend: a reset often begins as an outage. With a `nice`
    value the thread, and every thread that it starts, yields the processors to others.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], None],
        *,
        seconds: float,
        on_overtaken: threading.Event,
        nice: int = 0,
    ) -> None:
        self.overtaken = False
        self._name = name
        self._action = action
        self._seconds = seconds
        self._on_overtaken = on_overtaken
        self._nice = nice
        self._stopping = False
        self._due = threading.Event()
        self.failing_since: float | None = None  # time.monotonic; None if the last call succeeded
        self._is_forgotten = False  # as was logged
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Waits for the call in progress and ends the thread."""
        self._stopping = True
        self._due.set()
        self._thread.join()

    def trigger(self) -> None:
        """Makes the thread call the action at once, or right after the call in progress."""
        self._due.set()

    def call(self) -> bool:
        """Calls the action once and returns whether it succeeded. Not while the thread runs."""
        try:
            self._action()
        except (OvertakenError, StaleAttemptError):
            self.overtaken = True
            self._on_overtaken.set()
        except Exception as error:  # no error may end the training
            is_forgotten = isinstance(error, ForgottenError)
            if self.failing_since is None or (is_forgotten and not self._is_forgotten):
                self.failing_since = self.failing_since or time.monotonic()
                self._is_forgotten = is_forgotten
                unexpected = not isinstance(error, OUTAGE_ERRORS)
                log.warning("%s is unavailable, training continues: %s", self._name, error,
                            exc_info=unexpected)  # fmt: skip
        else:
            if self.failing_since is not None:
                outage = time.monotonic() - self.failing_since
                log.info("%s is available again after %.1f s", self._name, outage)
                self.failing_since = None
            self._is_forgotten = False
            return True
        return False

    def _run(self) -> None:
        thread = threading.get_native_id()
        if self._nice > os.getpriority(os.PRIO_PROCESS, thread):
            os.setpriority(os.PRIO_PROCESS, thread, self._nice)
        succeeded = True
        while not self.overtaken:
            self._due.wait(self._seconds if succeeded else min(self._seconds, _RETRY_SECONDS))
            self._due.clear()
            if self._stopping:
                return
            succeeded = self.call()
