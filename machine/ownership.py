"""Files that belong to the user of a job: given to it, and read only if they are its own.

A worker that runs as root could read anything. What lies at a path in a job's directory is the
job's to choose: a link there may lead to a file of somebody else at the moment it is opened. So the
owner of the open file is what counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None)


def give(path: Path, owner: int | None) -> None:
    """Makes a file, or a directory and all below it, another user's; raises `OSError`.

    A file with a second name keeps its owner: that may be one in storage. So does what a link leads
    to. None changes nothing. Call it only while no process of a job is there to put other files in
    place of these.
    """
    if owner is None:
        return
    for each in (path, *_below(path)):
        status = each.lstat()
        if status.st_uid != owner and (status.st_nlink == 1 or not stat.S_ISREG(status.st_mode)):
            os.lchown(each, owner, owner)


@contextlib.contextmanager
def opened(path: Path, owner: int | None) -> Iterator[Path]:
    """A path at which the file is read, if it is the `owner`'s; None: at its own, whosever it is.

    Raises `OSError`, also for what is no file: a pipe that has taken its place holds nobody up.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if owner not in {None, status.st_uid} or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EACCES, "it is not a file of the job", str(path))
        yield path if owner is None else Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def rights_of(owner: int | None) -> Iterator[None]:
    """Opens files in this thread as a user may (Linux); None changes nothing.

    Raises `PermissionError` if this process may not become that user.
    """
    if owner is None:
        yield
        return
    _libc.setfsgid(owner)
    _libc.setfsuid(owner)
    try:
        if _libc.setfsuid(-1) != owner:  # which changes nothing, and tells
            raise PermissionError(errno.EPERM, "this process cannot open files as another user")
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def _below(path: Path) -> Iterator[Path]:
    if path.is_symlink():  # which `walk` would follow
        return
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))
