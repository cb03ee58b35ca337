"""A probe of storage at startup: writes and reads a small file, then tries what comes later."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence

from monitoring.storage.base import Storage, StorageError
from monitoring.storage.trial import try_out

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
        with self._explaining():
            self._storage.append(key, 0, data)
            found = self._storage.stat(key)
            if found is None or self._storage.read(key) != data:
                raise StorageError(f"storage {self._url} returned other bytes than were written")
        return found.modified

    def sees(self, name: str) -> bool:
        """Whether a probe, which another process wrote, exists."""
        with self._explaining():
            return self._storage.stat(f"{_FOLDER}/{name}") is not None

    def try_out(self, name: str, *, thoroughly: bool = False) -> Sequence[str]:
        """Tries what will be needed later; what storage lacks and is done without, in sentences.

        `thoroughly` also tries what costs more, and says what else is worth knowing.
        """
        with self._explaining():
            remarks = try_out(self._storage, self._trial(name), thoroughly=thoroughly)
        return [*self._storage.lacks.sentences(), *remarks]

    def remove(self, name: str) -> None:
        """Removes a probe, and what a trial that was killed has left."""
        with self._explaining():
            self._storage.delete(f"{_FOLDER}/{name}")
            self._storage.for_trial().delete_run(self._trial(name))

    def _trial(self, name: str) -> str:
        return f"{_FOLDER}/{name}.trial"

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
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
