"""Decides what of a run directory may become its next moment; a pure function of two looks.

A program writes while it is looked at. What differs between two looks, a second apart, is being
written: it is busy. While anything is busy, nothing else changes either, so that files that belong
together come from one time, and nothing that was removed goes before what replaces it is whole.
There are four exceptions. What only grows counts at any length. What is known to be complete counts
at once. A folder in which something is busy at every look would hold up the others for ever: it is
restless, and is copied between two looks that agree. And after `PATIENCE_SECONDS` only the folders
with something busy in them are held up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from worker.files.look import Look, Seen, folder_of, folders_of

PATIENCE_SECONDS = 5.0
# A new folder is being filled until nothing in it has changed for this long.
FILLING_SECONDS = 2.0
# One that is filled for longer than this, file by file, is no checkpoint.
_LONG_FILLING_SECONDS = 60.0
RESTLESS_LOOKS = 6
# A file that has been open for so many looks is no checkpoint that is being written.
_LONG_OPEN_LOOKS = 15
_IN_PLACE_LOOKS = 5
# A link or file of at most this size may point to a new folder beside it, and waits for that.
_POINTER_BYTES = 1 << 16
_POINTER_SECONDS = 15.0


@dataclass(frozen=True)
class Cut:
    """The state that may be committed.

    `taken` is what is there; of the paths `held` the last moment's entries stay as they are.
    `restless` are the folders whose files, the `apart` ones excepted, are to be copied at one time;
    until they are, they stay as they were.
    """

    taken: Look
    held: frozenset[str] = frozenset()
    restless: frozenset[str] = frozenset()
    apart: frozenset[str] = frozenset()


@dataclass
class Settling:
    """What was seen at the last look, and for how long something has been busy.

    `is_complete` says of a path that its writer is known to have finished it, or removed it where
    nothing is there; `grows` says whether a file was only appended to since the version that is
    published. `is_open` says whether its writer still has a file open; the file counts only after
    some quiet looks then, and an archive not at all. `is_consistent` says of an open file that it
    can be read at any time, as a database's; `is_archive` that it is of no use until it is whole.
    `stands_alone` says whether a file has nothing to do with those beside it.
    """

    is_complete: Callable[[str, Seen | None], bool]
    grows: Callable[[str, Seen], bool]
    is_open: Callable[[str, Seen, int], bool] = lambda *_: False
    is_consistent: Callable[[str], bool] = lambda _: False
    is_archive: Callable[[str], bool] = lambda _: False
    stands_alone: Callable[[str], bool] = lambda _: False
    _quiet: dict[str, int] = field(default_factory=dict)
    _last: Look | None = None
    _changed_at: dict[str, float] = field(default_factory=dict)
    _looked_at: float = 0.0
    # For how many looks without a break a folder has had something busy, and a file was open.
    _streaks: dict[str, int] = field(default_factory=dict)
    _open: dict[str, int] = field(default_factory=dict)
    _same_size: dict[str, int] = field(default_factory=dict)
    # Since when a new folder is being filled, and those that are not new any more by that.
    _filled_since: dict[str, float] = field(default_factory=dict)
    _ordinary: set[str] = field(default_factory=set)
    _busy_since: float | None = None
    # Since when a file waits for a folder, and the version of it that is published.
    _waiting: dict[str, tuple[Seen | None, float]] = field(default_factory=dict)
    _busy: frozenset[str] = frozenset()
    _restless: frozenset[str] = frozenset()
    _apart: frozenset[str] = frozenset()

    def cut(self, now: Look, published: Mapping[str, Seen], time: float) -> Cut:
        """What of the look `now`, taken at `time` (monotonic seconds), may be committed."""
        self._looked_at = time
        self._examine(now, published)
        self._last = now
        if not self._busy:
            self._busy_since = None
            return self._but_restless(now, published) if self._restless else Cut(now)
        if self._busy_since is None:
            self._busy_since = time
        if time - self._busy_since < PATIENCE_SECONDS:
            return self._growth(now, published)
        return self._by_folder(now, published, self._busy)

    def without(
        self, now: Look, published: Mapping[str, Seen], unsent: Set[str], *, patient: bool
    ) -> Cut:
        """What may be committed of the same look before the `unsent` files are in storage.

        They count as files that are being written, for which it is `patient` or not.
        """
        if patient:
            return self._growth(now, published)
        return self._by_folder(now, published, self._busy | unsent)

    def at_end(self, now: Look, published: Mapping[str, Seen], *, orderly: bool) -> Cut:
        """What counts of what an ended program left; all of it if its end was `orderly`.

        A program that was killed was perhaps writing what has changed since the last look.
        """
        if orderly:
            return Cut(now)
        self._examine(now, published)
        restless = {path for path in now if folder_of(path) in self._restless}
        changed = {path for path in restless if now[path] != published.get(path)}
        self._restless, self._apart = frozenset(), frozenset()
        held = self._busy | changed
        return self._by_folder(now, published, held) if held else Cut(now)

    def _examine(self, now: Look, published: Mapping[str, Seen]) -> None:
        """Finds the paths that are being written, and the folders in which something always is."""
        last = published if self._last is None else self._last
        differing = {
            path
            for path in now.keys() | last.keys()
            if now.get(path) != last.get(path)
            and not self._is_settled(path, now.get(path), published)
        }
        self._quiet = {
            path: self._quiet.get(path, 0) + 1 if last.get(path) == seen else 0
            for path, seen in now.items()
        }
        held_open = {
            path
            for path, seen in now.items()
            if not self._is_settled(path, seen, published)
            and self.is_open(path, seen, self._quiet[path])
        }
        self._open = {path: self._open.get(path, 0) + 1 for path in held_open}
        self._same_size = {
            path: self._same_size.get(path, 0) + 1
            for path in held_open
            if (before := last.get(path)) is not None and before.size == now[path].size
        }
        busy = differing | held_open | self._filling(now, published, differing)
        held_up = {
            path: self._held_folder(path, published) for path in busy if not self.stands_alone(path)
        }
        self._streaks = {f: self._streaks.get(f, 0) + 1 for f in set(held_up.values())}
        restless = {
            folder
            for folder, looks in self._streaks.items()
            if looks >= RESTLESS_LOOKS and not self._is_new(folder, published)
        }
        self._apart = frozenset(
            path
            for path in held_open
            if held_up.get(path) in restless and not self._may_be_copied(path)
        )
        self._restless = frozenset(restless)
        self._busy = frozenset(p for p in busy if held_up.get(p) not in restless)

    def _may_be_copied(self, path: str) -> bool:
        """Whether an open file may count in the middle of its writer's work."""
        if self.is_consistent(path):
            return True
        is_long_open = self._open[path] >= _LONG_OPEN_LOOKS
        is_in_place = self._same_size.get(path, 0) >= _IN_PLACE_LOOKS  # a checkpoint would grow
        return (is_long_open or is_in_place) and not self.is_archive(path)

    def _filling(self, now: Look, published: Mapping[str, Seen], differing: Set[str]) -> set[str]:
        """The files in new folders in which something has changed a moment ago."""
        self._changed_at = {
            path: at for path, at in self._changed_at.items() if path in now
        } | dict.fromkeys(differing, self._looked_at)
        self._ordinary -= published.keys()
        new: dict[str, list[str]] = {}
        for path in now.keys() - published.keys():
            folder = next((f for f in folders_of(path) if self._is_new(f, published)), None)
            if folder is not None and not self._is_settled(path, now[path], published):
                new.setdefault(folder, []).append(path)
        recently = self._looked_at - FILLING_SECONDS
        filled = {
            folder: paths
            for folder, paths in new.items()
            if any(
                self._changed_at.get(path, -math.inf) > recently and not self.is_consistent(path)
                for path in paths
            )
        }
        writing = {path for path in self._open if not self._may_be_copied(path)}
        # The time begins anew with each file that somebody has open: it may be a large one.
        self._filled_since = {
            folder: self._looked_at
            if folder not in self._filled_since or not writing.isdisjoint(paths)
            else self._filled_since[folder]
            for folder, paths in filled.items()
        }
        self._ordinary.update(
            folder
            for folder, since in self._filled_since.items()
            if self._looked_at - since >= _LONG_FILLING_SECONDS
        )
        # A database in it is written all the time, and nothing else.
        self._ordinary.update(
            folder
            for folder in new.keys() - filled.keys()
            if any(path in differing and self.is_consistent(path) for path in new[folder])
        )
        return {path for f, paths in filled.items() if f not in self._ordinary for path in paths}

    def _is_new(self, folder: str, published: Mapping[str, Seen]) -> bool:
        return folder != "" and folder not in published and folder not in self._ordinary

    def _is_settled(self, path: str, seen: Seen | None, published: Mapping[str, Seen]) -> bool:
        if seen == published.get(path) or (seen is not None and seen.kind == "directory"):
            return True
        return self.is_complete(path, seen) or self._grows(path, seen)

    def _grows(self, path: str, seen: Seen | None) -> bool:
        return seen is not None and seen.kind == "file" and self.grows(path, seen)

    def _growth(self, now: Look, published: Mapping[str, Seen]) -> Cut:
        """The published state with what has grown, what is complete, and new files that grow."""
        taken = {
            path: seen
            for path, seen in now.items()
            if seen.kind != "directory"
            and (
                self.is_complete(path, seen)
                # A new folder counts as a whole: its logs do not make it appear.
                or (
                    self._grows(path, seen)
                    and not any(self._is_new(f, published) for f in folders_of(path))
                )
            )
        }
        folders = {folder for path in taken for folder in folders_of(path)}
        taken |= {path: now[path] for path in folders if path in now}
        removed = {p for p in published.keys() - now.keys() if self.is_complete(p, None)}
        return Cut(taken, held=frozenset(published.keys() - taken.keys() - removed))

    def _by_folder(
        self,
        now: Look,
        published: Mapping[str, Seen],
        busy: Iterable[str],
    ) -> Cut:
        """The present state but for the folders with something busy, which stay published."""
        growth = self._growth(now, published)
        alone = {path for path in busy if self.stands_alone(path)}
        held = {self._held_folder(path, published) for path in busy if path not in alone}
        # Where a file says which of the folders beside it is the newest.
        beside = {folder_of(path) for path in held if self._is_new(path, published)}
        pointers = {
            path
            for path, seen in now.items()
            if folder_of(path) in beside and self._points(path, seen, published)
        }

        def is_held(path: str, seen: Seen) -> bool:
            if path in growth.taken:
                return False
            if path in alone or path in self._apart:
                return True
            if seen.kind == "removed" and seen != published.get(path) and held:
                return True  # as below: it may be what the new replaces
            if seen.kind == "directory":
                return path in held and self._is_new(path, published)
            if path in pointers or folder_of(path) in self._restless:
                return True
            return folder_of(path) in held or not held.isdisjoint(
                folder for folder in folders_of(path) if self._is_new(folder, published)
            )

        taken = {path: seen for path, seen in now.items() if not is_held(path, seen)}
        # What was removed goes only when nothing is busy: it may be what the new replaces.
        apart = self._apart | pointers
        return Cut(taken, growth.held - taken.keys(), self._restless, apart)

    def _but_restless(self, now: Look, published: Mapping[str, Seen]) -> Cut:
        """The present state but for the files of restless folders, which stay published."""
        cut = self._by_folder(now, published, ())
        gone = {p for p in cut.held if p not in now and folder_of(p) not in self._restless}
        return replace(cut, held=cut.held - gone)

    def _points(self, path: str, seen: Seen, published: Mapping[str, Seen]) -> bool:
        """Whether a file may say which folder beside it is the newest; for some seconds."""
        before = published.get(path)
        if seen == before or seen.kind == "directory" or seen.size > _POINTER_BYTES:
            return False
        waiting = self._waiting.get(path)
        if waiting is None or waiting[0] != before:
            waiting = self._waiting[path] = before, self._looked_at
        return self._looked_at < waiting[1] + _POINTER_SECONDS

    def _held_folder(self, path: str, published: Mapping[str, Seen]) -> str:
        """The folder that something busy holds up: its own, or the outermost one that is new."""
        new = (folder for folder in folders_of(path) if self._is_new(folder, published))
        return next(new, folder_of(path))
