"""The service's own small files of a run: the job as it was accepted, its code's origin, receipts.

They are sent from memory. A file that a program leaves under such a name in its run directory is
refused by name, and never taken for one of these.
"""

from __future__ import annotations

from monitoring.storage.base import Fence, Storage


class OwnFiles:
    """The files of one attempt, by path; `publish` raises the errors of `Storage`."""

    def __init__(self, storage: Storage, fence: Fence) -> None:
        self._storage = storage
        self._fence = fence
        self._waiting: dict[str, bytes] = {}

    def add(self, path: str, data: bytes) -> None:
        """Adds a file, or its new content, for the next `publish`."""
        self._waiting[path] = data

    def publish(self) -> None:
        """Stores what storage has not got like that."""
        for path, data in list(self._waiting.items()):
            key = f"{self._fence.run}/{path}"
            if not self._is_stored(key, data):
                self._storage.append(key, 0, data, self._fence)
            if self._waiting.get(path) is data:
                del self._waiting[path]

    def remove(self, folder: str, *, but: set[str]) -> None:
        """Removes files from a folder in storage, except those of some names."""
        for file in self._storage.list(f"{self._fence.run}/{folder}"):
            if file.key.rpartition("/")[2] not in but:
                self._storage.delete(file.key, self._fence)

    def _is_stored(self, key: str, data: bytes) -> bool:
        found = self._storage.stat(key)
        return found is not None and found.size == len(data) and self._storage.read(key) == data
