"""Notes how long the output log was at which time, for who asks what came in the last minutes."""

from __future__ import annotations

import math
import time

from worker.files.logs.row_file import RowFile

_NOTE_SECONDS = 10.0


class OutputTimes:
    """Rows `BYTES SECONDS`: the size of the log, and the time of the clock, since the epoch.

    There is a row for each ten seconds in which output came. A log that was begun anew, since it
    was too long, has a smaller size than in the row before.
    """

    def __init__(self, rows: RowFile) -> None:
        self._rows = rows
        self._noted: int | None = None  # bytes
        self._noted_at = -math.inf  # time.monotonic

    @property
    def published_bytes(self) -> int:
        """The number of bytes sent to storage so far."""
        return self._rows.published_bytes

    def publish(self, size: int | None, *, closing: bool) -> None:
        """Notes the size of the log, if it is news, and sends what is noted."""
        now = time.monotonic()
        is_due = closing or now >= self._noted_at + _NOTE_SECONDS
        if size is not None and size != self._noted and is_due and self._rows.is_ready:
            self._rows.append(b"%d %.3f\n" % (size, time.time()))
            self._noted, self._noted_at = size, now
        self._rows.publish(closing=closing)
