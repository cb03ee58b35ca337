"""What goes on beside the supervision of a child, so that none of it can hold up the rest."""

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

AWAY = (*STORE_AWAY, ForgottenError, OSError, StorageError)


class Background:
    """Calls `action` every so many `seconds` in a thread of its own, through outages.

    What it calls may be away for a while: that is said once, and once again when it is back.
    With a `nice` value that thread, and those that it starts, leave the processors to others.
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
        self.away_since: float | None = None  # time.monotonic; None when the last call came through
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts calling."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the call under way has come back; there is none after it."""
        self._stopping = True
        self._due.set()
        self._thread.join()

    def hurry(self) -> None:
        """Has it called at once, or again when the call under way has come back."""
        self._due.set()

    def call(self) -> bool:
        """Calls the action once; whether it came through. Not while the thread runs."""
        try:
            self._action()
        except (OvertakenError, StaleAttemptError):
            self.overtaken = True
            self._on_overtaken.set()
        except Exception as error:  # whatever it is, the training must not end for it
            if self.away_since is None:
                self.away_since = time.monotonic()
                unexpected = not isinstance(error, AWAY)
                log.warning("%s is away, training goes on: %s", self._name, error,
                            exc_info=unexpected)  # fmt: skip
        else:
            if self.away_since is not None:
                away = time.monotonic() - self.away_since
                log.info("%s is back after %.1f s", self._name, away)
                self.away_since = None
            return True
        return False

    def _run(self) -> None:
        thread = threading.get_native_id()
        if self._nice > os.getpriority(os.PRIO_PROCESS, thread):
            os.setpriority(os.PRIO_PROCESS, thread, self._nice)
        came = True
        while not self.overtaken:
            self._due.wait(self._seconds if came else min(self._seconds, _RETRY_SECONDS))
            self._due.clear()
            if self._stopping:
                return
            came = self.call()
