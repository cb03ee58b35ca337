"""Sends the contents of files to storage, and keeps those that moments name.

`monitoring.storage.moments` says where a content lies.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError
from monitoring.storage.moments import Entry, Moments
from worker.files.look import Seen, folders_of
from worker.files.mirror.growth import Growth, Prefix, is_archive

_READ_BYTES = 8 << 20


class ChangedError(OSError):
    """A file changed while it was sent."""


@dataclass
class _Published:
    """The version of a file that storage has."""

    seen: Seen
    entry: Entry
    prefix: Prefix | None  # of a file that grows


class Contents:
    """The files of a run in storage, and the contents kept for its moments.

    Its methods raise `OvertakenError`, other `StorageError`s and `OSError`s.
    """

    def __init__(self, storage: Storage, root: Path, fence: Fence) -> None:
        self._storage = storage
        self._root = root
        self._fence = fence
        self._moments = Moments(storage, fence.run)
        self._published: dict[str, _Published] = {}
        self._at_path: dict[str, str] = {}  # the content that lies at each path in storage
        self._growth = Growth()
        self._kept: set[str] = set()
        self.uploaded_bytes = 0

    def begin(self, path: str, seen: Seen | None, entry: Entry) -> None:
        """Notes a file that lies at its path in storage, and was restored if it was `seen`."""
        self._at_path[path] = entry.content
        if seen is not None:
            prefix = Prefix.of(self._root / path, seen.size) if entry.grows else None
            self._published[path] = _Published(seen, entry, prefix)

    def note_kept(self, contents: Iterable[str]) -> None:
        """Notes the contents that lie in the folder of contents."""
        self._kept.update(contents)

    def grows(self, path: str, seen: Seen) -> bool:
        """Whether a file was only appended to since the version in storage."""
        file, known = self._root / path, self._published.get(path)
        try:
            is_new = known is None or seen.inode != known.seen.inode
            if known is not None and _extends(known, seen, file):
                return True
            return self._growth.grows(path, file, seen, is_new=is_new)
        except OSError:
            return False

    def store(
        self, path: str, seen: Seen, *, source: Path | None = None, immutable: bool = False
    ) -> Entry:
        """Makes storage have this version of a file; its entry.

        `source`: a copy of it to send. Raises `ChangedError` if the file changed meanwhile; what
        lies at its path then belongs to no moment.
        """
        known = self._published.get(path)
        if known is not None and known.seen == seen:
            return known.entry
        file = self._root / path
        is_here = known is not None and self._at_path.get(path) == known.entry.content
        if known is not None and is_here and source is None and _extends(known, seen, file):
            return self._extend(path, seen, known)
        if known is not None and is_here and _is_same(known.seen, seen):
            entry = _entry(seen, known.entry.content, grows=known.entry.grows)
            self._published[path] = _Published(seen, entry, known.prefix)
            return entry
        self._make_room(path)
        grows = source is None and self.grows(path, seen)
        prefix: Prefix | None
        content = f"{self._fence.attempt:x}-{secrets.token_hex(8)}"
        self._at_path.pop(path, None)
        if grows:
            prefix = self._send_beginning(path, seen)
        else:
            sent = source or file
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

    def _make_room(self, path: str) -> None:
        """Keeps what lies at a path, at a folder above it, or below it."""
        self.keep(path)
        above = set(folders_of(path))
        for other in [p for p in self._at_path if p in above or p.startswith(f"{path}/")]:
            self.keep(other)
            self._storage.delete(self._key(other), self._fence)
            self._at_path.pop(other, None)
            self._published.pop(other, None)

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

    def _append(self, path: str, size: int, prefix: Prefix) -> None:
        with (self._root / path).open("rb") as file:
            while prefix.size < size:
                data = os.pread(file.fileno(), min(_READ_BYTES, size - prefix.size), prefix.size)
                # After the read: it may be another file of this name by now, or written anew.
                if not data or not prefix.matches(file.fileno()):
                    raise ChangedError(f"{path} was written anew while it was saved")
                self._storage.append(self._key(path), prefix.size, data, self._fence)
                prefix.extend(data)
                self.uploaded_bytes += len(data)

    def keep(self, path: str) -> None:
        """Keeps what lies at a path, before it is replaced or removed."""
        content = self._at_path.get(path)
        if content is not None and content not in self._kept:
            try:
                self._storage.keep(self._key(path), self._moments.kept(content), self._fence)
            except FileNotFoundError:  # somebody has removed it
                del self._at_path[path]
            else:
                self._kept.add(content)

    def remove(self, path: str, *, keep: bool = True) -> None:
        """Removes what lies at a path; `keep` for the moments that name it."""
        if keep:
            self.keep(path)
        if self._at_path.pop(path, None) is not None:
            self._storage.delete(self._key(path), self._fence)
        self._published.pop(path, None)
        self._growth.forget(path)

    def drop(self, contents: set[str]) -> None:
        """Removes kept contents that no moment names any more."""
        for content in sorted(self._kept & contents):
            self._storage.delete(self._moments.kept(content), self._fence)
            self._kept.discard(content)

    def unnamed(self, named: set[str]) -> set[str]:
        """The kept contents that are not among those that moments name."""
        return self._kept - named

    def seen(self) -> dict[str, Seen]:
        """The published versions."""
        return {path: known.seen for path, known in self._published.items()}

    def _key(self, path: str) -> str:
        return f"{self._fence.run}/{path}"


def _extends(known: _Published, seen: Seen, file: Path) -> bool:
    """Whether a file was only appended to since it was published; raises `OSError`."""
    if seen.inode != known.seen.inode or not 0 < known.seen.size < seen.size:
        return False
    if known.prefix is None:
        return False
    with file.open("rb") as opened:
        return known.prefix.matches(opened.fileno())


def _is_same(before: Seen, seen: Seen) -> bool:
    """Whether only the mode of a file differs."""
    return replace(before, mode=0) == replace(seen, mode=0)


def _entry(seen: Seen, content: str, *, grows: bool) -> Entry:
    return Entry("file", seen.size, seen.mode, seen.modified_ns, "", content, grows)


def offered(call: Callable[[], None]) -> str:
    """Why storage refuses one file, which must not stop the others; '' if it does not."""
    try:
        call()
    except OvertakenError:
        raise
    except (OSError, StorageError) as error:
        return str(error)
    return ""


def is_usable(path: str) -> bool:
    """Whether a path can be a key."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True
