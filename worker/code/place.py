"""Gives an attempt its own copy of the code, below what earlier attempts made of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from monitoring.storage.moments import Entry
from worker.files.copying import Copying
from worker.files.given import Given
from worker.files.look import Look, Seen, folder_of, folders_of
from worker.files.scratch import WORK
from workspaces.layout import FILES, GIT, PATCH
from workspaces.unpacking import TIME_NS


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
    folders = {""}
    copier = _Copier()

    def make_folder(path: str) -> None:
        if path not in folders:
            os.makedirs(f"{run}/{path}", exist_ok=True)  # noqa: PTH103 - a text is enough
            folders.add(path)

    for source, path, is_folder in _members(code):
        on_file()
        if is_folder:
            if not is_moment or path in entries:
                make_folder(path)
            continue
        if path.startswith(f"{WORK}/"):
            paths.add(path)
        if path in entries or _lies_below_a_file(path, entries):
            continue
        make_folder(folder_of(path))
        target = f"{run}/{path}"
        copier.copy(source, target)
        seen = Seen.by_status(target, os.lstat(target))
        if seen is not None and path in paths:
            copied[path] = seen
    return Given(frozenset(paths), copied)


def _members(code: Path) -> Iterator[tuple[str, str, bool]]:
    """Each folder, file and link of an unpacked workspace, and its path below a run."""
    for name in (GIT, PATCH):
        if (code / name).exists():
            yield f"{code}/{name}", name, False
    folders = [(f"{code}/{FILES}", WORK)]
    while folders:
        folder, path = folders.pop()
        with os.scandir(folder) as found:
            for item in found:
                below, is_folder = f"{path}/{item.name}", item.is_dir(follow_symlinks=False)
                if is_folder:
                    folders.append((item.path, below))
                yield item.path, below, is_folder


def _lies_below_a_file(path: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a file or a link is where the folder of a path was."""
    return any(
        folder in entries and entries[folder].kind != "directory" for folder in folders_of(path)
    )


class _Copier:
    """Copies files and links; makes no hard link, through which the program could write."""

    def __init__(self) -> None:
        self._copying = Copying()

    def copy(self, source: str, target: str) -> None:
        """Copies one, with its mode; raises `OSError`."""
        try:
            read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211 - texts are enough
            return
        try:
            mode = os.fstat(read).st_mode & 0o777
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            written = os.open(target, flags, mode)
            try:
                self._copying.copy(read, written)
                os.fchmod(written, mode)
                os.utime(written, ns=(TIME_NS, TIME_NS))
            finally:
                os.close(written)
        finally:
            os.close(read)
