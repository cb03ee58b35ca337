"""Storage in a bucket of an S3 object store, with the same files as in a directory.

A growing file is one object, so that every S3 tool and presigned URL sees the whole file; the
alternative was hidden segments that only this class could combine. S3 cannot append. Up to 5 MiB,
the minimal size of a part, the whole file is put again from a copy in memory. A larger file is
composed by the store of its present bytes (UploadPartCopy) and the new ones: that takes four more
requests, and the store copies the file, but no byte is sent twice.

Fencing: one object per run has the number of its newest attempt and is changed only by
compare-and-set. A fenced write reads the ETag of the object to replace, checks the fence, and then
writes on the condition that the ETag is the same. An upload in parts checks again before its last
request; a deletion has the same condition. An attempt that is overtaken between the last two steps
can complete this one write, but never over an object that the newer attempt wrote. Such a late
write does no harm: a checkpoint without its record does not count, and with its record it is whole
and has its metrics; late rows are truncated by the next append of the newer attempt;
restore does not trust links before records; a checkpoint is removed only after a newer one is
stored. In a store without conditional writes only the check of the fence remains. Many small
files share one check. `monitoring.storage.s3.lacks` says what else a store may lack.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from botocore.exceptions import ClientError

from monitoring.storage.base import (
    FENCE_NAME,
    Fence,
    OvertakenError,
    StorageError,
)
from monitoring.storage.lacks import Lack
from monitoring.storage.s3.bucket import WHOLE, NoPartCopyError, Written
from monitoring.storage.s3.download import Options
from monitoring.storage.s3.errors import (
    is_conflict,
    is_missing,
    is_passing,
)
from monitoring.storage.s3.lacks import (
    CONDITIONS,
    COPIES,
    PART_CONDITIONS,
    PART_COPIES,
    may_be_lacking,
)
from monitoring.storage.s3.options import S3Options
from monitoring.storage.s3.parts import MIN_PART
from monitoring.storage.s3.reader import LINK, S3Reader, explained, neighbor
from monitoring.storage.s3.resend import Resender

_TRIES = 5
_AT_ONCE = 16
_UNDER_ONE_CHECK = 64
_CHECK_SECONDS = 2.0

Item = TypeVar("Item")


class S3Storage(S3Reader):
    """A prefix of a bucket as storage."""

    appends_in_place = False

    def __init__(self, bucket: str, prefix: str = "", options: S3Options | None = None) -> None:
        super().__init__(bucket, prefix, options or S3Options.read())
        self._deletes_conditionally = True
        self._begin()

    def _begin(self) -> None:
        # The last known state of the run that this process writes; it may be outdated.
        self._seized = ""
        self._known: dict[str, Written] = {}
        self._fence: Fence | None = None  # the last valid one
        self._checked_until = 0.0  # time.monotonic
        self._resender = Resender(self._bucket)

    def for_trial(self) -> S3Storage:
        """Another one, with the same connections."""
        other = copy(self)
        other._begin()
        return other

    @explained
    def inspect(self, folder: str, *, thoroughly: bool) -> Sequence[str]:
        """Tries uploads in parts; `thoroughly`: also asks for versions of the bucket."""
        source, name = self._name(f"{folder}/source"), self._name(f"{folder}/parts")
        self._bucket.put(source, b"data", {})
        self._bucket.try_parts(source, name)
        return self._bucket.remarks() if thoroughly else ()

    # -- writing ----------------------------------------------------------------------------

    def seize(self, fence: Fence) -> None:
        """Takes over the run, and aborts unfinished uploads of older attempts."""
        with self._explaining(fence.run):
            self._check(fence)
            self._bucket.abort_uploads(f"{self._name(fence.run)}/")
        self._seized = fence.run
        self._known.clear()

    @explained
    def put(
        self, key: str, source: Path, fence: Fence | None = None, *, immutable: bool = False
    ) -> None:
        """Stores a file, a large one in parts."""
        name = self._name(key)
        if source.stat().st_size < WHOLE:
            data = source.read_bytes()
            self._write(name, fence, lambda condition: self._bucket.put(name, data, condition))
            return

        def send(condition: Options) -> None:
            self._bucket.upload(name, source, lambda: self._checked(fence, condition))

        if name not in self._known:
            # The condition is checked after the last part: a wrong guess would waste the upload.
            self._remember(name, self._look(name))
        self._write(name, fence, send, PART_CONDITIONS)

    def put_all(self, files: Mapping[str, Path], fence: Fence | None = None) -> None:
        """Stores small files; see `Storage`."""
        self._in_parallel(lambda file: self.put(*file, fence), list(files.items()), fence)

    @explained
    def keep(self, key: str, place: str, fence: Fence | None = None) -> None:
        """Makes the store copy the object of `key` to `place`."""
        source = self._look(self._name(key))
        if source is None:
            raise FileNotFoundError(key)
        # What an overtaken attempt kept must not be replaced by what it put there instead.
        if self._look(self._name(place)) is None:
            self._checked(fence, {})
            self._copy(self._name(key), self._name(place), source.size)

    def _copy(self, name: str, place: str, size: int) -> None:
        if COPIES not in self.lacks:
            try:
                self._bucket.copy(name, place, size)
            except ClientError as error:
                if not may_be_lacking(error):
                    raise
            except NoPartCopyError:
                pass
            else:
                return
        self._resender.copy(name, place)
        self.lacks.note(COPIES)

    def keep_all(self, places: Mapping[str, str], fence: Fence | None = None) -> None:
        """Keeps contents; see `Storage`."""
        self._in_parallel(lambda pair: self.keep(*pair, fence), list(places.items()), fence)

    def clone_all(self, places: Mapping[str, str]) -> None:
        """Makes the store copy objects, which never change."""
        self.keep_all(places)

    @explained
    def append(self, key: str, offset: int, data: bytes, fence: Fence | None = None) -> None:
        """Writes bytes at `offset`; the module's docstring says how."""
        name = self._name(key)
        if offset >= MIN_PART:
            self._append_to_large(key, offset, data, fence)
            return

        def send(condition: Options) -> Written:
            # The remembered state is that of the store, if the write has it as a condition.
            known = self._known.get(name) if "IfMatch" in condition else None
            body = known.body if known else None
            body = (self._beginning(name, offset) if body is None else body)[:offset]
            _refuse_gap(key, len(body), offset)
            body += data
            written = self._bucket.put(name, body, condition)
            return replace(written, body=body) if condition and len(body) < MIN_PART else written

        self._write(name, fence, send)

    def _append_to_large(self, key: str, offset: int, data: bytes, fence: Fence | None) -> None:
        name = self._name(key)

        def send(condition: Options) -> Written:
            def checked() -> Options:
                return self._checked(fence, condition)

            known = (self._known.get(name) if "IfMatch" in condition else None) or self._look(name)
            _refuse_gap(key, known.size if known else 0, offset)
            assert known is not None  # noqa: S101 - an object without bytes has a gap
            if PART_COPIES not in self.lacks:
                with contextlib.suppress(NoPartCopyError):
                    return self._bucket.compose(name, offset, data, condition, checked)
            written = self._resender.append(name, offset, data, known, condition, checked)
            self.lacks.note(PART_COPIES)
            return written

        self._write(name, fence, send, PART_CONDITIONS)

    @explained
    def point(self, key: str, target: str, fence: Fence | None = None) -> None:
        """Makes `key` an empty object whose metadata names its neighbor `target`."""
        name = self._name(key)
        neighbor(key, target)
        metadata = {LINK: quote(target)}
        self._write(name, fence, lambda condition: self._bucket.put(name, b"", condition, metadata))

    @explained
    def delete(self, key: str, fence: Fence | None = None) -> None:
        """Removes a file, unless a newer attempt has replaced it."""
        name = self._name(key)
        for _ in range(_TRIES):
            known = self._known.pop(name, None)
            condition = {}
            if fence and self._deletes_conditionally and (known := known or self._look(name)):
                condition = {"IfMatch": known.etag}
            try:
                self._bucket.delete(name, self._checked(fence, condition))
            except ClientError as error:
                self._checked_until = 0.0
                self._checked(fence, condition)
                if is_missing(error):
                    return
                if not condition or is_passing(error):
                    raise
                # Otherwise the store supports conditions for writes only, or none.
                self._deletes_conditionally = is_conflict(error, conditional=True)
            else:
                return
        raise StorageError(
            f"another writer keeps changing {name} in bucket {self._bucket.bucket!r}"
        )

    def delete_all(self, keys: Sequence[str], fence: Fence | None = None) -> None:
        """Removes files; see `Storage`."""
        self._in_parallel(lambda key: self.delete(key, fence), keys, fence)

    @explained
    def delete_run(self, run: str) -> None:
        """Removes all files of a run, 1000 per request."""
        folder = f"{self._name(run)}/"
        self._fence = None
        self._bucket.abort_uploads(folder)
        for page in self._bucket.pages(folder):
            if failed := self._bucket.delete_all([found["Key"] for found in page]):
                raise StorageError(f"cannot delete {failed[0]} ({len(failed)} in total)")

    # -- fencing ----------------------------------------------------------------------------

    def _in_parallel(
        self, call: Callable[[Item], None], items: Sequence[Item], fence: Fence | None
    ) -> None:
        """Calls a writing method for many items; the fence is checked once for some of them."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(items), _UNDER_ONE_CHECK):
                if fence is not None:
                    with self._explaining(fence.run):
                        self._check(fence)
                self._checked_until = time.monotonic() + _CHECK_SECONDS
                try:
                    for done in [pool.submit(call, i) for i in items[start:][:_UNDER_ONE_CHECK]]:
                        done.result()
                finally:
                    self._checked_until = 0.0

    def _write(
        self,
        name: str,
        fence: Fence | None,
        send: Callable[[Options], Written | None],
        kind: Lack = CONDITIONS,
    ) -> None:
        """Writes an object with `send`, unless a newer attempt has the run.

        `kind`: what the store lacks if it does not take the condition.
        """
        refuses = False  # the condition, perhaps
        for _ in range(_TRIES):
            known = self._known.get(name)
            condition = {"IfMatch": known.etag} if known else {"IfNoneMatch": "*"}
            is_conditional = fence and kind not in self.lacks and not refuses
            condition = self._checked(fence, condition if is_conditional else {})
            try:
                written = send(condition)
            except ClientError as error:
                # A newer attempt aborts our uploads; then any error may mean that.
                self._checked_until = 0.0
                self._checked(fence, condition)
                if condition and may_be_lacking(error):
                    refuses = True
                elif is_conflict(error, conditional="IfMatch" in condition):
                    self._remember(name, self._look(name))
                else:
                    raise
            else:
                if refuses:
                    self.lacks.note(kind)
                if fence is not None:
                    self._remember(name, written)
                return
        raise StorageError(
            f"another writer keeps changing {name} in bucket {self._bucket.bucket!r}"
        )

    def _checked(self, fence: Fence | None, condition: Options) -> Options:
        """Checks the fence and returns the condition."""
        if fence is not None and time.monotonic() > self._checked_until:
            self._check(fence)
        return condition

    def _check(self, fence: Fence) -> None:
        """Raises `OvertakenError` if a newer attempt has the run; else takes it over."""
        name = self._name(f"{fence.run}/{FENCE_NAME}")
        refuses = False
        for _ in range(_TRIES):
            newest, condition = 0, {"IfNoneMatch": "*"}
            try:
                text, etag = self._bucket.get(name)
                newest, condition = int(text or b"0"), {"IfMatch": etag}
            except ClientError as error:
                if not is_missing(error):
                    raise
                if fence == self._fence:
                    raise OvertakenError(fence.run, fence.attempt, None) from None
            if newest > fence.attempt:
                raise OvertakenError(fence.run, fence.attempt, newest)
            if newest == fence.attempt:
                self._fence = fence
                return
            if CONDITIONS in self.lacks or refuses:
                condition = {}
            try:
                self._bucket.put(name, str(fence.attempt).encode(), condition)
            except ClientError as error:
                if condition and may_be_lacking(error):
                    refuses = True
                elif not is_conflict(error, conditional="IfMatch" in condition):
                    raise
            else:
                if refuses:
                    self.lacks.note(CONDITIONS)
        raise StorageError(f"too many attempts compete for {fence.run}")

    def _look(self, name: str) -> Written | None:
        """The present object of a name."""
        try:
            head = self._bucket.head(name)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return Written(head["ETag"], head["ContentLength"])

    def _saw(self, run: str, name: str, written: Written) -> None:
        if run == self._seized:
            self._known.setdefault(name, written)

    def _remember(self, name: str, written: Written | None) -> None:
        self._known.pop(name, None)
        if written is not None:
            self._known[name] = written

    # -- objects ----------------------------------------------------------------------------

    def _beginning(self, name: str, size: int) -> bytes:
        """The first bytes of an object; empty if it does not exist."""
        try:
            return self._bucket.get(name, 0, size)[0] if size else b""
        except ClientError as error:
            if is_missing(error):
                return b""
            raise


def _refuse_gap(key: str, size: int, offset: int) -> None:
    if offset > size:
        raise StorageError(f"{key} has {size} bytes; cannot append at {offset}")
