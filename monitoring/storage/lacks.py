"""What a store lacks: found out at an operation or by the probe, remembered, and logged once."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lack:
    """Something that a store cannot do, and that is done without; and what that means."""

    what: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.what}: {self.meaning}"


class Lacks:
    """What the store at `place` has been found to lack; threads may share it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._found: dict[Lack, None] = {}  # in order
        self._lock = threading.Lock()

    def note(self, lack: Lack) -> None:
        """Remembers a lack; the first time, logs it."""
        with self._lock:
            is_new = lack not in self._found
            self._found[lack] = None
        if is_new:
            log.warning("storage %s has %s", self._place, lack)

    def __contains__(self, lack: Lack) -> bool:
        return lack in self._found

    def sentences(self) -> list[str]:
        """A sentence for each lack."""
        with self._lock:
            return [str(lack) for lack in self._found]
