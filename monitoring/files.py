"""Atomic and durable writes: a file is complete or absent, also after a power failure."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from functools import cache
from io import BufferedIOBase
from pathlib import Path
from typing import cast

TEMPORARY = ".tmp"

_NAME = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}" + re.escape(TEMPORARY))
_MANY = 16  # files
# What file systems answer that cannot sync a file, and those that cannot sync a directory (CIFS,
# drvfs, some of FUSE).
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_NO_DIRECTORY_SYNC = _NO_SYNC | {errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM}
# Zip (torch), HDF5 and pickle. A safetensors file begins with the length of its JSON header.
_ARCHIVES = (b"PK\x03\x04", b"\x89HDF", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
ARCHIVE_HEAD = 9
# What `open` answers for a link, a pipe without a reader or a socket, and a directory.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})
_FORSAKEN = 3600.0  # seconds without a change after which the writer is assumed to be gone


def temporary(path: Path) -> Path:
    """A unique temporary name beside `path` for its next content."""
    writer = f"{pid_namespace()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{writer}{TEMPORARY}")


def is_left(draft: Path) -> bool:
    """Whether the writer of a temporary file is gone.

    A process of this host is gone if it has ended; a process of another host, if the file has not
    changed for an hour.
    """
    name = _NAME.fullmatch(draft.name)
    if name is not None and name[1] == pid_namespace():
        return not Path(f"/proc/{name[2]}").exists()
    try:
        return time.time() - draft.lstat().st_mtime > _FORSAKEN
    except FileNotFoundError:
        return False


def open_file(path: str | Path, mode: str = "rb", *, follow: bool = False) -> BufferedIOBase:
    """Open a regular file that another program may have replaced by anything, in a binary mode.

    Without waiting for the other end of a pipe, and without following a link unless `follow`.
    Raises OSError, FileNotFoundError for what is no regular file.
    """

    def opened(name: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        try:
            descriptor = os.open(name, flags, 0o666)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(error.errno, "it is no regular file", name) from None
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "it is no regular file", name)
        os.set_blocking(descriptor, True)
        return descriptor

    return cast("BufferedIOBase", open(path, mode, opener=opened))


@cache
def pid_namespace() -> str:
    """A hash that identifies this PID namespace: host, boot and namespace."""
    seen = [socket.gethostname()]
    with contextlib.suppress(OSError):  # a kernel that hides them
        seen.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        seen.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:8]


def is_quiet(path: Path) -> bool:
    """Whether a file has not changed for an hour, so that its writer has finished or is gone.

    Raises OSError.
    """
    return time.time() - path.stat().st_mtime > _FORSAKEN


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory's lock: one thread of one process at a time, if its file system has locks.

    Raises OSError if the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path` atomically and sync it to disk.

    Raises OSError; then `path` is unchanged and no temporary file is left.
    """
    draft = temporary(path)
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            sync_open(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def link_atomically(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target` atomically. Raises OSError."""
    draft = temporary(link)
    draft.symlink_to(target)
    try:
        draft.replace(link)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> bool:
    """Sync a file's content, or the names in a directory, to disk. Raises OSError.

    Returns whether the file system could.
    """
    try:
        _sync(path, os.O_RDONLY)
    except OSError as error:
        if path.is_dir():
            if error.errno in _NO_DIRECTORY_SYNC:
                return False
        elif error.errno == errno.EBADF:  # CIFS syncs what is open for writing
            _sync(path, os.O_RDWR)
            return True
        elif error.errno in _NO_SYNC:
            return False
        raise
    return True


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_open(descriptor: int) -> None:
    """Sync the content of an open file to disk, if its file system can. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_all(paths: Sequence[Path]) -> None:
    """Sync the contents of files on one file system to disk. Raises OSError.

    One call for many: a call for each small file costs a commit of the file system's journal each.
    """
    if len(paths) < _MANY or not _sync_file_system(paths[0].parent):
        for path in paths:
            sync(path)


def _sync_file_system(directory: Path) -> bool:
    """Sync all of a file system; whether this system can."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # Linux only
    if syncfs is None:
        return False
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def begins_archive(head: bytes) -> bool:
    """Whether a file is of no use until it is whole, by its first `ARCHIVE_HEAD` bytes."""
    return head.startswith(_ARCHIVES) or (head[8:9] == b"{" and head[4:8] == b"\0\0\0\0")
