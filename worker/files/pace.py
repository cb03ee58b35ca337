"""Decides when what grows is sent: not each second where a store makes a new object of it."""

from __future__ import annotations

import time

_BYTES_PER_SECOND = 1 << 20
_MAX_SECONDS = 300.0


class Pace:
    """The pace of one run: the longer a file, the less often its new bytes are sent.

    An object store sends or copies the whole file for each addition, and one that keeps versions
    keeps each. Where a store appends, or while somebody follows the run, new bytes are always due.
    """

    def __init__(self, *, appends_in_place: bool) -> None:
        self._appends_in_place = appends_in_place
        self.is_followed = False

    def is_due(self, stored: int, size: int, sent_at: float) -> bool:
        """Whether to send a file of `size` bytes, `stored` of which were `sent_at` that time."""
        if self._appends_in_place or self.is_followed or size >= 2 * stored:
            return True
        return time.monotonic() >= sent_at + min(stored / _BYTES_PER_SECOND, _MAX_SECONDS)
