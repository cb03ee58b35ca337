"""The indexes of all runs that were asked for lately, in bounded memory."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from api.server.curves.index import MetricsIndex
from monitoring.storage.base import Storage

# Memory for the indexes of all runs; one run has at most a quarter of it.
TOTAL_BYTES = 64 << 20


class MetricsIndexes:
    """Indexes by the key of their file; those that were not asked for longest go first."""

    def __init__(self, most_bytes: int = TOTAL_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, MetricsIndex] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """About what all of them occupy in memory."""
        with self._lock:
            return self._size()

    @contextlib.contextmanager
    def extended(self, key: str, storage: Storage) -> Iterator[MetricsIndex]:
        """The index of a file as it is now; nobody else reads or extends it meanwhile.

        Raises `OSError` and `StorageError`.
        """
        with self._lock:
            index = self._indexes.setdefault(key, MetricsIndex(key))
            self._indexes.move_to_end(key)
        with index.lock:
            index.extend(storage)
            with self._lock:
                self._make_room(index)
            yield index

    def _make_room(self, index: MetricsIndex) -> None:
        while self._size() > self._most_bytes and next(iter(self._indexes.values())) is not index:
            self._indexes.popitem(last=False)

    def _size(self) -> int:
        return sum(index.size_bytes for index in self._indexes.values())
