"""An append-only log: each line is one write, and no line is lost."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_HOLD = 1 << 16  # bytes that may wait in memory without a flush
_BATCH = 1 << 20  # bytes of waiting lines in one write
_MOST = 64 << 20  # bytes that may wait while the disk takes nothing
_PAUSE = 1.0  # seconds between two attempts to write to such a disk
# A last line without an end is ended once it was unchanged in this many checks, this many seconds
# apart. There are at most _MOST_CHECKS, even if other processes keep writing.
_CHECKS, _CHECK_SECONDS, _MOST_CHECKS = 10, 0.01, 100


class AppendLog:
    """Appends lines to a file that several processes may append to at the same time.

    A line is one `write` to a file opened for appending. So it survives the death of the process,
    and lines of several writers do not mix. Within about a second it survives a power failure too.
    If the disk takes nothing, because it is full for example, one warning is logged and lines wait
    in memory for a later call. If the file is moved or removed, lines go to a new file at the path
    within about a second.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._descriptor: int | None = None
        self._direct: int | None = None  # the descriptor, while no lines wait
        self._number: int | None = None  # its number, which stays reserved while it is closed
        self._close: Callable[[], object] = _nothing
        self._seen = 0  # size of the file when it was last found at its path
        self._waiting: deque[bytes] = deque()
        self._waiting_size = 0
        self._dropped = 0  # lines
        self._failing = False
        self._next_try = 0.0
        self._synced = 0  # size of the file that is known to be synced
        self._renew_locks()
        _logs[id(self)] = self

    def _renew_locks(self) -> None:
        # Re-entrant: a signal handler may log while the loop logs.
        self._lock = threading.RLock()
        self._syncing = threading.RLock()

    def append(self, data: bytes) -> None:
        """Write whole lines now, after waiting ones."""
        descriptor = self._direct
        if descriptor is None:
            self._wait(data)
            if self._may_try():
                self._catch_up()
            return
        try:
            written = os.write(descriptor, data)
        except OSError as error:
            if error.errno == errno.EBADF:  # closed since the first line of this method
                self._wait(data)
                self._catch_up()
            else:
                self._keep(data, 0, str(error))
            return
        if written != len(data):
            self._keep(data, written, "the disk took only a part")

    def hold(self, data: bytes) -> None:
        """Keep whole lines in memory until `append`, `flush`, `close` or the exit."""
        self._wait(data)
        if self._waiting_size > _HOLD and self._may_try():
            self._catch_up()

    def flush(self) -> None:
        """Write waiting lines; later lines go to the file that is at the path now."""
        self._follow()
        self._catch_up()

    def sync(self) -> None:
        """Sync the file to disk."""
        with self._syncing:
            with self._lock:
                if self._descriptor is None:
                    return
                size = os.fstat(self._descriptor).st_size
                if size == self._synced:
                    return
                self._synced = size
                descriptor = os.dup(self._descriptor)
            # Without the lock, so that appending does not wait for a slow disk.
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                logger.warning("Cannot sync %s: %s", self._path, error)
            finally:
                os.close(descriptor)

    def finish(self) -> None:
        """Write waiting lines and sync."""
        self._catch_up()
        self._follow(in_background=True)
        self.sync()

    def close(self) -> None:
        """Write waiting lines, sync and close. The next line opens the file again."""
        with self.closed():
            pass

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Close the file; lines of other threads wait until the block ends."""
        self.finish()
        with self._lock:
            if self._descriptor is not None:
                self._direct = None
                _let_go(self._descriptor)
                self._descriptor = None
            yield

    def watch(self) -> None:
        """Run each second: sync, and switch to a new file if the open one was moved."""
        self.sync()
        self._follow(in_background=True)

    def forked(self) -> None:
        """Reset in a forked child: lines logged before the fork belong to the parent."""
        self._renew_locks()
        self._waiting = deque()
        self._waiting_size = self._dropped = 0
        self._failing = False
        self._direct = None
        # The next line opens the file again and starts a syncing thread.
        self._descriptor = self._number = None
        self._close()

    def _may_try(self) -> bool:
        return not self._failing or self._clock() >= self._next_try

    def _wait(self, data: bytes) -> None:
        with self._lock:
            self._direct = None
            self._waiting.append(data)
            self._waiting_size += len(data)
            _unwritten.add(self)
            while self._waiting_size > _MOST and len(self._waiting) > 1:
                oldest = self._waiting.popleft()
                self._waiting_size -= len(oldest)
                self._dropped += oldest.count(b"\n")

    def _catch_up(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            try:
                if self._descriptor is None:
                    self._open()
                else:
                    self._follow()
            except OSError as error:
                self._fail(str(error))
                return
            assert self._descriptor is not None  # noqa: S101
            while self._waiting:
                batch = self._next_batch()
                try:
                    written = os.write(self._descriptor, batch)
                except OSError as error:
                    self._keep(batch, 0, str(error))
                    return
                if written != len(batch):
                    self._keep(batch, written, "the disk took only a part")
                    return
            self._direct = self._descriptor
            _unwritten.discard(self)
            if self._failing:
                self._failing = False
                lost = f"the {self._dropped} oldest lines were" if self._dropped else "nothing was"
                self._dropped = 0
                logger.warning("Writing %s again; %s lost", self._path, lost)

    def _next_batch(self) -> bytes:
        chunks, size = [], 0
        while self._waiting and size < _BATCH:
            chunks.append(self._waiting.popleft())
            size += len(chunks[-1])
        self._waiting_size -= size
        return b"".join(chunks)

    def _keep(self, data: bytes, written: int, cause: str) -> None:
        """Keep the lines that were not written completely."""
        whole = data.rfind(b"\n", 0, written) + 1
        # A partial line gets a line end, so that it does not spoil the next one.
        mend = b"\n" if whole < written else b""
        rest = mend + data[whole:]
        with self._lock:
            self._direct = None
            self._waiting.appendleft(rest)
            self._waiting_size += len(rest)
            _unwritten.add(self)
            self._fail(cause)

    def give_up(self) -> None:
        """Log how many lines are lost."""
        lost = self._dropped + sum(chunk.count(b"\n") for chunk in self._waiting)
        if lost:
            logger.warning("%s lacks %d lines, which could not be written", self._path, lost)

    def _fail(self, cause: str) -> None:
        self._next_try = self._clock() + _PAUSE
        if not self._failing:
            self._failing = True
            logger.warning(
                "Cannot write %s: %s; lines wait in memory, training continues",
                self._path,
                cause,
            )

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, size = _open(self._path)
        if self._number is None:
            self._number = descriptor
            self._close = closing = weakref.finalize(self, os.close, descriptor)
            closing.atexit = False  # `_finish_logs` still writes then
        else:
            _turn(self._number, descriptor)
        self._descriptor, self._seen, self._synced = self._number, size, size
        _sync_every_second()

    def _follow(self, *, in_background: bool = False) -> None:
        """Switch to a new file at the path if the open one was moved or removed."""
        with self._lock:
            if self._descriptor is None:
                return
            try:
                now = os.fstat(self._descriptor)
                if _is_at(self._path, now):
                    self._seen = now.st_size
                # A file that nothing writes to is not created again after its owner removed it.
                elif not in_background or now.st_size != self._seen:
                    self._go_on(self._descriptor, removed=now.st_nlink == 0)
            except OSError:
                # Lines still go to the open file, and the next check tries again.
                return

    def _go_on(self, descriptor: int, *, removed: bool) -> None:
        """Redirect the descriptor to a new file at the path.

        Another thread may be writing to it without a lock. So it is never closed, because its
        number could be reused for another file, but redirected in one step.
        """
        new, size = _open(self._path)
        old = os.dup(descriptor)
        try:
            # Lines written to a removed file since the last check may exist nowhere else.
            carried = _carry(old, self._seen, new) if removed else 0
            os.dup2(new, descriptor, inheritable=False)
            self._seen, self._synced = size, -1
            if removed:
                _carry(old, carried, new)
            else:
                os.fdatasync(old)
        finally:
            os.close(old)
            os.close(new)


def _open(path: Path) -> tuple[int, int]:
    """Open a file for appending after a whole line; return the descriptor and the size."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = _size_at_rest(descriptor)
        if size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
            size += os.write(descriptor, b"\n")  # end a partial last line
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, size


