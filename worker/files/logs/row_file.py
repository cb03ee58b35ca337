"""Keeps rows that the service itself writes of a run, and publishes them.

They are the service's own file: no program sees it, and it belongs to no moment. One thread adds
rows and another publishes, so that slow storage delays no reading.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from machine.trees import make_folder
from monitoring.storage.base import Fence, Storage
from worker.files.pace import Pace


class RowFile:
    """The rows of all attempts: those of earlier ones come from storage with the first `publish`.

    They are in a file in `folder` before they are `stored` as that file of the run. It has no name:
    an attempt that was overtaken while it stood still wakes up in the place of the
    next one, and must not write to that one's rows. Its methods raise `OSError`, `publish` also
    what `Storage.append` raises.
    """

    def __init__(
        self, storage: Storage, folder: Path, stored: Path, fence: Fence, pace: Pace
    ) -> None:
        self._storage = storage
        self._fence = fence
        self._pace = pace
        self._folder = folder
        self._key = f"{fence.run}/{stored.as_posix()}"
        self._lock = threading.Lock()
        self._file: _Nameless | None = None
        self._size = 0  # bytes here
        self._version = 0  # of the rows: how often they were replaced
        self._stored = (0, 0)  # the version in storage, and how many bytes of it
        self._is_doubtful = False  # storage may have fewer: all of it is sent again
        self._sent_at = -math.inf  # time.monotonic
        self.published_bytes = 0
        # Called when the run is closing: adds the rows that had to wait for those in storage.
        self.at_end: Callable[[], None] = _nothing

    @property
    def is_ready(self) -> bool:
        """Whether what storage has is here."""
        return self._file is not None

    @property
    def size(self) -> int:
        """The size of all rows, bytes."""
        return self._size

    def read(self) -> bytes:
        """All rows."""
        with self._lock:
            return self._read(0)

    def append(self, rows: bytes) -> None:
        """Adds whole rows, once `is_ready`."""
        with self._lock:
            if self._file is None:
                raise ValueError("the rows of earlier attempts are not here yet")
            self._file.write(self._size, rows)
            self._size += len(rows)

    def replace(self, rows: bytes) -> None:
        """Replaces all rows."""
        new = _Nameless(self._folder)
        new.write(0, rows)
        with self._lock:
            self._file, self._size = new, len(rows)
            self._version += 1

    def publish(self, *, closing: bool = False) -> None:
        """Sends what is new; of a store that cannot append not each second, unless `closing`."""
        if self._file is None:
            self._fetch()
        if closing:
            self.at_end()
        if self._stored == (self._version, self._size) and not self._is_doubtful:
            return
        sent = self._stored[1]
        if not closing and not self._pace.is_due(sent, max(sent, self._size), self._sent_at):
            return
        self._sent_at = time.monotonic()
        with self._lock:
            version = self._version
            goes_on = version == self._stored[0] and not self._is_doubtful
            begin = sent if goes_on else 0
            rows = self._read(begin)
        if begin or not sent:
            self._is_doubtful = True  # unless it is sent
            self._storage.append(self._key, begin, rows, self._fence)
        else:  # whole or not at all: the rows in storage are others
            with tempfile.NamedTemporaryFile(dir=self._folder) as copy:
                copy.write(rows)
                copy.flush()
                self._storage.put(self._key, Path(copy.name), self._fence)
        self._stored, self._is_doubtful = (version, begin + len(rows)), False
        self.published_bytes += len(rows)

    def _fetch(self) -> None:
        """Fetches the rows of earlier attempts."""
        rows = b""
        if self._storage.stat(self._key) is not None:
            rows = self._storage.read(self._key)
            # Without a part of a row, which a killed worker has left.
            rows = rows[: rows.rfind(b"\n") + 1]
        file = _Nameless(self._folder)
        file.write(0, rows)
        self._size, self._stored = len(rows), (0, len(rows))
        self._file = file

    def _read(self, begin: int) -> bytes:
        return self._file.read(begin, self._size) if self._file is not None else b""


class _Nameless:
    """A file without a name in a folder; it is gone with this object."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._descriptor, name = tempfile.mkstemp(dir=folder)
        weakref.finalize(self, os.close, self._descriptor)
        os.unlink(name)  # noqa: PTH108 - a path of text is enough

    def read(self, begin: int, end: int) -> bytes:
        return os.pread(self._descriptor, end - begin, begin)

    def write(self, begin: int, data: bytes) -> None:
        """Writes all of it, and cuts off what was behind; raises `OSError`."""
        os.ftruncate(self._descriptor, begin)
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, begin)
            begin, rest = begin + written, rest[written:]


def _nothing() -> None:
    """Adds nothing."""
