"""Checks that this worker's scratch disk can be written.

If it cannot, every attempt fails at once: a worker that kept claiming jobs would always be the idle
one of its pool and would fail job after job.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

# Enough bytes for a full disk to refuse them.
_PROBE = b"\0" * 4096


class ScratchDisk:
    """The disk of a scratch directory; `verdict` is the result of the last check."""

    def __init__(self, directory: Path) -> None:
        self.verdict = ""
        self._directory = directory

    def check(self) -> str:
        """Why the directory cannot be written, as a sentence; '' if it can."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                file.write(_PROBE)
        except OSError as error:
            why = error.strerror or str(error)
            self.verdict = f"cannot write to its scratch disk {self._directory}: {why}"
        else:
            self.verdict = ""
        return self.verdict

    def verdict_now(self) -> str:
        """The verdict; checks again only after a failed check."""
        return self.verdict and self.check()
