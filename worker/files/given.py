"""What of a run directory came with the code of the job: that is not mirrored as it is.

A moment holds what the program made of it: the files that it changed, and a mark for each path that
it removed or renamed. So a later attempt, which gets the same code first, sees the same paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.storage.moments import Entry
from worker.files.look import Look, Seen, folder_of

REMOVED = Seen("removed")


@dataclass(frozen=True)
class Given:
    """The paths of the code's files and links, and how those look that were copied as they are."""

    paths: frozenset[str] = frozenset()
    copied: Look = field(default_factory=dict)

    def within(self, here: Look, entries: Mapping[str, Entry]) -> Given:
        """Without what the mirror leaves out: only what it sees `here` can be missed later."""
        removed = {path for path in self.paths if path in entries}
        return Given(self.paths & (here.keys() | removed), self.copied)

    def with_more(self, made: Look) -> Given:
        """With more files and links, which look as in `made`."""
        return Given(self.paths | made.keys(), {**self.copied, **made})

    def what_the_program_made(self, now: Look, folder: str | None = None) -> Look:
        """A look without the code, and with a mark for each of its paths that is missing.

        `folder`: the look has only what lies directly in this folder.
        """
        if not self.paths:
            return now
        made = {path: seen for path, seen in now.items() if self.copied.get(path) != seen}
        for path in self.paths - now.keys():
            if folder is None or folder_of(path) == folder:
                made[path] = REMOVED
        return made
