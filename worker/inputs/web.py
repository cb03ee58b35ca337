"""Inputs from a web server: `https://host/file`, one file, fetched without any credentials."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import re
import time
from io import FileIO
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import httpx

from monitoring.storage.base import StorageError
from worker.inputs.source import UNKNOWN, Check, InputError, Item, Listing, changed

# It logs each URL, and a presigned one is a key.
logging.getLogger("httpx").setLevel(logging.WARNING)

_CONNECT_SECONDS, _READ_SECONDS = 5, 20
_TRIES = 5  # in a row without a byte
_LONGEST_PAUSE = 8.0  # seconds
_WAIT_SECONDS = 0.1
# Answers to HEAD after which a GET may succeed; a presigned URL is for one method.
_NO_HEAD = frozenset({400, 403, 404, 405, 501})
_ABSENT, _REFUSED = frozenset({404, 410}), frozenset({401, 403, 407})
# Answers that pass, beside the failures of the server.
_PASSING = frozenset({408, 425, 429})
_NO_RANGE = 416
# Parameters that sign a URL of S3 or Google for a while, and do not say which file it is.
_SIGNATURE = re.compile(r"x-(amz|goog)-", re.I)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _PassingError(Exception):
    """An answer after which the next one may be better."""


class WebSource:
    """The file that a URL gives, after redirects."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)._replace(fragment="")
        self._asked = parts.geturl()
        self.url = parts._replace(query="…" if parts.query else "").geturl()
        query = [
            pair
            for pair in parse_qsl(parts.query, keep_blank_values=True)
            if not _SIGNATURE.match(pair[0])
        ]
        self._place = parts._replace(query=urlencode(query)).geturl()
        name = unquote(parts.path).rpartition("/")[2]
        self._name = name if name.strip(".") and len(name.encode()) < 200 else "file"

    @property
    def place(self) -> str:
        """The URL without its signature."""
        return self._place

    def list(self, check: Check) -> Listing:
        """The present file; see `Source`."""
        patience = _Patience(self.url, check)
        with _client() as client:
            while True:
                try:
                    return Listing.of([self._ask(client)], self.url, is_file=True)
                except (httpx.RequestError, httpx.InvalidURL, _PassingError) as error:
                    patience.lose(error)

    def fetch(self, item: Item, target: Path, check: Check) -> None:
        """Fetches the listed file, and goes on where a connection broke; see `Source`."""
        patience = _Patience(self.url, check)
        with _client() as client, FileIO(target, "xb") as file:
            while True:
                begun = file.tell()
                try:
                    self._fetch_rest(client, item, file, check)
                    return
                except (httpx.RequestError, httpx.InvalidURL, _PassingError) as error:
                    patience.lose(error, has_gained=file.tell() > begun)

    def _ask(self, client: httpx.Client) -> Item:
        """The item that the server describes; to HEAD, not each server answers, or as to GET."""
        with contextlib.suppress(httpx.RemoteProtocolError):
            answer = client.head(self._asked)
            told = answer.headers
            is_mute = answer.is_success and (
                told.get("Content-Length", "0") == "0"
                or not ("ETag" in told or "Last-Modified" in told)
            )
            if not is_mute and answer.status_code not in _NO_HEAD:
                return self._described(answer)
        with client.stream("GET", self._asked) as answer:
            return self._described(answer)

    def _described(self, answer: httpx.Response) -> Item:
        self._refuse(answer)
        length = answer.headers.get("Content-Length", "")
        return Item(
            self._name, int(length) if length.isdecimal() else UNKNOWN, self._version(answer)
        )

    def _version(self, answer: httpx.Response) -> str:
        """The ETag, else the time of change, else a hash of the URL, which is always the same."""
        found = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        return found or hashlib.sha256(self._place.encode()).hexdigest()

    def _fetch_rest(self, client: httpx.Client, item: Item, file: FileIO, check: Check) -> None:
        """Fetches what the file still lacks."""
        start = file.tell()
        if start and start == item.size:
            return
        headers = {}
        if start and self._may_go_on(item):
            headers = {"Range": f"bytes={start}-", "If-Range": item.version}
        with client.stream("GET", self._asked, headers=headers) as answer:
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                _begin_again(file, check)
            if answer.status_code == _NO_RANGE:
                raise _PassingError("it refuses a range")
            if answer.status_code in _ABSENT:
                raise changed(self.url, item.path)
            self._refuse(answer)
            self._expect(item, answer, file.tell())
            for block in answer.iter_raw():
                check(len(block))
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]
        if item.size != UNKNOWN and file.tell() != item.size:
            if file.tell() > item.size:
                raise changed(self.url, item.path)
            raise _PassingError(f"it gave {file.tell()} of {item.size} bytes")

    def _may_go_on(self, item: Item) -> bool:
        """Whether its version can say that the rest is of the same content: a weak ETag cannot."""
        return item.version.startswith('"') or item.version.endswith("GMT")

    def _expect(self, item: Item, answer: httpx.Response, start: int) -> None:
        """Raises an error unless the answer is the listed content from `start` on."""
        is_rest = answer.status_code == httpx.codes.PARTIAL_CONTENT
        found = self._version(answer)
        # An answer to If-Range may leave out the time of change.
        is_told = not is_rest or "ETag" in answer.headers or "Last-Modified" in answer.headers
        if is_told and found != item.version:
            raise changed(self.url, item.path)
        if is_rest:
            range_ = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
            if range_ is None or int(range_[1]) != start:
                raise _PassingError("it gave another range than it was asked for")
            if range_[2] not in {"*", str(item.size)}:
                raise changed(self.url, item.path)

    def _refuse(self, answer: httpx.Response) -> None:
        """Raises an error for an answer that has no file."""
        status = answer.status_code
        if status in _ABSENT:
            raise InputError(f"there is nothing at {self.url} ({status})")
        if status in _REFUSED:
            raise InputError(
                f"access to {self.url} is refused ({status}): a private file needs a presigned "
                "URL, and one that has not expired"
            )
        if status in _PASSING or status >= 500:
            raise _PassingError(f"it answers {status} {answer.reason_phrase}")
        if status not in {200, 206}:
            raise InputError(f"{self.url} is no file: the server answers {status}")


class _Patience:
    """Pauses between tries, and the end of them."""

    def __init__(self, url: str, check: Check) -> None:
        self._url = url
        self._check = check
        self._failures = 0

    def lose(self, error: Exception, *, has_gained: bool = False) -> None:
        """Pauses after an error; raises `InputError` or `StorageError` if no try is left."""
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.TooManyRedirects):
            raise InputError(f"{self._url} cannot be fetched: {error}") from error
        self._failures = 1 if has_gained else self._failures + 1
        if self._failures == _TRIES:
            why = str(error) or type(error).__name__
            raise StorageError(f"cannot fetch {self._url}: {why}") from error
        pause = min(_LONGEST_PAUSE, 0.25 * 2**self._failures) * random.random()
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, _WAIT_SECONDS))
        self._check()


def _client() -> httpx.Client:
    # Proxies and certificates are those of the environment. What a server compresses would have
    # another size than it says.
    return httpx.Client(
        follow_redirects=True,
        timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        headers={"Accept-Encoding": "identity", "User-Agent": "spectrain"},
    )


def _begin_again(file: FileIO, check: Check) -> None:
    check(-file.tell())
    file.seek(0)
    file.truncate()
