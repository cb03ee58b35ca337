"""Storage of runs: one interface for a shared volume and an object store.

Keys are relative paths with `/`; the first part is the run's id. Writers of one run carry a
`Fence`: a write is refused when a newer attempt has taken the run over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from monitoring.storage.lacks import Lacks

log = logging.getLogger(__name__)

# Files of the service in a run, which `list` omits: the fencing number, the lock where the file
# system has none, and a copy of the job's record.
FENCE_NAME = ".fence"
LOCK_NAME = ".fence.lock"
RECORD_NAME = ".record.json"
SERVICE_NAMES = frozenset({FENCE_NAME, LOCK_NAME, RECORD_NAME})
# How the names of files begin that a directory is still writing.
TEMPORARY = ".spectrain-tmp-"
# Folders of the service in a run, which `list` omits unless it is asked for one of them: the
# moments of the run, and the contents that only older moments name.
MOMENTS_FOLDER = ".moments"
CONTENTS_FOLDER = ".contents"
SERVICE_FOLDERS = frozenset({MOMENTS_FOLDER, CONTENTS_FOLDER})


class StorageError(Exception):
    """An operation of the storage failed; the message says what to change."""


class UnstorableError(StorageError):
    """The store can have no file of this name; the message says why. Any other may be stored."""


class OvertakenError(StorageError):
    """A newer attempt has taken over the run, or the run was deleted; nothing was written."""

    def __init__(self, run: str, attempt: int, newer: int | None) -> None:
        by = "a deletion" if newer is None else f"attempt {newer}"
        super().__init__(f"attempt {attempt} of {run} has been overtaken by {by}")


@dataclass(frozen=True)
class Fence:
    """The run and the number of the attempt that a write belongs to."""

    run: str
    attempt: int


@dataclass(frozen=True)
class StoredFile:
    """A file in storage: its key, size in bytes and time of change (seconds since the epoch)."""

    key: str
    size: int
    modified: float


class Storage(Protocol):
    """The operations of a store of runs. Every method may raise `OSError` or `StorageError`."""

    @property
    def lacks(self) -> Lacks:
        """What this store has been found to lack, and is done without."""

    def for_trial(self) -> Storage:
        """The same store, with the same `lacks`, which knows nothing of what this one writes."""

    def inspect(self, folder: str, *, thoroughly: bool) -> Sequence[str]:
        """Tries in a folder what only this kind of store does, and notes what it lacks.

        Returns what an operator should know of the place, a sentence each, if asked `thoroughly`.
        """

    @property
    def appends_in_place(self) -> bool:
        """Whether it appends to a file without making a new one."""

    def seize(self, fence: Fence) -> None:
        """Takes over the run: from now on writes of older attempts are refused."""

    def put(
        self, key: str, source: Path, fence: Fence | None = None, *, immutable: bool = False
    ) -> None:
        """Stores a file atomically; `immutable` means that it is never written again in place."""

    def put_all(self, files: Mapping[str, Path], fence: Fence | None = None) -> None:
        """Stores small files by key, each atomically, in any order; faster than one by one."""

    def keep(self, key: str, place: str, fence: Fence | None = None) -> None:
        """Makes `place` hold the present content of `key`; raises `FileNotFoundError`.

        Without sending it: by a hard link, or copied by the store. `key` must be replaced before
        it is appended to again. A `place` names one content: the store may leave what is there.
        """

    def keep_all(self, places: Mapping[str, str], fence: Fence | None = None) -> None:
        """Keeps the contents of keys, by key, in any order; faster than one by one."""

    def clone_all(self, places: Mapping[str, str]) -> None:
        """Copies contents, by key; what is written to one later does not change the other.

        Without sending them: the file system shares or copies the blocks, or the store copies.
        Raises `FileNotFoundError`.
        """

    def append(self, key: str, offset: int, data: bytes, fence: Fence | None = None) -> None:
        """Writes bytes at `offset`, at most the end of the file, and truncates what follows."""

    def point(self, key: str, target: str, fence: Fence | None = None) -> None:
        """Makes `key` a link to its neighbor `target`, atomically."""

    def delete(self, key: str, fence: Fence | None = None) -> None:
        """Removes a file, if it exists."""

    def delete_all(self, keys: Sequence[str], fence: Fence | None = None) -> None:
        """Removes files in any order; faster than one by one."""

    def delete_run(self, run: str) -> None:
        """Removes all files of a run."""

    def get(
        self,
        key: str,
        target: Path,
        *,
        immutable: bool = False,
        on_block: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Fetches a file; `immutable` means that it is never written again in place.

        Returns its CRC-32 in the format of commit records, None if the bytes were not read here.
        `on_block` is called between blocks, by any thread, and ends the fetch by raising. Raises
        `FileNotFoundError`.
        """

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        """Reads `size` bytes of a file from `start`, for -1 all; raises `FileNotFoundError`."""

    def stat(self, key: str) -> StoredFile | None:
        """The file stored under `key`; None if there is none."""

    def runs(self) -> Sequence[str]:
        """The names of the top-level folders, sorted: the runs, and any other folders."""

    def list(self, prefix: str) -> list[StoredFile]:
        """The files below a folder by key, without links."""

    def leftovers(self, run: str) -> Sequence[StoredFile]:
        """Temporary files of a run, of running or killed writers; empty if the store has none."""

    def links(self, prefix: str) -> dict[str, str]:
        """The links below a folder: key and target, which is a neighbor."""

    def local_path(self, key: str) -> Path | None:
        """The path of the file if this process can open it, else None."""

    def presign(self, key: str, seconds: float, *, disposition: str = "") -> str | None:
        """A URL with which anyone can download the file for `seconds`; None if unsupported.

        `disposition`: the Content-Disposition of the answer there. Raises `FileNotFoundError`.
        """


def key_parts(key: str) -> tuple[str, ...]:
    """The names in a key; raises `StorageError` for a key that leaves the storage."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\0" in key:
        raise StorageError(f"{key!r} is not a valid key")
    if not is_text(key):
        raise UnstorableError(f"{key!r} is not UTF-8")
    return parts


def is_service(key: str) -> bool:
    """Whether a key belongs to the service, and not to the program of its run."""
    parts = key.strip("/").split("/")
    return parts[-1] in SERVICE_NAMES or (len(parts) > 1 and parts[1] in SERVICE_FOLDERS)


_REMOVED = re.compile(r"\.(nfs[0-9a-f]{16,}|fuse_hidden[0-9a-f]{16,})")


def is_removed(name: str) -> bool:
    """Whether a file was removed while it was open: NFS and FUSE keep it under such a name."""
    return _REMOVED.fullmatch(name) is not None


def is_text(name: str) -> bool:
    """Whether a name can be encoded as UTF-8; file systems accept other names too."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def newest_change(storage: Storage, run: str) -> float | None:
    """The time of the last change in a run, in seconds since the epoch; None if it has no files.

    Raises `OSError` and `StorageError`.
    """
    return max((file.modified for file in storage.list(run)), default=None)
