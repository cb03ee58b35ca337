"""Adds to large objects in stores that cannot copy parts: the whole object is sent again.

The last objects are kept on the local disk, so that they are not fetched each time.
"""

from __future__ import annotations

import contextlib
import tempfile
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
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._kept: OrderedDict[str, tuple[str, Path]] = OrderedDict()  # ETag and copy, by name
        self._number = 0

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
        path = self._copy_of(name, known)
        with path.open("r+b") as file:
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
        try:
            written = self._send(path, name, condition, checked)
        except BaseException:
            self._forget(name)
            raise
        self._kept[name] = written.etag, path
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

    def _copy_of(self, name: str, known: Written) -> Path:
        etag, path = self._kept.get(name, ("", Path()))
        if etag == known.etag:
            self._kept.move_to_end(name)
            return path
        self._forget(name)
        while len(self._kept) >= _MOST_KEPT:
            self._forget(next(iter(self._kept)))
        path = self._place()
        head = {"ETag": known.etag, "ContentLength": known.size}
        self._bucket.download(name, head, path, lambda: None)
        self._kept[name] = known.etag, path
        return path

    def _place(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="spectrain-")
        self._number += 1
        return Path(self._folder.name) / str(self._number)

    def _forget(self, name: str) -> None:
        if name in self._kept:
            with contextlib.suppress(OSError):
                self._kept.pop(name)[1].unlink()
