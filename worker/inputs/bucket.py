"""Inputs in an object store: `s3://bucket/prefix`, all objects below a prefix, or one object."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from monitoring.storage.base import StorageError
from monitoring.storage.s3.bucket import Bucket
from monitoring.storage.s3.errors import S3_ERRORS, error_code, in_words, is_missing, status_of
from monitoring.storage.s3.options import S3Options
from monitoring.storage.s3.reader import LINK
from worker.inputs.source import Check, InputError, Item, Listing, changed

# What `Bucket.download` asks for in one request; it sends several at once for a larger object.
_RANGE, _BLOCK = 16 << 20, 1 << 20
_WAIT_SECONDS = 0.1
_MAX_LINKS = 5
Head = dict[str, Any]
_FORBIDDEN = frozenset({"AccessDenied", "AllAccessDisabled", "403"})
_ARCHIVED = "InvalidObjectState"


class BucketSource:
    """The objects below a prefix of a bucket, or the object of that name if there are none."""

    def __init__(self, url: str, bucket: str, prefix: str, options: S3Options) -> None:
        self.url = url
        self._name = bucket
        self._prefix = prefix.strip("/")
        self._may_be_file = not prefix.endswith("/")
        self._options = options
        self._opening = threading.Lock()
        self._large = threading.Lock()
        self._is_file = False

    @property
    def place(self) -> str:
        """Its store, bucket and prefix."""
        return f"s3 {self._options.endpoint_url} {self._name} {self._prefix}"

    def list(self, check: Check) -> Listing:
        """The present objects; see `Source`."""
        refused: InputError | None = None
        items: list[Item] = []
        try:
            items = list(self._below(check))
        except _ForbiddenError as error:
            refused = error  # to list; perhaps not to read one object
        if not items and self._may_be_file and (item := self._object(refused)) is not None:
            self._is_file = True
            return Listing.of([item], self.url, is_file=True)
        if refused is not None:
            raise refused
        self._is_file = False
        return Listing.of(items, self.url)

    def fetch(self, item: Item, target: Path, check: Check) -> None:
        """Fetches a listed object, a large one in parallel ranges; see `Source`."""
        name = self._prefix if self._is_file else f"{self._prefix}/{item.path}"
        with self._explaining(item):
            name, head = self._without_links(
                name, {"ETag": item.version, "ContentLength": item.size}, item
            )
        left = size = head["ContentLength"]

        def on_block() -> None:
            # The size of a block is not told: only the last one of a range is smaller.
            nonlocal left
            size = min(_BLOCK, left)
            left -= size
            check(size)

        with self._explaining(item), self._alone(size > _RANGE, check):
            check()
            self._bucket.download(name, head, target, on_block)
        check(left)

    def _without_links(self, name: str, head: Head, item: Item) -> tuple[str, Head]:
        """The object to fetch: an empty one of a run may be a link to another one beside it."""
        for _ in range(_MAX_LINKS):
            if head["ContentLength"] or item.is_folder:
                return name, head
            target = self._bucket.head(name)["Metadata"].get(LINK)
            if target is None:
                return name, head
            name = f"{name.rpartition('/')[0]}/{unquote(target)}"
            try:
                head = self._bucket.head(name)
            except ClientError as error:
                if not is_missing(error):
                    raise
                break
        raise InputError(f"{self.url} has the link {item.path!r}, which leads nowhere")

    @cached_property
    def _opened(self) -> Bucket:
        return Bucket(self._name, self._options)

    @property
    def _bucket(self) -> Bucket:
        with self._opening:
            return self._opened

    def _below(self, check: Check) -> Iterator[Item]:
        prefix = f"{self._prefix}/"
        with self._explaining():
            for page in self._bucket.pages(prefix):
                check()
                for found in page:
                    path = found["Key"].removeprefix(prefix)
                    if path.endswith("/"):  # made by a console, to show a folder
                        yield Item(path, 0, "")
                    elif path:
                        yield Item(path, found["Size"], found["ETag"])

    def _object(self, refused: InputError | None) -> Item | None:
        """The object of the name itself."""
        try:
            with self._explaining():
                head = self._bucket.head(self._prefix)
        except FileNotFoundError:
            return None
        except _ForbiddenError as error:
            raise refused or error from error
        name = self._prefix.rpartition("/")[2]
        return Item(name, head["ContentLength"], head["ETag"])

    @contextlib.contextmanager
    def _alone(self, is_large: bool, check: Check) -> Iterator[None]:
        """One large object at a time: each takes several connections and threads."""
        if not is_large:
            yield
            return
        while not self._large.acquire(timeout=_WAIT_SECONDS):
            check()
        try:
            yield
        finally:
            self._large.release()

    @contextlib.contextmanager
    def _explaining(self, item: Item | None = None) -> Iterator[None]:
        """Turns the errors of boto3 into those of `Source`; `item`: is being fetched."""
        try:
            yield
        except S3_ERRORS as error:
            raise self._in_words(error, item) from error

    def _in_words(self, error: Exception, item: Item | None) -> Exception:
        code, endpoint = error_code(error), self._bucket.endpoint
        if item is not None and self._says_that_it_changed(error):
            return changed(self.url, item.path)
        if code == "NoSuchBucket":
            return InputError(f"there is no bucket {self._name!r} at {endpoint}, which {self.url} "
                              "names")  # fmt: skip
        if code in _FORBIDDEN:
            return _ForbiddenError(
                f"the credentials of the workers may not read {self.url} at {endpoint} ({code}): "
                "they need s3:ListBucket and s3:GetObject there"
            )
        if code == _ARCHIVED:
            what = self.url if item is None else f"{item.path!r} of {self.url}"
            return InputError(f"{what} is archived: restore it in the store first")
        words = in_words(error, endpoint=endpoint, bucket=self._name, key=self._prefix)
        return StorageError(f"{self.url}: {words}") if isinstance(words, StorageError) else words

    @staticmethod
    def _says_that_it_changed(error: Exception) -> bool:
        return isinstance(error, ClientError) and (is_missing(error) or status_of(error) == 412)


class _ForbiddenError(InputError):
    """The credentials do not allow it."""
