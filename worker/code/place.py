"""Gives an attempt its own copy of the code, below what earlier attempts made of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from monitoring.storage.moments import Entry
from worker.files.given import Given
from worker.files.look import Look, Seen, folders_of
from worker.files.scratch import WORK
from workspaces.layout import FILES, GIT, PATCH
from workspaces.unpacking import TIME_NS

# Makes a file share the blocks of another one, until either is written to (linux/fs.h).
_FICLONE = 0x40049409


def place_code(
    code: Path,
    run: Path,
    entries: Mapping[str, Entry],
    *,
    is_moment: bool,
    on_file: Callable[[], None] = lambda: None,
) -> Given:
    """Copies the unpacked workspace `code` into a run directory, before `entries` are restored.

    What these have is left to them: files that the program changed, and marks of what it removed.
    `is_moment`: they also say which folders there are. `on_file` ends it by raising. Raises
    `OSError`.
    """
    paths: set[str] = set()
    copied: Look = {}
    for source, path, is_folder in _members(code):
        on_file()
        target = run / path
        if is_folder:
            if not is_moment or path in entries:
                target.mkdir(parents=True, exist_ok=True)
            continue
        if path.startswith(f"{WORK}/"):
            paths.add(path)
        if path in entries or _lies_below_a_file(path, entries):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, target)
        seen = Seen.of(target)
        if seen is not None and path in paths:
            copied[path] = seen
    return Given(frozenset(paths), copied)


def _members(code: Path) -> Iterator[tuple[Path, str, bool]]:
    """Each folder, file and link of an unpacked workspace, and its path below a run."""
    for name in (GIT, PATCH):
        if (code / name).exists():
            yield code / name, name, False
    folders = [(code / FILES, WORK)]
    while folders:
        folder, path = folders.pop()
        with os.scandir(folder) as found:
            for item in found:
                below, is_folder = f"{path}/{item.name}", item.is_dir(follow_symlinks=False)
                if is_folder:
                    folders.append((Path(item.path), below))
                yield Path(item.path), below, is_folder


def _lies_below_a_file(path: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a file or a link is where the folder of a path was."""
    return any(
        folder in entries and entries[folder].kind != "directory" for folder in folders_of(path)
    )


def _copy(source: Path, target: Path) -> None:
    """Copies a file or a link; no hard link, through which the program could write."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as written:
        if not _cloned(read.fileno(), written.fileno()):
            shutil.copyfileobj(read, written, 1 << 20)
        os.fchmod(written.fileno(), os.fstat(read.fileno()).st_mode & 0o777)
        os.utime(written.fileno(), ns=(TIME_NS, TIME_NS))


def _cloned(source: int, target: int) -> bool:
    """Makes one file share the blocks of another; whether the file system can."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False
