"""Keeps rows that the service itself writes of a run, and publishes them.

They are the service's own file: no program sees it, and it belongs to no moment. One thread adds
rows and another publishes, so that slow storage delays no reading.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.storage.base import Fence, Storage
from worker.files.pace import Pace


class RowFile:
    """The rows of all attempts: those of earlier ones come from storage with the first `publish`.

    They are `here` before they are `stored` as that file of the run. Its methods raise `OSError`,
    `publish` also what `Storage.append` raises.
    """

    def __init__(
        self, storage: Storage, here: Path, stored: Path, fence: Fence, pace: Pace
    ) -> None:
        self._storage = storage
        self._fence = fence
        self._pace = pace
        self._path = here
        self._key = f"{fence.run}/{stored.as_posix()}"
        self._lock = threading.Lock()
        self.is_ready = False  # what storage has is here
        self._size = 0  # bytes here
        self._version = 0  # of the rows: how often they were replaced
        self._stored = (0, 0)  # the version in storage, and how many bytes of it
        self._sent_at = -math.inf  # time.monotonic
        self.published_bytes = 0
        # Called when the run is closing: adds the rows that had to wait for those in storage.
        self.at_end: Callable[[], None] = _nothing

    @property
    def size(self) -> int:
        """The size of all rows, bytes."""
        return self._size

    def read(self) -> bytes:
        """All rows."""
        return self._path.read_bytes() if self._size else b""

    def append(self, rows: bytes) -> None:
        """Adds whole rows, once `is_ready`."""
        with self._lock, self._path.open("r+b" if self._path.exists() else "w+b") as file:
            file.seek(self._size)
            file.write(rows)
            file.truncate()
            file.flush()
            self._size += len(rows)

    def replace(self, rows: bytes) -> None:
        """Replaces all rows."""
        new = self._path.with_name(f"{self._path.name}.new")
        with self._lock:
            new.write_bytes(rows)
            new.replace(self._path)
            self._size = len(rows)
            self._version += 1

    def publish(self, *, closing: bool = False) -> None:
        """Sends what is new; of a store that cannot append not each second, unless `closing`."""
        if not self.is_ready:
            self._fetch()
        if closing:
            self.at_end()
        if self._stored == (self._version, self._size):
            return
        sent = self._stored[1]
        if not closing and not self._pace.is_due(sent, max(sent, self._size), self._sent_at):
            return
        self._sent_at = time.monotonic()
        with self._lock:
            version, size = self._version, self._size
            begin = sent if version == self._stored[0] else 0
            with self._path.open("rb") as file:
                file.seek(begin)
                rows = file.read(size - begin)
        if begin or not self._stored[1]:
            self._storage.append(self._key, begin, rows, self._fence)
        else:  # whole or not at all: the rows in storage are others
            copy = self._path.with_name(f"{self._path.name}.sent")
            copy.write_bytes(rows)
            self._storage.put(self._key, copy, self._fence)
            copy.unlink()
        self._stored = version, size
        self.published_bytes += len(rows)

    def _fetch(self) -> None:
        """Fetches the rows of earlier attempts."""
        size = 0
        if self._storage.stat(self._key) is not None:
            self._storage.get(self._key, self._path)
            rows = self._path.read_bytes()
            # Without a part of a row, which a killed worker has left.
            size = rows.rfind(b"\n") + 1
        self._size, self._stored = size, (0, size)
        self.is_ready = True


def _nothing() -> None:
    """Adds nothing."""
