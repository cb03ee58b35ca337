"""Where runs are kept: one small interface for a shared volume and an object store.

Keys are relative paths with `/`; the first part is the run's id. Writers of one run carry a
`Fence`: a write is refused when a newer attempt has taken the run over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

log = logging.getLogger(__name__)

# The service's own files of a run, which no list shows: its fencing number, and a copy of the job's
# record.
FENCE_NAME = ".fence"
RECORD_NAME = ".record.json"
SERVICE_NAMES = frozenset({FENCE_NAME, RECORD_NAME})


class StorageError(Exception):
    """The storage cannot do what was asked; the message says what to change."""


class OvertakenError(StorageError):
    """A newer attempt has taken the run over, or the run was deleted; nothing was written."""

    def __init__(self, run: str, attempt: int, newer: int | None) -> None:
        by = "a deletion" if newer is None else f"attempt {newer}"
        super().__init__(f"attempt {attempt} of {run} has been overtaken by {by}")


@dataclass(frozen=True)
class Fence:
    """In whose name a write is made: a run and the number of one of its attempts."""

    run: str
    attempt: int


@dataclass(frozen=True)
class StoredFile:
    """A file in storage: its key, size in bytes and time of change (seconds since the epoch)."""

    key: str
    size: int
    modified: float


class Storage(Protocol):
    """What a store of runs can do. Every method may raise `OSError` or `StorageError`."""

    def seize(self, fence: Fence) -> None:
        """Takes the run over: from now on writes of older attempts are refused."""

    def put(
        self, key: str, source: Path, fence: Fence | None = None, *, immutable: bool = False
    ) -> None:
        """Stores a file, whole or not at all; `immutable` promises that nobody changes it."""

    def append(self, key: str, offset: int, data: bytes, fence: Fence | None = None) -> None:
        """Puts bytes at `offset`, which must not lie beyond the file's end; cuts what follows."""

    def point(self, key: str, target: str, fence: Fence | None = None) -> None:
        """Makes `key` a link to the file `target` beside it, in one step."""

    def delete(self, key: str, fence: Fence | None = None) -> None:
        """Removes a file; one that does not exist is no error."""

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
        """Fetches a file, which nobody will change if `immutable`; raises `FileNotFoundError`.

        Gives its CRC-32 as commit records spell it, None where the bytes did not come through
        here. `on_block` is called all the while, by any thread, and ends it all by raising.
        """

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        """Bytes of a file from `start`, to its end for -1; raises `FileNotFoundError`."""

    def stat(self, key: str) -> StoredFile | None:
        """What is stored under `key`, None for nothing."""

    def runs(self) -> Sequence[str]:
        """The names of the folders at the top, by name: one a run, and whatever else lies there."""

    def list(self, prefix: str) -> list[StoredFile]:
        """The files below a folder by key, links left out."""

    def leftovers(self, run: str) -> Sequence[StoredFile]:
        """Temporary files of a run, of writers at work or killed; none where there are no such."""

    def links(self, prefix: str) -> dict[str, str]:
        """The links below a folder: key and the neighbour that each points to."""

    def local_path(self, key: str) -> Path | None:
        """The file itself where this process can open it, else None."""

    def presign(self, key: str, seconds: float) -> str | None:
        """A URL that gives the file to whoever has it, for so long; None where there are none.

        Raises `FileNotFoundError`.
        """


def key_parts(key: str) -> tuple[str, ...]:
    """The names that a key is made of; raises `StorageError` for one that leads elsewhere."""
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts or "\0" in key:
        raise StorageError(f"{key!r} is not a key")
    if not is_text(key):
        raise StorageError(f"{key!r} is not UTF-8")
    return parts


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: a file system takes others, a key is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def newest_change(storage: Storage, run: str) -> float | None:
    """When storage last saw something new of a run, seconds since the epoch.

    None when there is nothing. Raises `OSError` and `StorageError` when storage cannot tell now.
    """
    return max((file.modified for file in storage.list(run)), default=None)
