"""A log that only grows: each line is one write, and no line is lost."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_HOLD = 1 << 16  # bytes that wait in memory at most while nobody asks for a flush


class AppendLog:
    """Appends lines to a file that several processes may append to at the same time.

    A line is one `write` to a file opened for appending: what the kernel took survives the death
    of the process, and lines of several writers do not mix. Within about a second it survives a
    power cut too. When the disk takes nothing (it is full, say) there is one warning, and the
    lines wait in memory for the next call.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._close: Callable[[], object] = _nothing
        self._waiting = b""
        self._failing = False
        self._dirty = False
        self._lock = threading.Lock()

    def append(self, data: bytes) -> None:
        """Write whole lines now, after those that wait."""
        if self._waiting or self._descriptor is None:
            self._catch_up(data)
            return
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self._keep(data, 0, str(error))
            return
        self._dirty = True
        if written != len(data):
            self._keep(data, written, "the disk took only a part")

    def hold(self, data: bytes) -> None:
        """Keep whole lines in memory for a while: until `append`, `flush`, `close` or the exit."""
        self._waiting += data
        _unwritten.add(self)
        if len(self._waiting) > _HOLD:
            self.flush()

    def flush(self) -> None:
        """Write what waits in memory."""
        if self._waiting:
            self._catch_up(b"")

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        with self._lock:
            if self._dirty and self._descriptor is not None:
                self._dirty = False
                try:
                    os.fdatasync(self._descriptor)
                except OSError as error:
                    logger.warning("Cannot sync %s: %s", self._path, error)

    def close(self) -> None:
        """Write what waits, sync and close. The next line opens the file again."""
        self.flush()
        self.sync()
        with self._lock:
            self._descriptor = None
            self._close()

    def _catch_up(self, data: bytes) -> None:
        with self._lock:
            data, self._waiting = self._waiting + data, b""
            _unwritten.discard(self)
            try:
                if self._descriptor is None:
                    self._descriptor, mend = _open(self._path)
                    self._close = closing = weakref.finalize(self, os.close, self._descriptor)
                    closing.atexit = False  # `_close_logs` still writes then
                    data = mend + data
                    _sync_every_second(self)
                written = os.write(self._descriptor, data)
            except OSError as error:
                self._keep(data, 0, str(error))
                return
            self._dirty = True
            if written != len(data):
                self._keep(data, written, "the disk took only a part")
            elif self._failing:
                self._failing = False
                logger.warning("Writing %s again; nothing was lost", self._path)

    def _keep(self, data: bytes, written: int, cause: str) -> None:
        """Hold on to the lines that were not written whole."""
        whole = data.rfind(b"\n", 0, written) + 1
        # A part of a line gets an end of its own, so that it spoils no other.
        mend = b"\n" if whole < written else b""
        self._waiting = mend + data[whole:] + self._waiting
        _unwritten.add(self)
        if not self._failing:
            self._failing = True
            logger.warning(
                "Cannot write %s: %s; lines wait in memory, training goes on", self._path, cause
            )


def _open(path: Path) -> tuple[int, bytes]:
    """A descriptor for appending, and the line end that a torn last line lacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    size = os.fstat(descriptor).st_size
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    return descriptor, b"\n" if torn else b""


def _nothing() -> None:
    """A log that was not opened needs no closing."""


_open_logs: weakref.WeakSet[AppendLog] = weakref.WeakSet()
_unwritten: set[AppendLog] = set()  # kept alive until their lines are written
_syncing_process: int | None = None


def _sync_every_second(log: AppendLog) -> None:
    global _syncing_process  # noqa: PLW0603
    _open_logs.add(log)
    if _syncing_process != os.getpid():  # a forked child has no threads but its own
        _syncing_process = os.getpid()
        threading.Thread(target=_sync_forever, name="sync logs", daemon=True).start()


def _sync_forever() -> None:
    while True:
        time.sleep(1.0)
        for log in list(_open_logs):
            log.sync()


@atexit.register
def _close_logs() -> None:
    for log in [*_open_logs, *_unwritten]:
        log.close()
