"""A probe of storage at startup: writes and reads a small file."""

from __future__ import annotations

import errno

from monitoring.storage.base import Storage, StorageError

_FOLDER = ".spectrain"
# Bytes that a full disk refuses.
_PAD = 4096


class StorageProbe:
    """Writes, reads and finds probe files; raises `StorageError`, which says what to change."""

    def __init__(self, storage: Storage, url: str) -> None:
        self._storage = storage
        self._url = url

    def write(self, name: str) -> float:
        """Stores a probe; returns its time by the store's clock, in seconds since the epoch."""
        key, data = f"{_FOLDER}/{name}", name.encode().ljust(_PAD)
        try:
            self._storage.append(key, 0, data)
            found = self._storage.stat(key)
            if found is None or self._storage.read(key) != data:
                raise StorageError(f"storage {self._url} returned other bytes than were written")
        except OSError as error:
            raise StorageError(_in_words(error, self._url)) from error
        return found.modified

    def sees(self, name: str) -> bool:
        """Whether a probe, which another process wrote, exists."""
        try:
            return self._storage.stat(f"{_FOLDER}/{name}") is not None
        except OSError as error:
            raise StorageError(_in_words(error, self._url)) from error

    def remove(self, name: str) -> None:
        """Removes a probe."""
        try:
            self._storage.delete(f"{_FOLDER}/{name}")
        except OSError as error:
            raise StorageError(_in_words(error, self._url)) from error


def _in_words(error: OSError, url: str) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"the volume of {url} is full: make it larger, or make room (`spectrain gc`)"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"no permission to write to {url}: change its owner to the user of this process"
    if error.errno == errno.EROFS:
        return f"the volume of {url} is mounted read-only: mount it for writing"
    if error.errno in {errno.ESTALE, errno.ENOTCONN, errno.EIO, errno.ETIMEDOUT}:
        return f"the volume of {url} does not answer ({error.strerror}): mount it again"
    return f"cannot write to {url}: {error.strerror or error}"
