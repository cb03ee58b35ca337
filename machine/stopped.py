"""Processes that somebody has stopped (SIGSTOP), and that go on again by themselves (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


class Stopped:
    """Continues a process that has been stopped for `seconds`; call `check` now and then.

    A job with the user of its worker can stop it, and a debugger that was killed leaves it so. One
    that a debugger holds is not touched.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self._since: float | None = None  # time.monotonic

    def check(self) -> float | None:
        """For how long the process was stopped if it was continued now; else None."""
        if not _is_stopped(self._pid):
            self._since = None
            return None
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._seconds:
            return None
        stopped, self._since = now - self._since, None
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGCONT)
        return stopped


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"
