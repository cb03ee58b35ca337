"""Operations that not every file system has, done without where that is possible.

vfat, CIFS, drvfs and many FUSE file systems have no hard links, no symbolic links, or cannot sync
a directory. What they answer then differs. A refusal that has another reason, such as a directory
that may not be written, shows at what is done instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.files import sync
from monitoring.storage import link_files
from monitoring.storage.base import StorageError
from monitoring.storage.lacks import Lack, Lacks

HARD_LINKS = Lack("no hard links", "what is kept or never changes is copied, which takes room")
SYMBOLIC_LINKS = Lack("no symbolic links", "a link is a small file that names its target (`XSym`)")
DIRECTORY_SYNC = Lack(
    "no sync of directories", "a power failure of the store may cost the last seconds"
)

_CANNOT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_MAY_NOT = frozenset({errno.EPERM, errno.EACCES})  # of this one, or of any
_NOT_THIS_ONE = frozenset({errno.EXDEV, errno.EMLINK})
_BUSY = frozenset({errno.EBUSY, errno.ETXTBSY})
_BUSY_TREE = _BUSY | {errno.ENOTEMPTY, errno.EEXIST}
_BUSY_SECONDS, _TREE_SECONDS, _PAUSE = 2.0, 5.0, 0.05


def link(source: Path, target: Path, lacks: Lacks) -> bool:
    """Makes a hard link; whether that was possible. Raises `OSError` for any other reason."""
    if HARD_LINKS in lacks:
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _CANNOT or (error.errno in _MAY_NOT and _is_own(source)):
            lacks.note(HARD_LINKS)
        elif error.errno not in _MAY_NOT | _NOT_THIS_ONE:
            raise
        return False
    return True


def _is_own(path: Path) -> bool:
    """Whether a file is this user's; Linux may refuse links to those of others."""
    return os.geteuid() in {0, path.stat().st_uid}


def point(at: Path, target: str, lacks: Lacks) -> None:
    """Makes a symbolic link, or a file that stands for one; raises `OSError`."""
    if SYMBOLIC_LINKS not in lacks:
        try:
            at.symlink_to(target)
        except OSError as error:
            if error.errno not in _CANNOT | _MAY_NOT:
                raise
        else:
            return
    at.write_bytes(link_files.encode(target))
    sync(at)
    lacks.note(SYMBOLIC_LINKS)


def clone(source: Path, target: Path) -> None:
    """Copies a file within the file system, which may let both share its blocks.

    Raises `OSError`.
    """
    with source.open("rb") as read, target.open("wb") as written:
        left = os.fstat(read.fileno()).st_size
        try:
            while left and (count := os.copy_file_range(read.fileno(), written.fileno(), left)):
                left -= count
        except OSError as error:
            if error.errno not in _CANNOT | {errno.EXDEV, errno.EINVAL}:
                raise
            read.seek(0)
            written.seek(0)
            shutil.copyfileobj(read, written)


def sync_names(folder: Path, lacks: Lacks) -> None:
    """Syncs the names in a folder to disk, if the file system can; raises `OSError`."""
    if DIRECTORY_SYNC not in lacks and not sync(folder):
        lacks.note(DIRECTORY_SYNC)


def rename(temporary: Path, path: Path) -> None:
    """Renames a file, also onto a folder with no files in it."""
    try:
        _patiently(lambda: temporary.replace(path))
    except (IsADirectoryError, NotADirectoryError):
        remove_empty(path)
        temporary.replace(path)


def remove(path: Path) -> None:
    """Removes a file, if it exists; waits a moment for one that is in use."""
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_empty(path: Path) -> None:
    """Removes a folder with no files in it; raises `OSError` if there are any."""
    for folder, _, _ in os.walk(path, topdown=False):
        Path(folder).rmdir()


def remove_tree(path: Path) -> None:
    """Removes a folder; waits a moment for files in use, whose place NFS takes by others."""
    try:
        with contextlib.suppress(FileNotFoundError):
            _patiently(lambda: shutil.rmtree(path), _BUSY_TREE, _TREE_SECONDS)
    except OSError as error:
        if error.errno not in _BUSY_TREE:
            raise
        raise StorageError(
            f"a process still has files in {path} open ({error.strerror}): remove it again later"
        ) from error


def _patiently(
    operation: Callable[[], object], busy: frozenset[int] = _BUSY, seconds: float = _BUSY_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            operation()
        except OSError as error:
            if error.errno not in busy or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
