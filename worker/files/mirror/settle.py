"""Decides what of a run directory may become its next moment; a pure function of two looks.

A program writes while it is looked at. What differs between two looks, a second apart, is being
written: it is busy. While anything is busy, nothing else changes either, so that files that belong
together come from one time, and nothing that was removed goes before what replaces it is whole.
There are four exceptions. What only grows counts at any length. What is known to be complete counts
at once. What changes at every look would hold up the others for ever: it is restless, and is copied
between two looks that agree. And after `PATIENCE_SECONDS` only the folders with something busy in
them are held up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from worker.files.look import Look, Seen, folders_of

PATIENCE_SECONDS = 5.0
# A new folder is being filled until nothing in it has changed for this long.
FILLING_SECONDS = 2.0
RESTLESS_LOOKS = 6
# A link or file of at most this size may point to a new folder beside it, and waits for that.
_POINTER_BYTES = 1 << 16
_POINTER_SECONDS = 15.0


@dataclass(frozen=True)
class Cut:
    """The state that may be committed.

    `taken` is what is there; of the paths `held` the last moment's entries stay as they are.
    `restless` are the paths of `taken` that change all the time.
    """

    taken: Look
    held: frozenset[str] = frozenset()
    restless: frozenset[str] = frozenset()


@dataclass
class Settling:
    """What was seen at the last look, and for how long something has been busy.

    `is_complete` says of a path that its writer is known to have finished it, or removed it where
    nothing is there; `grows` says whether a file was only appended to since the version that is
    published. `is_open` says whether its writer still has a file open; the file counts only after
    some quiet looks then, and an archive not at all. `stands_alone` says whether a file has nothing
    to do with those beside it.
    """

    is_complete: Callable[[str, Seen | None], bool]
    grows: Callable[[str, Seen], bool]
    is_open: Callable[[str, Seen, int], bool] = lambda *_: False
    stands_alone: Callable[[str], bool] = lambda _: False
    _quiet: dict[str, int] = field(default_factory=dict)
    _last: Look | None = None
    _changed_at: dict[str, float] = field(default_factory=dict)
    _looked_at: float = 0.0
    _streaks: dict[str, int] = field(default_factory=dict)
    _busy_since: float | None = None
    # Since when a file waits for a folder, and the version of it that is published.
    _waiting: dict[str, tuple[Seen | None, float]] = field(default_factory=dict)
    _busy: frozenset[str] = frozenset()
    _restless: frozenset[str] = frozenset()

    def cut(self, now: Look, published: Mapping[str, Seen], time: float) -> Cut:
        """What of the look `now`, taken at `time` (monotonic seconds), may be committed."""
        self._looked_at = time
        busy, restless = self._busy, self._restless = self._unsettled(now, published)
        self._last = now
        if not busy:
            self._busy_since = None
            return Cut(now, restless=restless)
        if self._busy_since is None:
            self._busy_since = time
        if time - self._busy_since < PATIENCE_SECONDS:
            return self._growth(now, published)
        return self._by_folder(now, published, busy, restless)

    def without(
        self, now: Look, published: Mapping[str, Seen], unsent: Set[str], *, patient: bool
    ) -> Cut:
        """What may be committed of the same look before the `unsent` files are in storage.

        They count as files that are being written, for which it is `patient` or not.
        """
        if patient:
            return self._growth(now, published)
        return self._by_folder(now, published, self._busy | unsent, self._restless)

    def at_end(self, now: Look, published: Mapping[str, Seen], *, orderly: bool) -> Cut:
        """What counts of what an ended program left; all of it if its end was `orderly`.

        A program that was killed was perhaps writing what has changed since the last look.
        """
        if orderly:
            return Cut(now)
        busy, restless = self._unsettled(now, published)
        held = frozenset(busy | restless)
        return self._by_folder(now, published, held, frozenset()) if held else Cut(now)

    def _unsettled(
        self, now: Look, published: Mapping[str, Seen]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """The paths that are being written, and those that always are."""
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
        self._streaks = {path: self._streaks.get(path, 0) + 1 for path in differing}
        restless = {path for path, looks in self._streaks.items() if looks >= RESTLESS_LOOKS}
        restless -= held_open
        filling = self._filling(now, published, differing)
        busy = (differing - restless) | held_open | filling
        return frozenset(busy), frozenset(restless & now.keys())

    def _filling(self, now: Look, published: Mapping[str, Seen], differing: set[str]) -> set[str]:
        """The files in new folders in which something has changed a moment ago."""
        self._changed_at = {
            path: at for path, at in self._changed_at.items() if path in now
        } | dict.fromkeys(differing, self._looked_at)
        new: dict[str, list[str]] = {}
        for path in now.keys() - published.keys():
            folder = next((f for f in folders_of(path) if f not in published), None)
            if folder is not None and not self._is_settled(path, now[path], published):
                new.setdefault(folder, []).append(path)
        since = self._looked_at - FILLING_SECONDS
        return {
            path
            for paths in new.values()
            if any(self._changed_at.get(path, -math.inf) > since for path in paths)
            for path in paths
        }

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
                or (self._grows(path, seen) and published.keys() >= set(folders_of(path)))
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
        restless: frozenset[str],
    ) -> Cut:
        """The present state but for the folders with something busy, which stay published."""
        growth = self._growth(now, published)
        alone = {path for path in busy if self.stands_alone(path)}
        held = {_held_folder(path, published) for path in busy if path not in alone}
        # Where a file says which of the folders beside it is the newest.
        beside = {_folder(path) for path in held if path not in published}

        def is_held(path: str, seen: Seen) -> bool:
            if path in growth.taken:
                return False
            if path in alone:
                return True
            if seen.kind == "directory":
                return path in held and path not in published
            if _folder(path) in beside and self._points(path, seen, published):
                return True
            return _folder(path) in held or not held.isdisjoint(
                folder for folder in folders_of(path) if folder not in published
            )

        taken = {path: seen for path, seen in now.items() if not is_held(path, seen)}
        # What was removed goes only when nothing is busy: it may be what the new replaces.
        held_paths = growth.held - taken.keys()
        return Cut(taken, held_paths, restless & taken.keys())

    def _points(self, path: str, seen: Seen, published: Mapping[str, Seen]) -> bool:
        """Whether a file may say which folder beside it is the newest; for some seconds."""
        before = published.get(path)
        if seen == before or seen.size > _POINTER_BYTES:
            return False
        waiting = self._waiting.get(path)
        if waiting is None or waiting[0] != before:
            waiting = self._waiting[path] = before, self._looked_at
        return self._looked_at < waiting[1] + _POINTER_SECONDS


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _held_folder(path: str, published: Mapping[str, Seen]) -> str:
    """The folder that something busy holds up: its own, or the outermost one that is new."""
    new = (folder for folder in folders_of(path) if folder not in published)
    return next(new, _folder(path))
