"""Receives the archive of a workspace in parts, verifies it, and stores it whole.

What has been received lies in storage, so that another process of the API may receive the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from monitoring.storage.base import Storage, StorageError
from workspaces.layout import archive_key, partial_key, use_key

_BLOCK = 8 << 20  # bytes held in memory
# A use is noted again after this time; `gc` keeps what was used in the last hour.
_NOTE_SECONDS = 1200.0


class WrongOffsetError(Exception):
    """The part does not begin where the service's own ends, at `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"The service has {offset} bytes of this archive: continue there.")
        self.offset = offset


class WrongHashError(Exception):
    """All bytes are there, and they are not those that were named; the service forgets them."""

    def __init__(self, sha256: str, received: str) -> None:
        super().__init__(
            f"The SHA-256 of what was received is {received}, not {sha256}: send it again."
        )


class Receiving:
    """The archive of one workspace; its methods raise `OSError` and `StorageError`."""

    def __init__(self, storage: Storage, sha256: str) -> None:
        self._storage = storage
        self._sha256 = sha256
        self._key = archive_key(sha256)
        self._partial = partial_key(sha256)

    @property
    def is_whole(self) -> bool:
        """Whether storage has all of it."""
        return self._storage.stat(self._key) is not None

    @property
    def offset(self) -> int:
        """The number of bytes that storage has."""
        found = self._storage.stat(self._key) or self._storage.stat(self._partial)
        return found.size if found is not None else 0

    def note_use(self) -> None:
        """Notes that a job is about to name it, so that `gc` keeps it until then."""
        noted = self._storage.stat(use_key(self._sha256))
        if noted is None or time.time() - noted.modified > _NOTE_SECONDS:
            self._storage.append(use_key(self._sha256), 0, b"used")

    def take(self, source: IO[bytes], start: int, total: int | None) -> int:
        """Takes bytes from `start` on; returns the number of bytes that storage has then.

        `total`: the size of the archive; None if it ends with `source`. Raises `WrongOffsetError`
        and `WrongHashError`.
        """
        if self.is_whole or start > self.offset:
            # A body that nobody reads would break the connection before its answer is read.
            for _ in _blocks(source):
                pass
            if self.is_whole:
                return self.offset
            raise WrongOffsetError(self.offset)
        blocks = _blocks(source)
        first = next(blocks, b"")
        if start == 0 and len(first) < _BLOCK and total in {None, len(first)}:
            self._store_small(first)
            return len(first)
        position, running = start, hashlib.sha256() if start == 0 else None
        for block in chain([first], blocks):
            self._append(position, block)
            position += len(block)
            if running is not None:
                running.update(block)
        if total is None or position >= total:
            self._finish(running.hexdigest() if running is not None else self._read_hash())
        return position

    def _append(self, position: int, block: bytes) -> None:
        try:
            self._storage.append(self._partial, position, block)
        except StorageError:
            # Another sender of the same archive may have begun anew.
            have = self.offset
            if position <= have:
                raise
            raise WrongOffsetError(have) from None

    def _store_small(self, data: bytes) -> None:
        """Stores an archive that is all in memory."""
        self._verify(hashlib.sha256(data).hexdigest())
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self._storage.put(self._key, Path(file.name))

    def _finish(self, received: str) -> None:
        try:
            self._verify(received)
            with contextlib.suppress(FileNotFoundError):  # another sender has just finished
                self._storage.keep(self._partial, self._key)
        finally:
            self._storage.delete(self._partial)

    def _verify(self, received: str) -> None:
        if received != self._sha256:
            raise WrongHashError(self._sha256, received)

    def _read_hash(self) -> str:
        """The hash of what was received by several calls."""
        whole, position = hashlib.sha256(), 0
        while block := self._storage.read(self._partial, position, _BLOCK):
            whole.update(block)
            position += len(block)
        return whole.hexdigest()


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    """The source in blocks of the same size, the last one shorter; one read may give less."""
    block = b""
    while part := source.read(_BLOCK - len(block)):
        block += part
        if len(block) == _BLOCK:
            yield block
            block = b""
    if block:
        yield block
