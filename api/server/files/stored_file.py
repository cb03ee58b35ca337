"""Serves a file of storage through this process, whole or a range."""

from __future__ import annotations

import io
from typing import IO, cast

from flask import Response, request
from werkzeug.wsgi import FileWrapper

from monitoring.storage.base import Storage

_BLOCK = 1 << 20


class StoredFileReader(io.RawIOBase):
    """A file of storage as a seekable stream, read in blocks."""

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage, self._key, self._size = storage, key, size
        self._position = 0

    def seekable(self) -> bool:
        """Always true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Sets the position, relative to the beginning only."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("can only seek from the beginning")
        self._position = offset
        return offset

    def tell(self) -> int:
        """The position of the next byte."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, up to the size that the file had when it was opened."""
        left = self._size - self._position
        size = left if size < 0 else min(size, left)
        block = self._storage.read(self._key, self._position, size) if size > 0 else b""
        self._position += len(block)
        return block


def send_stored(storage: Storage, key: str, kind: str) -> Response:
    """The answer to a request for a file of this media type; raises `FileNotFoundError`."""
    file = storage.stat(key)
    if file is None:
        raise FileNotFoundError(key)
    reader = cast(IO[bytes], StoredFileReader(storage, key, file.size))
    answer = Response(FileWrapper(reader, _BLOCK), mimetype=kind, direct_passthrough=True)
    answer.content_length = file.size
    answer.set_etag(f"{file.modified}-{file.size}")
    answer.cache_control.no_cache = True
    answer.make_conditional(request.environ, accept_ranges=True, complete_length=file.size)
    return answer
