"""A cache of directories: each is built once on this machine, held while it is used, and evicted.

Workers of one machine share it, each a process of its own. `flock` on a file of the entry says who
builds it (alone) or uses it (together); the kernel releases it when its last holder is gone, so a
killed builder leaves nothing that counts, and nothing that stays.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from jobs.errors import SpectrainError
from monitoring.disk import file_size
from worker.cache.entries import Entry, entries, let_read

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_PAUSE_SECONDS = 0.02
_TRAVERSED = 0o711
_FULL = {errno.ENOSPC, errno.EDQUOT}
# The cache leaves this much of its disk to the attempts, whose checkpoints matter more.
_FREE_PART, _FREE_BYTES = 0.05, 10 * 10**9
_REMEDY = "make room there, or set SPECTRAIN_CACHE_DIR to a larger disk"


class CacheFullError(SpectrainError):
    """The cache's disk is full, and nothing more can be evicted; the message says what to do."""


class Unwanted(Exception):  # noqa: N818 - nothing went wrong
    """A builder was asked to stop."""


@dataclass(frozen=True)
class Building:
    """What a builder fills: `path`, an empty directory, where the content will stay.

    A process that the builder starts inherits the descriptor `lock` (`pass_fds`), so that nobody
    else builds there while it still writes after its worker was killed.
    """

    path: Path
    lock: int


