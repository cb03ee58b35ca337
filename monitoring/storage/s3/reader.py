"""The reading half of storage in a bucket: files, lists, links and presigned URLs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from botocore.exceptions import ClientError

from monitoring.storage.base import (
    StorageError,
    StoredFile,
    UnstorableError,
    is_service,
    key_parts,
)
from monitoring.storage.lacks import Lacks
from monitoring.storage.s3.bucket import Bucket, Written
from monitoring.storage.s3.clients import TOKEN_FILE
from monitoring.storage.s3.download import Options
from monitoring.storage.s3.errors import S3_ERRORS, in_words, is_missing
from monitoring.storage.s3.options import S3Options

# The files that boto3 reads a token from, again and again.
_TOKEN_FILES = (TOKEN_FILE, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
_MAX_LINKS = 5
LINK = "spectrain-link"  # user metadata of an empty object: the neighbor that it is a link to

Method = TypeVar("Method", bound=Callable[..., Any])


def explained(method: Method) -> Method:
    """Wraps a method: it raises the exceptions of `Storage` in place of those of boto3."""

    @functools.wraps(method)
    def call(self: S3Reader, key: str, *args: Any, **options: Any) -> Any:
        with self._explaining(key):
            return method(self, key, *args, **options)

    return cast(Method, call)


_LONGEST_KEY = 1024  # bytes, for every object store


class S3Reader:
    """A prefix of a bucket, as its readers see it."""

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(bucket, options)

    @property
    def lacks(self) -> Lacks:
        """What the store has been found to lack."""
        return self._bucket.lacks

    @explained
    def get(
        self,
        key: str,
        target: Path,
        *,
        immutable: bool = False,
        on_block: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Fetches a file atomically, a large one in parallel ranges."""
        name, head = self._find(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        return self._bucket.download(name, head, target, on_block)

    @explained
    def read(self, key: str, start: int = 0, size: int = -1) -> bytes:
        """Bytes of a file."""
        name = self._name(key)
        data = self._bucket.get(name, start, size)[0] if size else b""
        if not data:  # the file is that short, or a link
            found, _ = self._find(key)
            data = self._bucket.get(found, start, size)[0] if size and found != name else b""
        return data

    @explained
    def stat(self, key: str) -> StoredFile | None:
        """The file stored under `key`."""
        try:
            _, head = self._find(key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return StoredFile(key, head["ContentLength"], head["LastModified"].timestamp())

    def runs(self) -> Sequence[str]:
        """The names of the top-level folders."""
        with self._explaining(self._prefix):
            found = self._bucket.folders(self._prefix)
            return sorted(name.removeprefix(self._prefix).rstrip("/") for name in found)

    @explained
    def list(self, prefix: str) -> list[StoredFile]:
        """The files below a folder."""
        return [file for file, link in self._scan(prefix) if link is None]

    def leftovers(self, run: str) -> Sequence[StoredFile]:
        """Nothing: objects are written atomically."""
        return ()

    @explained
    def links(self, prefix: str) -> dict[str, str]:
        """The links below a folder."""
        return {file.key: link for file, link in self._scan(prefix) if link is not None}

    def local_path(self, key: str) -> Path | None:
        """None: the file is not on this machine."""

    @explained
    def presign(self, key: str, seconds: float, *, disposition: str = "") -> str | None:
        """A presigned URL of the store; None if a download needs headers too."""
        return self._bucket.presign(self._find(key)[0], seconds, disposition)

    # -- objects ----------------------------------------------------------------------------

    def _find(self, key: str) -> tuple[str, Options]:
        """Name and head of the object at `key`, or of the target of that link."""
        for _ in range(_MAX_LINKS):
            head = self._bucket.head(self._name(key))
            target = head["Metadata"].get(LINK)
            if target is None:
                return self._name(key), head
            key = neighbor(key, unquote(target))
        raise StorageError(f"{key} is a link that leads nowhere")

    def _scan(self, prefix: str) -> Iterator[tuple[StoredFile, str | None]]:
        """The objects below a folder by key, with their targets if they are links."""
        for page in self._bucket.pages(f"{self._name(prefix)}/"):
            for found in page:
                name, size = found["Key"], found["Size"]
                key = name.removeprefix(self._prefix)
                if name.endswith("/") or (is_service(key) and not is_service(f"{prefix}/x")):
                    continue
                self._saw(key_parts(prefix)[0], name, Written(found["ETag"], size))
                try:
                    link = None if size else self._bucket.head(name)["Metadata"].get(LINK)
                except ClientError as error:
                    if is_missing(error):  # by now
                        continue
                    raise
                file = StoredFile(key, size, found["LastModified"].timestamp())
                yield file, None if link is None else unquote(link)

    def _saw(self, run: str, name: str, written: Written) -> None:
        """Called with each object of a run that a scan finds."""

    def _name(self, key: str) -> str:
        name = self._prefix + "/".join(key_parts(key))
        if len(name.encode()) > _LONGEST_KEY:
            raise UnstorableError(f"its key would be longer than {_LONGEST_KEY} bytes")
        return name

    @contextlib.contextmanager
    def _explaining(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            # It must not be reported as a missing object.
            for name in _TOKEN_FILES:
                if error.filename and error.filename == os.environ.get(name):
                    raise StorageError(
                        f"there are no credentials for {self._bucket.endpoint}: {name} names "
                        f"{error.filename}, which does not exist"
                    ) from error
            raise
        except S3_ERRORS as error:
            bucket = self._bucket
            words = in_words(error, endpoint=bucket.endpoint, bucket=bucket.bucket, key=key)
            raise words from error


def neighbor(key: str, target: str) -> str:
    """The key of the file `target` beside `key`."""
    if "/" in target or target in {"", ".", ".."}:
        raise StorageError(f"a link leads to a file beside it, not to {target!r}")
    return "/".join((*key_parts(key)[:-1], target))