def _size_at_rest(descriptor: int) -> int:
    """The size of the file while no other process is in the middle of a line.

    A write that crosses a page is visible to other processes in part.
    """
    size, seen = os.fstat(descriptor).st_size, 0
    for _ in range(_MOST_CHECKS):
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n" or seen == _CHECKS:
            break
        time.sleep(_CHECK_SECONDS)
        before, size = size, os.fstat(descriptor).st_size
        seen = seen + 1 if size == before else 0
    return size


def _turn(descriptor: int, new: int) -> None:
    """Redirect a descriptor to the file of `new`, and close `new`."""
    try:
        os.dup2(new, descriptor, inheritable=False)
    finally:
        os.close(new)


def _let_go(descriptor: int) -> None:
    """Close a file but keep its number, so that a concurrent write of another thread fails.

    If the number were free, another file could be opened with it and receive that line.
    """
    _turn(descriptor, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False


def _carry(old: int, start: int, new: int) -> int:
    """Append the bytes of `old` from `start` to `new`; return the end."""
    while chunk := os.pread(old, _BATCH, start):
        start += os.write(new, chunk)
    return start


def _nothing() -> None:
    """Do nothing: the log was not opened."""


# Listed in one step, because other threads add and drop logs.
_logs: weakref.WeakValueDictionary[int, AppendLog] = weakref.WeakValueDictionary()
_unwritten: set[AppendLog] = set()  # kept alive until their lines are written
_syncing_process: int | None = None


def _living() -> list[AppendLog]:
    return [log for reference in _logs.valuerefs() if (log := reference()) is not None]


def _sync_every_second() -> None:
    global _syncing_process  # noqa: PLW0603
    if _syncing_process != os.getpid():  # a forked child does not inherit threads
        _syncing_process = os.getpid()
        threading.Thread(target=_sync_forever, name="sync logs", daemon=True).start()


def _sync_forever() -> None:
    while True:
        time.sleep(1.0)
        for log in _living():
            log.watch()


def _forked() -> None:
    _unwritten.clear()
    for log in _living():
        log.forked()


os.register_at_fork(after_in_child=_forked)


@atexit.register
def _finish_logs() -> None:
    # Not closed: a background thread may still log, and the exit closes them.
    for log in _living():
        log.finish()
        log.give_up()
