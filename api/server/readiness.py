"""Whether the service can do its work, looked at when it is asked and not too often."""

from __future__ import annotations

import threading
import time

from jobs.checks import Checks, Finding

# How long (seconds) a look counts: a good one is asked for by every probe of every platform.
_GOOD, _BAD = 10.0, 1.0


class Readiness:
    """What was found last. One caller looks again; the others do not wait for a slow store."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._looking = threading.Lock()
        self._found: list[Finding] | None = None
        self._until = 0.0

    def found(self) -> list[Finding]:
        """A finding for each part."""
        first = self._found is None
        if time.monotonic() < self._until or not self._looking.acquire(blocking=first):
            return self._found or []
        try:
            if time.monotonic() >= self._until:
                self._found = self._checks.run()
                bad = any(one.problem for one in self._found)
                self._until = time.monotonic() + (_BAD if bad else _GOOD)
            return self._found or []
        finally:
            self._looking.release()

    def leave(self) -> None:
        """Takes back what the looks left in storage."""
        if self._found is not None:
            self._checks.leave()
