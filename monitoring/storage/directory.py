"""Storage in a directory that all machines share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from monitoring.crc import crc32_text
from monitoring.files import sync, sync_all
from monitoring.storage.base import (
    FENCE_NAME,
    Fence,
    OvertakenError,
    StorageError,
    StoredFile,
    is_service,
    is_text,
    key_parts,
)

_LOCK_SECONDS = 10.0
_TEMPORARY = ".spectrain-tmp-"
_BLOCK = 1 << 20
_UNDER_ONE_LOCK = 100

Item = TypeVar("Item")


class FileStorage:
    """A directory as storage.

    The fencing number of a run is in a file of its own. It is compared under a lock that is held
    only for the last step of a write: data is copied to a temporary file first.
    """

    appends_in_place = True

    def __init__(self, root: Path) -> None:
        self.root = root
        # The last valid fence of this process, and the file system that it was on.
        self._known: Fence | None = None
        self._device = 0

    def seize(self, fence: Fence) -> None:
        """Takes over the run; see `Storage`. Removes temporary files of killed writers."""
        with self._guarded(fence):
            for left in self._path(fence.run).rglob(f"{_TEMPORARY}*"):
                left.unlink(missing_ok=True)

    def put(
        self, key: str, source: Path, fence: Fence | None = None, *, immutable: bool = False
    ) -> None:
        """Stores a file; an immutable one by a hard link if it is on the same file system."""

        write = _linked_or_copied if immutable else _copied
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
            place: partial(_linked_or_copied, self._path(key)) for key, place in places.items()
        }
        self._replace(writes, fence)

    def append(self, key: str, offset: int, data: bytes, fence: Fence | None = None) -> None:
        """Writes bytes at `offset`; see `Storage`."""
        path = self._path(key)
        with self._guarded(fence):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                size = os.fstat(file.fileno()).st_size
                if offset > size:
                    raise StorageError(f"{key} has {size} bytes; cannot append at {offset}")
                file.truncate(offset)
                file.seek(offset)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def point(self, key: str, target: str, fence: Fence | None = None) -> None:
        """Makes `key` a symbolic link to its neighbor `target`."""

        def write(temporary: Path) -> bool:
            temporary.symlink_to(target)
            return False

        self._replace({key: write}, fence)

    def delete(self, key: str, fence: Fence | None = None) -> None:
        """Removes a file."""
        self.delete_all([key], fence)

    def delete_all(self, keys: Sequence[str], fence: Fence | None = None) -> None:
        """Removes files; see `Storage`."""
        for some in _slices([self._path(key) for key in keys]):
            with self._guarded(fence):
                for path in some:
                    if path.is_dir() and not path.is_symlink():
                        _remove_empty(path)
                    else:
                        path.unlink(missing_ok=True)

    def delete_run(self, run: str) -> None:
        """Removes all files of a run."""
        self._known = None
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._path(run))

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
        source = self._path(key)
        return None if immutable and _link(source, target) else _copy(source, target, on_block)

    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        """Bytes of a file."""
        with self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def stat(self, key: str) -> StoredFile | None:
        """The file stored under `key`."""
        try:
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return StoredFile(key, status.st_size, status.st_mtime)

    def runs(self) -> Sequence[str]:
        """The names of the top-level directories."""
        names = [path.name for path in self.root.iterdir() if path.is_dir()]
        return sorted(name for name in names if is_text(name))

    def list(self, prefix: str) -> list[StoredFile]:
        """The files below a folder."""
        found = []
        for path in self._path(prefix).rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if is_service(key) and not is_service(f"{prefix}/x"):
                continue
            if path.name.startswith(_TEMPORARY) or path.is_symlink():
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.is_file() and is_text(key):
                    found.append(StoredFile(key, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.key)

    def leftovers(self, run: str) -> Sequence[StoredFile]:
        """The temporary files of writers."""
        found = []
        for path in self._path(run).rglob(f"{_TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                key = path.relative_to(self.root).as_posix()
                found.append(StoredFile(key, status.st_size, status.st_mtime))
        return found

    def links(self, prefix: str) -> dict[str, str]:
        """The links below a folder."""
        found = {
            path.relative_to(self.root).as_posix(): str(path.readlink())
            for path in sorted(self._path(prefix).rglob("*"))
            if path.is_symlink() and not path.name.startswith(_TEMPORARY)
        }
        return {key: target for key, target in found.items() if is_text(key)}

    def local_path(self, key: str) -> Path | None:
        """The file's path."""
        return self._path(key)

    def presign(self, key: str, seconds: float) -> str | None:
        """None: a directory has no URLs."""

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key_parts(key))

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
                drafts.append((path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}"), path))
                if write(drafts[-1][0]):
                    unsynced.append(drafts[-1][0])
            sync_all(unsynced)
            for some in _slices(drafts):
                with self._guarded(fence):
                    for draft, path in some:
                        _rename(draft, path)
            for folder in folders:
                sync(folder)
        finally:
            for draft, _ in drafts:
                draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _guarded(self, fence: Fence | None) -> Iterator[None]:
        if fence is None:
            yield
            return
        path = self._path(fence.run) / FENCE_NAME
        create = 0
        if fence != self._known:
            path.parent.mkdir(parents=True, exist_ok=True)
            create = os.O_CREAT
        try:
            descriptor = os.open(path, os.O_RDWR | create | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            if create or not self._is_mounted():
                raise
            raise OvertakenError(fence.run, fence.attempt, None) from None
        try:
            _lock(descriptor, path)
            text = os.pread(descriptor, 32, 0)
            if not text.isdigit() and text:
                raise StorageError(f"{path} contains no number but {text!r}; remove the file")
            newest = int(text or b"0")
            if newest > fence.attempt:
                raise OvertakenError(fence.run, fence.attempt, newest)
            if newest < fence.attempt:
                os.pwrite(descriptor, str(fence.attempt).encode(), 0)
                os.fsync(descriptor)
            self._known, self._device = fence, os.fstat(descriptor).st_dev
            yield
        finally:
            os.close(descriptor)

    def _is_mounted(self) -> bool:
        """Whether the volume is still mounted; if not, a missing run was not deleted."""
        try:
            return self.root.stat().st_dev == self._device
        except OSError:
            return False


def _lock(descriptor: int, path: Path) -> None:
    """Takes the lock, with a time limit: a stopped holder must not block others forever."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(f"{path} has been locked for {_LOCK_SECONDS:.0f} s") from None
            time.sleep(0.01)
        else:
            return


def _copy(source: Path, target: Path, on_block: Callable[[], None]) -> str:
    """Copies a file, or removes the partial copy; returns the CRC-32."""
    crc, block = 0, memoryview(bytearray(_BLOCK))
    try:
        with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
            while count := read.readinto(block):
                on_block()
                crc = zlib.crc32(block[:count], crc)
                part = block[:count]
                while part:
                    part = part[written.write(part) :]
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return crc32_text(crc)


def _copied(source: Path, temporary: Path) -> bool:
    shutil.copyfile(source, temporary)
    return True


def _linked_or_copied(source: Path, temporary: Path) -> bool:
    return not _link(source, temporary) and _copied(source, temporary)


def _slices(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Parts of a sequence, each of which takes the lock of a run for a moment only."""
    return (
        items[start : start + _UNDER_ONE_LOCK] for start in range(0, len(items), _UNDER_ONE_LOCK)
    )


def _rename(temporary: Path, path: Path) -> None:
    """Renames a file, also onto a folder with no files in it."""
    try:
        temporary.replace(path)
    except (IsADirectoryError, NotADirectoryError):
        _remove_empty(path)
        temporary.replace(path)


def _remove_empty(path: Path) -> None:
    """Removes a folder with no files in it; raises `OSError` if there are any."""
    for folder, _, _ in os.walk(path, topdown=False):
        Path(folder).rmdir()


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
            return False
        raise
    return True
