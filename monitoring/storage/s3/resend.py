"""Adds to large objects in stores that cannot copy parts: the whole object is sent again.

The last objects are kept on the local disk, so that they are not fetched each time. Their files
have no name, and end with the process.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from monitoring.storage.base import StorageError
from monitoring.storage.s3.bucket import WHOLE, Bucket, Written
from monitoring.storage.s3.download import Options
from monitoring.storage.s3.lacks import MOST_RESENT

_MOST_KEPT = 2


class Resender:
    """Sends objects again, with what is added to them; for one thread."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        # By name: an ETag and the descriptor of a copy.
        self._kept: OrderedDict[str, tuple[str, int]] = OrderedDict()
        weakref.finalize(self, _close_all, self._kept)

    def append(
        self,
        name: str,
        offset: int,
        data: bytes,
        known: Written,
        condition: Options,
        checked: Callable[[], Options],
    ) -> Written:
        """Replaces an object by its first `offset` bytes and `data`."""
        if offset + len(data) > MOST_RESENT:
            raise StorageError(
                f"{name} has more than {MOST_RESENT >> 20} MiB, and this store cannot copy parts "
                "(UploadPartCopy): it would have to be sent again for each addition"
            )
        descriptor = self._copy_of(name, known)
        try:
            os.ftruncate(descriptor, offset)
            with open(descriptor, "r+b", closefd=False) as file:
                file.seek(offset)
                file.write(data)
            path = Path(f"/proc/self/fd/{descriptor}")
            written = self._send(path, name, condition, checked)
        except BaseException:
            self._forget(name)
            raise
        self._kept[name] = written.etag, descriptor
        return written

    def copy(self, name: str, target: str) -> None:
        """Fetches an object and stores it under another name."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "copy"
            self._bucket.download(name, self._bucket.head(name), path, lambda: None)
            self._send(path, target, {}, dict)

    def _send(
        self, path: Path, name: str, condition: Options, checked: Callable[[], Options]
    ) -> Written:
        if path.stat().st_size < WHOLE:
            return self._bucket.put(name, path.read_bytes(), condition)
        self._bucket.upload(name, path, checked)
        head = self._bucket.head(name)
        return Written(head["ETag"], head["ContentLength"])

    def _copy_of(self, name: str, known: Written) -> int:
        etag, descriptor = self._kept.get(name, ("", -1))
        if etag == known.etag:
            self._kept.move_to_end(name)
            return descriptor
        self._forget(name)
        while len(self._kept) >= _MOST_KEPT:
            self._forget(next(iter(self._kept)))
        with tempfile.TemporaryDirectory(prefix="spectrain-") as folder:
            path = Path(folder) / "copy"
            head = {"ETag": known.etag, "ContentLength": known.size}
            self._bucket.download(name, head, path, lambda: None)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._kept[name] = known.etag, descriptor
        return descriptor

    def _forget(self, name: str) -> None:
        if name in self._kept:
            os.close(self._kept.pop(name)[1])


def _close_all(kept: OrderedDict[str, tuple[str, int]]) -> None:
    for _, descriptor in kept.values():
        os.close(descriptor)