class Held:
    """An entry that stays while it is held; `path` is its content, which nobody changes.

    `built`: it was built for this holder. `waited_seconds`: for another one's build.
    """

    def __init__(self, path: Path, descriptor: int, *, built: bool, waited_seconds: float) -> None:
        self.path = path
        self.built = built
        self.waited_seconds = waited_seconds
        self._descriptor = descriptor

    def close(self) -> None:
        """Ends the use; may be called again."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # a full disk
                os.utime(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Cache:
    """The cache below the directory `root`, which need not exist.

    Above `limit` bytes, or when its disk is nearly full, the least recently used entries that
    nobody holds are removed. `for_others`: users of this machine other than this process's may read
    the content of an entry, if they know its key.
    """

    def __init__(self, root: Path, limit: int, *, for_others: bool = False) -> None:
        self._root = root
        self._limit = limit
        self._for_others = for_others

    def use(
        self,
        kind: str,
        key: str,
        build: Callable[[Building], None],
        *,
        durable: bool,
        size: int = 0,
        private: bool = False,
        wanted: Callable[[], bool] = lambda: True,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Held | None:
        """Holds an entry, which `build` fills if nobody has; None once it is not `wanted`.

        `kind` is a word, `key` the hash, in hexadecimal, of all that the content depends on.
        `build` raises `OSError` when the disk is full: then entries that nobody holds are evicted,
        and it is called again. It raises `Unwanted` when it was asked to stop; its other errors
        are the caller's. `durable`: the entry outlives a loss of power, at the cost of a sync.
        `size`: the bytes that it will take, for which room is made first, as far as they are known.
        `private`: no other user reads it.
        `on_wait` is called once if another process is building it. Raises `CacheFullError` and
        `OSError`.
        """

        def fill(building: Building) -> None:
            if size:
                self._make_room(size)
            if self._for_others and not private:
                for folder in (self._root, building.path.parent, building.path):
                    folder.chmod(_TRAVERSED)
            build(building)
            if self._for_others and not private:
                let_read(building.path)

        entry = Entry(self._root, kind, key)
        begun, waits = time.monotonic(), False
        try:
            while wanted():
                descriptor = self._with_room(entry.open_lock)
                try:
                    built = self._lock(entry, descriptor, fill, durable=durable)
                except BaseException:
                    os.close(descriptor)
                    raise
                if built is not None:
                    entry.note_use()
                    waited = time.monotonic() - begun if waits else 0.0
                    held = Held(entry.path, descriptor, built=built, waited_seconds=waited)
                    if built:
                        self.trim()
                    return held
                os.close(descriptor)
                if not waits:
                    waits = True
                    on_wait()
                time.sleep(_PAUSE_SECONDS)
        except Unwanted:
            pass
        return None

    def trim(self) -> None:
        """Evicts until the cache is within its limit and its disk has room; never raises."""
        with contextlib.suppress(OSError):
            self._evict(self._excess())

    def _lock(
        self, entry: Entry, descriptor: int, build: Callable[[Building], None], *, durable: bool
    ) -> bool | None:
        """Holds a whole entry together with others; whether it was built. None: try again."""
        if not _locked(descriptor, fcntl.LOCK_SH) or not entry.has_lock(descriptor):
            return None
        if entry.size() is not None:
            return False
        if not _locked(descriptor, fcntl.LOCK_EX) or not entry.has_lock(descriptor):
            return None
        if entry.size() is None:
            self._build(entry, descriptor, build, durable=durable)
        # Another process may get the lock in between, and remove the entry.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return True if entry.has_lock(descriptor) and entry.size() is not None else None

    def _build(
        self, entry: Entry, descriptor: int, build: Callable[[Building], None], *, durable: bool
    ) -> None:
        def attempt() -> None:
            entry.empty()
            build(Building(entry.path, descriptor))
            entry.complete(durable=durable)

        try:
            self._with_room(attempt, on_full=entry.clear)
        except BaseException:
            with contextlib.suppress(OSError):
                entry.clear()
            raise

    def _with_room(
        self, action: Callable[[], Result], on_full: Callable[[], None] = lambda: None
    ) -> Result:
        """Calls `action`, again after each eviction while the disk is full."""
        while True:
            try:
                return action()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                on_full()
                if not self._evict(self._half()):
                    raise self._full() from error

    def _make_room(self, size: int) -> None:
        """Evicts until `size` bytes fit, and what the disk is to keep free if that can be had.

        Raises `CacheFullError` if they cannot, and `OSError`.
        """
        self._evict(0)
        disk, used = shutil.disk_usage(self._root), self._used()
        room = disk.free + used
        if size <= room:
            self._evict(size + _reserve(disk.total) - disk.free)
            # Some file systems free what was removed only later.
            room = max(shutil.disk_usage(self._root).free, room - self._used())
        if size > room:
            raise CacheFullError(
                f"{file_size(size)} are needed in the cache {self._root}, and its disk has room "
                f"for {file_size(room)}: {_REMEDY}"
            )

    def _full(self) -> CacheFullError:
        return CacheFullError(
            f"the disk of the cache {self._root} is full, and what the cache still has "
            f"({file_size(self._used())}) is in use: {_REMEDY}"
        )

    def _used(self) -> int:
        """The bytes of all whole entries."""
        return sum(entry.size() or 0 for entry in entries(self._root))

    def _half(self) -> int:
        """Half of the bytes that the cache has, at least one."""
        return max(1, self._used() // 2)

    def _excess(self) -> int:
        """How many bytes must go; raises `OSError`."""
        if not self._root.exists():
            return 0
        used, disk = self._used(), shutil.disk_usage(self._root)
        lacking = _reserve(disk.total) - disk.free
        return max(used - self._limit, min(lacking, used), 0)

    def _evict(self, excess: int) -> int:
        """Removes what does not count, then whole entries until `excess` bytes are gone.

        Returns how many entries it removed. What is held, or being built, stays.
        """
        removed = 0
        for entry in sorted(entries(self._root), key=Entry.last_use):
            size = entry.size()
            if size is not None and excess <= 0:
                continue
            with contextlib.suppress(OSError), entry.removable() as is_ours:
                if not is_ours or (size is None and entry.size() is not None):
                    continue
                entry.remove()
                removed += 1
                excess -= size or 0
                if size:
                    log.info("evicted %s %s from the cache: %s", entry.kind, entry.key[:12],
                             file_size(size))  # fmt: skip
        return removed


def _reserve(total: int) -> int:
    """How many bytes of a disk of this size are to stay free."""
    return min(int(total * _FREE_PART), _FREE_BYTES)


def _locked(descriptor: int, how: int) -> bool:
    """Locks a file at once; whether it could."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
