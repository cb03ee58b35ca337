"""Sends the contents of files to storage, and keeps those that moments name.

`monitoring.storage.moments` says where a content lies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from machine.ownership import opened
from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError
from monitoring.storage.moments import Entry, Moments
from worker.files.look import Seen, folders_of
from worker.files.mirror.growth import Growth, Prefix, has_hole, is_archive
from worker.files.pace import Pace

_READ_BYTES = 8 << 20
_MOST_REFUSALS = 3
SMALL_BYTES = 1 << 20  # a file that may be sent together with others


class ChangedError(OSError):
    """A file changed while it was sent."""


@dataclass
class _Published:
    """The version of a file that storage has."""

    seen: Seen
    entry: Entry
    prefix: Prefix | None  # of a file that grows
    sent_at: float = field(default_factory=time.monotonic)

    def has_bytes_of(self, copy: Path) -> bool:
        """Whether it has the bytes of a file; raises `OSError`."""
        size = copy.stat().st_size
        if self.prefix is None or self.prefix.size != size or size == 0:
            return False
        return self.prefix == Prefix.of(copy, size)


class Contents:
    """The files of a run in storage, and the contents kept for its moments.

    Its methods raise `OvertakenError`, other `StorageError`s and `OSError`s.
    """

    def __init__(
        self, storage: Storage, root: Path, fence: Fence, pace: Pace, owner: int | None = None
    ) -> None:
        self._owner = owner
        self._storage = storage
        self._root = root
        self._fence = fence
        self._pace = pace
        self._moments = Moments(storage, fence.run)
        self._published: dict[str, _Published] = {}
        self._elsewhere: dict[str, tuple[Seen, str]] = {}  # restored from the kept contents
        self._at_path: dict[str, str] = {}  # the content that lies at each path in storage
        self._growth = Growth()
        self._kept: set[str] = set()
        self._refusals = 0  # of the store to append
        self.uploaded_bytes = 0

    def begin(self, path: str, seen: Seen | None, entry: Entry, *, at_path: bool) -> None:
        """Notes a file that storage has at its path or elsewhere, and was restored if `seen`."""
        if not at_path:
            if seen is not None and not entry.grows:
                self._elsewhere[path] = seen, entry.content
            return
        self._at_path[path] = entry.content
        if seen is not None:
            prefix = self._prefix(path, seen.size) if entry.grows else None
            self._published[path] = _Published(seen, entry, prefix)

    @property
    def paths(self) -> Set[str]:
        """The paths at which a content lies in storage."""
        return self._at_path.keys()

    def note_kept(self, contents: Iterable[str]) -> None:
        """Notes the contents that lie in the folder of contents."""
        self._kept.update(contents)

    def grows(self, path: str, seen: Seen) -> bool:
        """Whether a file was only appended to since the version in storage."""
        known = self._published.get(path)
        if known is not None and known.seen == seen:
            return known.entry.grows
        if self._refusals >= _MOST_REFUSALS:
            return False
        try:
            is_new = known is None or seen.inode != known.seen.inode
            if known is not None and self._extends(known, seen, self._root / path):
                return True
            if not self._growth.grows(path, f"{self._root}/{path}", seen, is_new=is_new):
                return False
            with opened(self._root / path, self._owner) as source, source.open("rb") as read:
                return not has_hole(read.fileno(), 0, seen.size)
        except OSError:
            return False

    def may_wait(self, path: str, seen: Seen) -> bool:
        """Whether a file has only grown, and its new bytes are not due yet."""
        known = self._published.get(path)
        if known is None or self._pace.is_due(known.seen.size, seen.size, known.sent_at):
            return False
        return self.grows(path, seen)

    def store(
        self, path: str, seen: Seen, *, source: Path | None = None, immutable: bool = False
    ) -> Entry:
        """Makes storage have this version of a file; its entry.

        `source`: a copy of it to send. Raises `ChangedError` if the file changed meanwhile; what
        lies at its path then belongs to no moment.
        """
        known = self._published.get(path)
        if known is not None and source is None and known.seen == seen:
            return known.entry
        file = self._root / path
        is_here = known is not None and self._at_path.get(path) == known.entry.content
        is_refused = False
        if known is not None and is_here and source is None and self._extends(known, seen, file):
            try:
                return self._extend(path, seen, known)
            except (ChangedError, FileNotFoundError, OvertakenError):
                raise
            except (OSError, StorageError):  # a store that appends nothing may take the whole file
                self._refusals, is_refused = self._refusals + 1, True
        if known is not None and is_here and _is_same(known.seen, seen):
            entry = _entry(seen, known.entry.content, grows=known.entry.grows)
            self._published[path] = _Published(seen, entry, known.prefix)
            return entry
        if known is not None and is_here and source is not None and known.has_bytes_of(source):
            entry = _entry(seen, known.entry.content, grows=False)
            self._published[path] = _Published(seen, entry, known.prefix)
            return entry
        self.keep([path])
        grows = source is None and not is_refused and self.grows(path, seen)
        prefix: Prefix | None
        content = self._name(path, seen, grows=grows)
        self._at_path.pop(path, None)
        if grows:
            prefix = self._send_beginning(path, seen)
        else:
            with opened(source or file, None if source else self._owner) as sent:
                self._storage.put(self._key(path), sent, self._fence, immutable=immutable)
                prefix = None if immutable or is_archive(sent) else Prefix.of(sent, seen.size)
            self.uploaded_bytes += seen.size
        self._at_path[path] = content
        if source is None and Seen.of(file) != seen and not grows:
            raise ChangedError(f"{path} changed while it was saved")
        entry = _entry(seen, content, grows=grows)
        self._published[path] = _Published(seen, entry, prefix)
        self._growth.forget(path)
        return entry

    def is_small(self, path: str, seen: Seen) -> bool:
        """Whether `store_all` may store this version of a file: all of it must be sent."""
        known = self._published.get(path)
        if seen.size > SMALL_BYTES or (known is not None and _is_same(known.seen, seen)):
            return False
        return not self.grows(path, seen)

    def store_all(self, files: Mapping[str, Seen]) -> dict[str, Entry]:
        """Makes storage have these versions of small files; their entries.

        Raises `ChangedError` if one changed meanwhile.
        """
        self.keep(files)
        for path in files:
            self._at_path.pop(path, None)
        with contextlib.ExitStack() as stack:
            sources = {
                self._key(path): stack.enter_context(opened(self._root / path, self._owner))
                for path in files
            }
            self._storage.put_all(sources, self._fence)
        entries = {}
        for path, seen in files.items():
            content = self._name(path, seen)
            self._at_path[path] = content
            if Seen.of(self._root / path) != seen:
                raise ChangedError(f"{path} changed while it was saved")
            entries[path] = _entry(seen, content, grows=False)
            prefix = None if is_archive(self._root / path) else self._prefix(path, seen.size)
            self._published[path] = _Published(seen, entries[path], prefix)
            self._growth.forget(path)
            self.uploaded_bytes += seen.size
        return entries

    def make_room(self, paths: Collection[str]) -> None:
        """Removes the files in storage that lie where these need a folder, or the reverse."""
        if not paths:  # as in every pass over a quiet run
            return
        here = set(paths)
        in_the_way = {
            folder for path in here for folder in folders_of(path) if folder in self._at_path
        }
        in_the_way.update(p for p in self._at_path if not here.isdisjoint(folders_of(p)))
        if in_the_way:
            self.remove(in_the_way)

    def _send_beginning(self, path: str, seen: Seen) -> Prefix:
        """Stores the first bytes of a file that grows."""
        prefix = Prefix()
        self._storage.delete(self._key(path), self._fence)
        self._append(path, seen.size, prefix)
        return prefix

    def _extend(self, path: str, seen: Seen, known: _Published) -> Entry:
        """Stores the new bytes of a file that grows."""
        assert known.prefix is not None  # noqa: S101
        self._append(path, seen.size, known.prefix)
        entry = _entry(seen, known.entry.content, grows=True)
        self._published[path] = _Published(seen, entry, known.prefix)
        return entry

    def _extends(self, known: _Published, seen: Seen, file: Path) -> bool:
        """Whether a file was only appended to since it was published; raises `OSError`."""
        if seen.inode != known.seen.inode or not 0 < known.seen.size < seen.size:
            return False
        if known.prefix is None or self._refusals >= _MOST_REFUSALS:
            return False
        with opened(file, self._owner) as source, source.open("rb") as read:
            if has_hole(read.fileno(), known.seen.size, seen.size):
                return False
            return known.prefix.matches(read.fileno())

    def _append(self, path: str, size: int, prefix: Prefix) -> None:
        with opened(self._root / path, self._owner) as source, source.open("rb") as file:
            while prefix.size < size:
                data = os.pread(file.fileno(), min(_READ_BYTES, size - prefix.size), prefix.size)
                # After the read: it may be another file of this name by now, or written anew.
                if not data or not prefix.matches(file.fileno()):
                    raise ChangedError(f"{path} was written anew while it was saved")
                self._storage.append(self._key(path), prefix.size, data, self._fence)
                prefix.extend(data)
                self.uploaded_bytes += len(data)

    def keep(self, paths: Iterable[str]) -> None:
        """Keeps what lies at some paths, before it is replaced or removed."""
        contents = {path: self._at_path[path] for path in paths if path in self._at_path}
        contents = {path: one for path, one in contents.items() if one not in self._kept}
        if not contents:
            return
        places = {self._key(path): self._moments.kept(one) for path, one in contents.items()}
        try:
            self._storage.keep_all(places, self._fence)
        except FileNotFoundError:  # somebody has removed one: each for itself
            for path in list(contents):
                try:
                    key = self._key(path)
                    self._storage.keep(key, places[key], self._fence)
                except FileNotFoundError:
                    del self._at_path[path], contents[path]
        self._kept.update(contents.values())

    def remove(self, paths: Collection[str], *, keep: bool = True) -> None:
        """Removes what lies at some paths; `keep` for the moments that name it."""
        if keep:
            self.keep(paths)
        there = sorted(path for path in paths if path in self._at_path)
        self._storage.delete_all([self._key(path) for path in there], self._fence)
        for path in paths:
            self._at_path.pop(path, None)
            self._published.pop(path, None)
            self._growth.forget(path)

    def drop(self, contents: set[str]) -> None:
        """Removes kept contents that no moment names any more."""
        dropped = sorted(self._kept & contents)
        self._storage.delete_all([self._moments.kept(one) for one in dropped], self._fence)
        self._kept.difference_update(dropped)

    def _name(self, path: str, seen: Seen, *, grows: bool = False) -> str:
        """The name of a content that is sent: its present one if it was restored like that."""
        restored = self._elsewhere.pop(path, None)
        if restored is not None and restored[0] == seen and not grows:
            return restored[1]
        return f"{self._fence.attempt:x}-{secrets.token_hex(8)}"

    def unnamed(self, named: set[str]) -> set[str]:
        """The kept contents that are not among those that moments name."""
        return self._kept - named

    def _prefix(self, path: str, size: int) -> Prefix:
        with opened(self._root / path, self._owner) as source:
            return Prefix.of(source, size)

    def stored(self, path: str) -> Seen | None:
        """The version of a file that storage has."""
        known = self._published.get(path)
        return known.seen if known is not None else None

    def _key(self, path: str) -> str:
        return f"{self._fence.run}/{path}"


def _is_same(before: Seen, seen: Seen) -> bool:
    """Whether only the mode of a file differs."""
    return replace(before, mode=0) == replace(seen, mode=0)


def _entry(seen: Seen, content: str, *, grows: bool) -> Entry:
    return Entry("file", seen.size, seen.mode, seen.modified_ns, "", content, grows)


def is_usable(path: str) -> bool:
    """Whether a path can be a key."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True
