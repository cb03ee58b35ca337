"""Whether attempts can write to this worker's scratch disk.

Where they cannot, each ends at once: a worker that went on claiming would be the idle one of its
pool for ever, and would fail job after job.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

# What a disk that is full does not take.
_PROBE = b"\0" * 4096


class ScratchDisk:
    """The disk of a scratch directory; `verdict` is that of the last look."""

    def __init__(self, directory: Path) -> None:
        self.verdict = ""
        self._directory = directory

    def look(self) -> str:
        """Why no attempt can write there, in a sentence; '' where one can."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                file.write(_PROBE)
        except OSError as error:
            why = error.strerror or str(error)
            self.verdict = f"nothing can be written to its scratch disk {self._directory}: {why}"
        else:
            self.verdict = ""
        return self.verdict

    def verdict_now(self) -> str:
        """The verdict; looks again only where it was a bad one."""
        return self.verdict and self.look()
