"""Downloads of objects in parallel ranges, with the checksum computed as the bytes arrive.

boto3's transfer manager is as fast, but gives no access to the bytes, so a checkpoint would have to
be read again to verify it. Nor can it be stopped in the middle.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import HTTPClientError, IncompleteReadError

from monitoring.crc import combined, crc32_text
from monitoring.files import TEMPORARY
from monitoring.storage.base import StorageError

_RANGE = 16 << 20  # bytes of one request
_BLOCK = 1 << 20  # bytes of one read; times the threads, the memory of a download
_THREADS = 8
_TRIES = 5  # in a row without a byte
_LONGEST_PAUSE = 8.0  # seconds

Options = dict[str, Any]


class _Ended(Exception):  # noqa: N818 - a consequence of another error
    """Another range failed, so this one is not needed."""


class Download:
    """The download of the object that `head` describes; it fails if the object is replaced.

    `on_block` is called for each block, in several threads, and ends the download by raising.
    """

    def __init__(
        self, client: Any, source: Options, head: Options, on_block: Callable[[], None]
    ) -> None:
        self._client = client
        self._source = {**source, "IfMatch": head["ETag"]}
        self._size = int(head["ContentLength"])
        self._on_block = on_block
        self._ending = threading.Event()
        self._error: BaseException | None = None  # the first one

    def to(self, target: Path) -> str:
        """Writes the object to `target` atomically; returns its CRC-32 as in commit records.

        Raises the errors of requests, of the disk and of `on_block`.
        """
        draft = target.with_name(f".{target.name}{TEMPORARY}")
        try:
            with draft.open("wb", buffering=0) as file:
                crc = self._fetch_all(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
        return crc32_text(crc)

    def _fetch_all(self, descriptor: int) -> int:
        starts = range(0, self._size, _RANGE)
        ranges = [(start, min(start + _RANGE, self._size)) for start in starts]
        crc = 0
        with ThreadPoolExecutor(_THREADS, "download") as threads:
            pieces = [threads.submit(self._fetch, descriptor, *range_) for range_ in ranges]
            try:
                for (start, end), piece in zip(ranges, pieces, strict=True):
                    crc = combined(crc, piece.result(), end - start)
            except BaseException as error:
                self._end(error)
                threads.shutdown(cancel_futures=True)
        if self._error is not None:
            raise self._error
        return crc

    def _fetch(self, descriptor: int, start: int, end: int) -> int:
        """Fetches a range and returns its CRC-32; an answer that breaks off is continued."""
        crc, failures = 0, 0
        try:
            while start < end:
                try:
                    with contextlib.closing(self._body(start, end)) as body:
                        while block := body.read(_BLOCK):
                            self._on_block()
                            self._check()
                            _write(descriptor, block, start)
                            crc = zlib.crc32(block, crc)
                            start += len(block)
                            failures = 0
                except (HTTPClientError, IncompleteReadError):
                    failures += 1
                    if failures == _TRIES:
                        raise
                    self._ending.wait(min(_LONGEST_PAUSE, 0.1 * 2**failures) * random.random())
        except BaseException as error:
            self._end(error)
            raise
        return crc

    def _body(self, start: int, end: int) -> Any:
        self._check()
        answer = self._client.get_object(**self._source, Range=f"bytes={start}-{end - 1}")
        if answer["ContentLength"] != end - start:
            raise StorageError(
                f"the object store gave {answer['ContentLength']} bytes of {self._source['Key']} "
                f"where it was asked for {end - start}: it does not know ranges"
            )
        return answer["Body"]

    def _check(self) -> None:
        if self._ending.is_set():
            raise _Ended

    def _end(self, error: BaseException) -> None:
        if self._error is None and not isinstance(error, _Ended):
            self._error = error
        self._ending.set()


def _write(descriptor: int, block: bytes, offset: int) -> None:
    view = memoryview(block)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
