"""Readiness of the service: its checks, run on demand and cached."""

from __future__ import annotations

import logging
import threading
import time

from jobs.checks import Checks, Finding

log = logging.getLogger(__name__)

_TRIAL_SECONDS = 5.0  # that the end of the process waits for it

# How long a result is valid, seconds: platforms probe often while all is well.
_GOOD, _BAD = 10.0, 1.0


class Readiness:
    """The last findings. One caller refreshes them; the others do not wait for slow storage."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._refreshing = threading.Lock()
        self._found: list[Finding] | None = None
        self._until = 0.0
        self._trial: threading.Thread | None = None
        self._said: list[Finding] = []

    def found(self) -> list[Finding]:
        """One finding per part."""
        first = self._found is None
        if time.monotonic() < self._until or not self._refreshing.acquire(blocking=first):
            return self._found or []
        try:
            if time.monotonic() >= self._until:
                self._found = self._checks.run()
                bad = any(one.problem for one in self._found)
                self._say([one for one in self._found if one.problem])
                if not bad and self._trial is None:
                    self._trial = threading.Thread(target=self._try_out, name="trial", daemon=True)
                    self._trial.start()
                self._until = time.monotonic() + (_BAD if bad else _GOOD)
            return self._found or []
        finally:
            self._refreshing.release()

    def _say(self, problems: list[Finding]) -> None:
        """Logs the problems when they change: the answer may not say them to everybody."""
        if problems != self._said:
            for one in problems:
                log.warning("not ready: %s: %s", one.part, one.problem)
            if not problems:
                log.info("ready again")
        self._said = problems

    def leave(self) -> None:
        """Removes what the checks left in storage."""
        if self._trial is not None:
            self._trial.join(_TRIAL_SECONDS)
        if self._found is not None:
            self._checks.leave()

    def _try_out(self) -> None:
        """Logs what storage lacks, once; the API itself needs little of it."""
        for found in self._checks.try_out():
            if found.problem:
                log.warning("jobs cannot use this storage: %s", found.problem)
