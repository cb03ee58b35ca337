"""What goes on beside the supervision of a child, so that none of it can hold up the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jobs.errors import STORE_AWAY, StaleAttemptError
from monitoring.storage import OvertakenError, StorageError

log = logging.getLogger(__name__)

AWAY = (*STORE_AWAY, OSError, StorageError)


class Background:
    """Calls `action` again and again in a thread of its own, through outages.

    What it calls may be away for a while: that is said once, and once again when it is back.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], None],
        *,
        seconds: float,
        on_overtaken: threading.Event,
    ) -> None:
        self.overtaken = False
        self._name = name
        self._action = action
        self._seconds = seconds
        self._on_overtaken = on_overtaken
        self._stopping = threading.Event()
        self._away_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts calling."""
        self._thread.start()

    def stop(self) -> None:
        """Returns when the call under way has come back; there is none after it."""
        self._stopping.set()
        self._thread.join()

    def call(self) -> bool:
        """Calls the action once; whether it came through. Not while the thread runs."""
        try:
            self._action()
        except (OvertakenError, StaleAttemptError):
            self.overtaken = True
            self._on_overtaken.set()
        except Exception as error:  # whatever it is, the training must not end for it
            if self._away_since is None:
                self._away_since = time.monotonic()
                unexpected = not isinstance(error, AWAY)
                log.warning("%s is away, training goes on: %s", self._name, error,
                            exc_info=unexpected)  # fmt: skip
        else:
            if self._away_since is not None:
                away = time.monotonic() - self._away_since
                log.info("%s is back after %.1f s", self._name, away)
                self._away_since = None
            return True
        return False

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds) and not self.overtaken:
            self.call()
