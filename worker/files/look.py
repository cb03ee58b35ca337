"""Looks at a run directory: what is there, and in which version."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from monitoring.storage.moments import Kind

_DEEPEST = 200  # folders, one in the other
_UNSEEN = frozenset({errno.ENAMETOOLONG, errno.EACCES})


@dataclass(frozen=True)
class Seen:
    """A file, link or directory, and what tells one content of it from the next.

    `removed` stands for a path of the job's code that is not there (`worker.files.given`).
    `size` in bytes, `modified_ns` since the epoch. A directory has neither: its names are entries
    of their own.
    """

    kind: Kind
    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    mode: int = 0
    target: str = ""

    @classmethod
    def of(cls, path: Path) -> Seen | None:
        """What is at `path`; None for what is no file, link or directory. Raises `OSError`."""
        return cls.by_status(os.fspath(path), path.lstat())

    @classmethod
    def by_status(cls, path: str, status: os.stat_result) -> Seen | None:
        """What is at `path`, which has this status."""
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            return cls("file", status.st_ino, status.st_size, status.st_mtime_ns, mode)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)  # noqa: PTH115 - a path of text is enough
            return cls("link", status.st_ino, target=target)
        return cls("directory", mode=mode) if stat.S_ISDIR(status.st_mode) else None


Look = dict[str, Seen]


def look(
    root: Path,
    is_left_out: Callable[[str, bool], bool],
    on_unseen: Callable[[str, str], None] = lambda *_: None,
) -> Look:
    """All that is below `root`, by path, without what `is_left_out` and all below it.

    It is called with the path, and whether that is a directory. `on_unseen` is called with each
    path that cannot be looked at, and why; the path stands for all below it.

    What is removed meanwhile may or may not be in it. Raises `OSError` only for `root` itself.
    """
    found: Look = {}
    folders = [""]
    with os.scandir(root):
        pass
    while folders:
        folder = folders.pop()
        with _looking(folder.rstrip("/"), on_unseen), os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}{entry.name}"
                with _looking(path, on_unseen):
                    if is_left_out(path, entry.is_dir(follow_symlinks=False)):
                        continue
                    seen = Seen.by_status(entry.path, entry.stat(follow_symlinks=False))
                    if seen is not None:
                        found[path] = seen
                        if seen.kind != "directory":
                            continue
                        if path.count("/") < _DEEPEST:
                            folders.append(f"{path}/")
                        else:
                            on_unseen(path, "it has too many folders above it")
    return found


@contextlib.contextmanager
def _looking(path: str, on_unseen: Callable[[str, str], None]) -> Iterator[None]:
    """Passes over what is gone."""
    try:
        yield
    except OSError as error:
        if error.errno in _UNSEEN:
            on_unseen(path, os.strerror(error.errno))


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a directory."""
    seen = None
    with contextlib.suppress(OSError):
        seen = Seen.of(path)
    if seen is None or seen.kind != "directory":
        return seen.size if seen else 0
    with contextlib.suppress(OSError):
        return sum(found.size for found in look(path, lambda *_: False).values())
    return 0


def folder_of(path: str) -> str:
    """The folder that a path lies in; '' for the run directory itself."""
    return path.rpartition("/")[0]


def folders_of(path: str) -> list[str]:
    """The folders that a path lies in, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
