"""The lock of a run in a directory: `flock`, or a lock file where the file system has no locks.

A lock file is made with `O_EXCL`, names its holder, and is held for one step of a write. One whose
holder is dead on this machine, or which stays the same for a minute, was left behind: the next
process takes it away. So a holder asks before each change whether the lock is still its own, and
renews it; when it last did that half a minute ago or earlier, it stops. What is left is a holder
that stands still, for half a minute or longer, between that question and the change: it can
complete this one change.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from monitoring.files import pid_namespace
from monitoring.storage.base import LOCK_NAME, TEMPORARY, StorageError
from monitoring.storage.lacks import Lack, Lacks

LOCKS = Lack("no locks", "a file locks a run; all machines must mount this storage in the same way")

_REFUSALS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES}
)
_FORSAKEN_SECONDS = 60.0
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PAUSE = 0.01

Confirm = Callable[[], None]


class RunLock:
    """Locks runs, for one process; `patience` in seconds: a stopped holder must not block it."""

    def __init__(self, lacks: Lacks, patience: Callable[[], float]) -> None:
        self._lacks = lacks
        self._patience = patience
        self._seen: dict[Path, tuple[bytes, float]] = {}  # a lock file, and since when it is so

    @contextlib.contextmanager
    def held(self, descriptor: int, path: Path) -> Iterator[Confirm]:
        """Holds the lock of the run whose open fence file this is.

        Gives a function to call before each change; it raises `StorageError` when the lock is lost.
        """
        deadline = time.monotonic() + self._patience()
        if LOCKS not in self._lacks and self._flock(descriptor, path, deadline):
            yield lambda: None
            return
        lock = path.with_name(LOCK_NAME)
        holder = _name()
        self._make(lock, holder, deadline)
        renewed = time.monotonic()

        def confirm() -> None:
            nonlocal holder, renewed
            age = time.monotonic() - renewed
            if age > _FORSAKEN_SECONDS / 2 or _read(lock) != holder:
                raise StorageError(f"{lock} was held for too long: another process may have it now")
            if age > _FORSAKEN_SECONDS / 4:
                holder, renewed = _name(), time.monotonic()
                lock.write_bytes(holder)

        try:
            yield confirm
        finally:
            if _read(lock) == holder:
                lock.unlink(missing_ok=True)

    def _flock(self, descriptor: int, path: Path, deadline: float) -> bool:
        """Takes the lock; False where there are none."""
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _wait(path, deadline, self._patience())
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                self._lacks.note(LOCKS)
                return False
            else:
                return True

    def _make(self, lock: Path, holder: bytes, deadline: float) -> None:
        while True:
            try:
                descriptor = os.open(lock, _NEW, 0o644)
            except FileExistsError:
                if not self._take_away(lock):
                    _wait(lock, deadline, self._patience())
                continue
            try:
                os.write(descriptor, holder)
            except BaseException:
                lock.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
            self._seen.pop(lock, None)
            return

    def _take_away(self, lock: Path) -> bool:
        """Removes a lock file that was left behind; whether it is gone."""
        holder = _read(lock)
        if holder is None:
            return True
        seen, since = self._seen.get(lock, (b"", 0.0))
        if seen != holder or not since:
            self._seen[lock] = holder, (since := time.monotonic())
        if not _is_dead(holder) and time.monotonic() - since < _FORSAKEN_SECONDS:
            return False
        # Renamed, so that of two processes only one removes this file. Whoever finds that it took
        # a newer one has ended that holder's lock, who notices; nobody takes it for its own.
        aside = lock.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        with contextlib.suppress(FileNotFoundError):
            lock.replace(aside)
            aside.unlink()
        return True


def _name() -> bytes:
    """A name for this process and this time."""
    return f"{pid_namespace()}-{os.getpid()}-{secrets.token_hex(8)}".encode()


def _wait(path: Path, deadline: float, patience: float) -> None:
    if time.monotonic() > deadline:
        raise StorageError(f"{path} has been locked for {patience:.0f} s")
    time.sleep(_PAUSE)


def _read(lock: Path) -> bytes | None:
    try:
        return lock.read_bytes()
    except FileNotFoundError:
        return None


def _is_dead(holder: bytes) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    namespace, _, rest = holder.decode(errors="replace").partition("-")
    return namespace == pid_namespace() and not Path(f"/proc/{rest.partition('-')[0]}").exists()
