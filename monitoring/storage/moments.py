"""Moments: what a run directory held at one time, named by a manifest.

    {run}/.moments/000003-000017.json   the 17th moment of attempt 3
    {run}/.contents/{content}           a content that only older moments name

A file of the newest moment lies at its own path, where people and tools look for it. Before it is
replaced or removed, its content is kept in `.contents` if a moment names it. So a content is in
`.contents` if it is there, and else at the path of its file.

A run from before moments has none: its files are what it holds. A long manifest is compressed;
`zcat -f` shows either kind.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, cast

from monitoring.storage.base import (
    CONTENTS_FOLDER,
    MOMENTS_FOLDER,
    Fence,
    Storage,
    StorageError,
    StoredFile,
)

_LONG_BYTES = 1 << 16
_GZIP = b"\x1f\x8b"
Kind = Literal["file", "link", "directory", "removed"]


@dataclass(frozen=True)
class Entry:
    """A file, link or directory of a moment, or a path of the job's code that is removed in it.

    `size` in bytes, `mode` the permission bits, `modified_ns` since the epoch. `content` names the
    bytes of a file. One that `grows` has been appended to since: all bytes at its path count.
    """

    kind: Kind
    size: int = 0
    mode: int = 0
    modified_ns: int = 0
    target: str = ""
    content: str = ""
    grows: bool = False


@dataclass(frozen=True)
class Moment:
    """The entries of a run directory at one time, by path; `time` in seconds since the epoch."""

    attempt: int
    number: int
    time: float
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """Names sort by age."""
        return f"{self.attempt:06d}-{self.number:06d}"

    @property
    def contents(self) -> set[str]:
        """The contents that it names."""
        return {entry.content for entry in self.entries.values() if entry.content}


class Moments:
    """The moments of one run; every method may raise `OSError` or `StorageError`."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage = storage
        self._run = run

    def names(self) -> list[str]:
        """The names of all moments, oldest first."""
        files = self._storage.list(f"{self._run}/{MOMENTS_FOLDER}")
        names = (file.key.rpartition("/")[2].removesuffix(".json") for file in files)
        return sorted(name for name in names if name.replace("-", "").isdigit())

    def read(self, name: str) -> Moment:
        """A moment, which never changes; raises `FileNotFoundError`."""
        return _read(cast(Hashable, self._storage), self._key(name))

    def all(self) -> list[Moment]:
        """All moments, oldest first."""
        return [self.read(name) for name in self.names()]

    def newest(self) -> Moment | None:
        """The newest moment; None if there is none."""
        for name in reversed(self.names()):
            try:
                return self.read(name)
            except FileNotFoundError:  # removed meanwhile: there is a newer one
                return self.newest()
        return None

    def contents(self) -> set[str]:
        """The contents in `.contents`."""
        files = self._storage.list(f"{self._run}/{CONTENTS_FOLDER}")
        return {file.key.rpartition("/")[2] for file in files}

    def kept(self, content: str) -> str:
        """The key in `.contents` of a content."""
        return f"{self._run}/{CONTENTS_FOLDER}/{content}"

    def remove(self, name: str, fence: Fence | None = None) -> None:
        """Removes a moment; its contents stay."""
        self._storage.delete(self._key(name), fence)

    def _key(self, name: str) -> str:
        return f"{self._run}/{MOMENTS_FOLDER}/{name}.json"

    def key(self, moment: Moment) -> str:
        """The key of a moment's manifest."""
        return self._key(moment.name)


@lru_cache(maxsize=4)
def _read(storage: Hashable, key: str) -> Moment:
    return decode(cast(Storage, storage).read(key), key)


def encode(moment: Moment) -> bytes:
    """A moment as JSON, by gzip if it is long: a run of many files has one each second."""
    entries = {
        path: {name: value for name, value in asdict(entry).items() if value}
        for path, entry in moment.entries.items()
    }
    whole = {
        "attempt": moment.attempt, "number": moment.number, "time": moment.time,
        "entries": entries,
    }  # fmt: skip
    data = json.dumps(whole, separators=(",", ":")).encode()
    return data if len(data) < _LONG_BYTES else gzip.compress(data, compresslevel=1)


def decode(data: bytes, key: str) -> Moment:
    """The moment that `encode` wrote; raises `StorageError`."""
    try:
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        whole: dict[str, Any] = json.loads(data)
        entries = {path: Entry(**entry) for path, entry in whole["entries"].items()}
        return Moment(whole["attempt"], whole["number"], whole["time"], entries)
    except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error) as error:
        raise StorageError(f"{key} is no moment of a run: {error!r}") from error


def files_now(storage: Storage, run: str, moment: Moment) -> dict[str, StoredFile]:
    """The files of the newest moment of a run, by path, each under the key of its content."""
    moments = Moments(storage, run)
    kept = moments.contents()
    at_path = {file.key: file for file in storage.list(run)}
    found = {}
    for path, entry in moment.entries.items():
        if entry.kind != "file":
            continue
        if entry.content in kept:
            key, size = moments.kept(entry.content), entry.size
        else:
            key = f"{run}/{path}"
            there = at_path.get(key)
            size = there.size if there and entry.grows else entry.size
        found[path] = StoredFile(key, size, entry.modified_ns / 1e9)
    return found
