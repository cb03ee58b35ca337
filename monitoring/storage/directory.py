"""Storage in a directory that all machines share."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from monitoring.crc import crc32_text
from monitoring.files import sync_all, sync_open
from monitoring.storage import link_files, sparse
from monitoring.storage.base import (
    FENCE_NAME,
    TEMPORARY,
    Fence,
    OvertakenError,
    StorageError,
    StoredFile,
    is_removed,
    is_service,
    is_text,
    key_parts,
)
from monitoring.storage.file_system import (
    clone,
    link,
    point,
    remove,
    remove_empty,
    remove_tree,
    rename,
    sync_names,
)
from monitoring.storage.lacks import Lacks
from monitoring.storage.run_lock import Confirm, RunLock

_LOCK_SECONDS = 10.0
_BLOCK = 1 << 20
_UNDER_ONE_LOCK = 100
_MAX_LINKS = 5

Item = TypeVar("Item")


class FileStorage:
    """A directory as storage.

    The fencing number of a run is in a file of its own. It is compared under a lock that is held
    only for the last step of a write: data is copied to a temporary file first.
    """

    appends_in_place = True

    def __init__(self, root: Path, lacks: Lacks | None = None) -> None:
        self.root = root
        self.lacks = lacks or Lacks(str(root))
        self._lock = RunLock(self.lacks, lambda: _LOCK_SECONDS)
        # The last valid fence of this process, and the file system that it was on.
        self._known: Fence | None = None
        self._device = 0

    def for_trial(self) -> FileStorage:
        """Another one, for the same directory."""
        return FileStorage(self.root, self.lacks)

    def inspect(self, folder: str, *, thoroughly: bool) -> Sequence[str]:
        """Nothing: all that a directory does is an operation."""
        return ()

    def seize(self, fence: Fence) -> None:
        """Takes over the run; see `Storage`. Removes temporary files of killed writers."""
        with self._guarded(fence):
            for left in self._path(fence.run).rglob(f"{TEMPORARY}*"):
                remove(left)

    def put(
        self, key: str, source: Path, fence: Fence | None = None, *, immutable: bool = False
    ) -> None:
        """Stores a file; an immutable one by a hard link if it is on the same file system."""
        write = self._linked_or_copied if immutable else _copied
        self._replace({key: partial(write, source)}, fence)

    def put_all(self, files: Mapping[str, Path], fence: Fence | None = None) -> None:
        """Stores small files; see `Storage`."""
        self._replace({key: partial(_copied, source) for key, source in files.items()}, fence)

    def keep(self, key: str, place: str, fence: Fence | None = None) -> None:
        """Makes `place` hold the present content of `key`; see `Storage`."""
        self.keep_all({key: place}, fence)

    def keep_all(self, places: Mapping[str, str], fence: Fence | None = None) -> None:
        """Keeps contents; see `Storage`."""
        writes = {
            place: partial(self._linked_or_copied, self._path(key)) for key, place in places.items()
        }
        self._replace(writes, fence)

    def clone_all(self, places: Mapping[str, str]) -> None:
        """Copies contents; see `Storage`."""
        writes = {place: partial(_cloned, self._path(key)) for key, place in places.items()}
        self._replace(writes, None)

    def append(self, key: str, offset: int, data: bytes, fence: Fence | None = None) -> None:
        """Writes bytes at `offset`; see `Storage`."""
        path = self._path(key)
        with self._guarded(fence) as confirm:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                size = os.fstat(file.fileno()).st_size
                if offset > size:
                    raise StorageError(f"{key} has {size} bytes; cannot append at {offset}")
                confirm()
                file.truncate(offset)
                file.seek(offset)
                for start in range(0, len(data), _BLOCK):
                    confirm()
                    block = data[start : start + _BLOCK]
                    if len(block) == _BLOCK and sparse.is_zero(block):
                        file.truncate(file.seek(_BLOCK, os.SEEK_CUR))
                    else:
                        file.write(block)
                file.flush()
                sync_open(file.fileno())

    def point(self, key: str, target: str, fence: Fence | None = None) -> None:
        """Makes `key` a symbolic link to its neighbor `target`, or a file that stands for one."""

        def write(temporary: Path) -> bool:
            point(temporary, target, self.lacks)
            return False

        self._replace({key: write}, fence)

    def delete(self, key: str, fence: Fence | None = None) -> None:
        """Removes a file."""
        self.delete_all([key], fence)

    def delete_all(self, keys: Sequence[str], fence: Fence | None = None) -> None:
        """Removes files; see `Storage`."""
        for some in _slices([self._path(key) for key in keys]):
            with self._guarded(fence) as confirm:
                for path in some:
                    confirm()
                    if path.is_dir() and not path.is_symlink():
                        remove_empty(path)
                    else:
                        remove(path)

    def delete_run(self, run: str) -> None:
        """Removes all files of a run."""
        self._known = None
        remove_tree(self._path(run))

    def get(
        self,
        key: str,
        target: Path,
        *,
        immutable: bool = False,
        on_block: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Fetches a file; an immutable one by a hard link if it is on the same file system."""
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._followed(key)
        if immutable and not source.is_symlink() and link(source, target, self.lacks):
            return None
        return _copy(source, target, on_block)

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        """Bytes of a file."""
        with self._followed(key).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def stat(self, key: str) -> StoredFile | None:
        """The file stored under `key`."""
        try:
            status = self._followed(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return StoredFile(key, status.st_size, status.st_mtime)

    def runs(self) -> Sequence[str]:
        """The names of the top-level directories."""
        names = [path.name for path in self.root.iterdir() if path.is_dir()]
        return sorted(name for name in names if is_text(name))

    def list(self, prefix: str) -> list[StoredFile]:
        """The files below a folder."""
        found = [file for file, target in self._scan(prefix) if target is None]
        shows_all = is_service(f"{prefix}/x")
        shown = (file for file in found if shows_all or not is_service(file.key))
        return sorted(shown, key=lambda file: file.key)

    def leftovers(self, run: str) -> Sequence[StoredFile]:
        """The temporary files of writers."""
        found = []
        for path in self._path(run).rglob(f"{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                key = path.relative_to(self.root).as_posix()
                found.append(StoredFile(key, status.st_size, status.st_mtime))
        return found

    def links(self, prefix: str) -> dict[str, str]:
        """The links below a folder."""
        found = {file.key: target for file, target in self._scan(prefix) if target is not None}
        return dict(sorted(found.items()))

    def local_path(self, key: str) -> Path | None:
        """The file's path."""
        return self._followed(key)

    def presign(self, key: str, seconds: float, *, disposition: str = "") -> str | None:
        """None: a directory has no URLs."""

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key_parts(key))

    def _followed(self, key: str) -> Path:
        """The path of a file, or that which a file that stands for a link names."""
        path = self._path(key)
        try:
            for _ in range(_MAX_LINKS):
                target = link_files.target_of(path, path.stat().st_size)
                if target is None:
                    break
                path = path.with_name(target)
        except OSError:  # whoever opens it sees that too
            return path
        return path

    def _scan(self, prefix: str) -> Iterator[tuple[StoredFile, str | None]]:
        """The files and links below a folder, with the targets of links."""
        for path in self._path(prefix).rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if path.name.startswith(TEMPORARY) or is_removed(path.name) or not is_text(key):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISLNK(status.st_mode):
                    target: str | None = str(path.readlink())
                elif stat.S_ISREG(status.st_mode):
                    target = link_files.target_of(path, status.st_size)
                else:
                    continue
                yield StoredFile(key, status.st_size, status.st_mtime), target

    def _linked_or_copied(self, source: Path, temporary: Path) -> bool:
        return not link(source, temporary, self.lacks) and _copied(source, temporary)

    def _replace(self, writes: Mapping[str, Callable[[Path], bool]], fence: Fence | None) -> None:
        """Replaces files by what `writes` make; they return whether it must be synced to disk."""
        paths = {self._path(key): write for key, write in writes.items()}
        folders = {path.parent for path in paths}
        with self._guarded(fence):  # an overtaken attempt must not even write a temporary file
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        drafts: list[tuple[Path, Path]] = []
        unsynced = []
        try:
            for path, write in paths.items():
                drafts.append((path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}"), path))
                if write(drafts[-1][0]):
                    unsynced.append(drafts[-1][0])
            sync_all(unsynced)
            for some in _slices(drafts):
                with self._guarded(fence) as confirm:
                    for draft, path in some:
                        confirm()
                        rename(draft, path)
            for folder in folders:
                sync_names(folder, self.lacks)
        finally:
            for draft, _ in drafts:
                draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _guarded(self, fence: Fence | None) -> Iterator[Confirm]:
        """Holds the lock of a run for a write; gives what to call before each change."""
        if fence is None:
            yield lambda: None
            return
        path = self._path(fence.run) / FENCE_NAME
        create = 0
        if fence != self._known:
            path.parent.mkdir(parents=True, exist_ok=True)
            create = os.O_CREAT
        try:
            descriptor = os.open(path, os.O_RDWR | create | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if create or not self._is_mounted():
                raise
            raise OvertakenError(fence.run, fence.attempt, None) from None
        try:
            with self._lock.held(descriptor, path) as confirm:
                self._check(fence, descriptor, path, confirm)
                yield confirm
        finally:
            os.close(descriptor)

    def _check(self, fence: Fence, descriptor: int, path: Path, confirm: Confirm) -> None:
        """Raises `OvertakenError` if a newer attempt has the run; else takes it over."""
        text = os.pread(descriptor, 32, 0)
        if not text.isdigit() and text:
            raise StorageError(f"{path} contains no number but {text!r}; remove the file")
        newest = int(text or b"0")
        if newest > fence.attempt:
            raise OvertakenError(fence.run, fence.attempt, newest)
        if newest < fence.attempt:
            confirm()
            os.pwrite(descriptor, str(fence.attempt).encode(), 0)
            sync_open(descriptor)
        self._known, self._device = fence, os.fstat(descriptor).st_dev

    def _is_mounted(self) -> bool:
        """Whether the volume is still mounted; if not, a missing run was not deleted."""
        try:
            return self.root.stat().st_dev == self._device
        except OSError:
            return False


def _copy(source: Path, target: Path, on_block: Callable[[], None]) -> str:
    """Copies a file, or removes the partial copy; returns the CRC-32."""
    crc, block = 0, memoryview(bytearray(_BLOCK))
    try:
        with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
            has_holes = sparse.is_sparse(os.fstat(read.fileno()))
            while count := read.readinto(block):
                on_block()
                crc = zlib.crc32(block[:count], crc)
                part = block[:count]
                if has_holes and sparse.is_zero(part):
                    written.truncate(written.seek(count, os.SEEK_CUR))
                    continue
                while part:
                    part = part[written.write(part) :]
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return crc32_text(crc)


def _copied(source: Path, temporary: Path) -> bool:
    sparse.copy(source, temporary)
    return True


def _cloned(source: Path, temporary: Path) -> bool:
    clone(source, temporary)
    return True


def _slices(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Parts of a sequence, each of which takes the lock of a run for a moment only."""
    return (
        items[start : start + _UNDER_ONE_LOCK] for start in range(0, len(items), _UNDER_ONE_LOCK)
    )
