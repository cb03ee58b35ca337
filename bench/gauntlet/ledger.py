"""What a program has reported, in a file outside its run (`tests/gauntlet/programs/ledger.py`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIELDS = ("at", "attempt", "event", "step")


@dataclass(frozen=True)
class Event:
    """A report: `at` in seconds since the epoch."""

    at: float
    attempt: int
    event: str
    step: int
    more: dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The reports of one job's program, over all attempts."""

    path: Path

    def events(self) -> list[Event]:
        """All events, in the order in which they were reported."""
        if not self.path.exists():
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        found = []
        for line in whole.splitlines():
            values = json.loads(line)
            at, attempt, event, step = (values.pop(name) for name in _FIELDS)
            found.append(Event(at, attempt, event, step, values))
        return found

    def has_begun(self, attempt: int) -> bool:
        """Whether the program has said in this attempt from where it goes on."""
        return any(
            event.attempt == attempt and event.event in {"resumed", "begun"}
            for event in self.events()
        )

    def last(self, name: str) -> Event | None:
        """The last event of this name."""
        return next((event for event in reversed(self.events()) if event.event == name), None)
