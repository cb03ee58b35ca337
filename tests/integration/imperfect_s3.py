"""A proxy that answers as object stores do that lack something of what Amazon S3 has."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, str]  # status and code


class Imperfect:
    """A store in front of another one; `bytes_sent` and `bytes_fetched` count objects' data.

    A subclass says in `refusal` what it refuses. Attributes describe the present request.
    """

    def __init__(self) -> None:
        self.bytes_sent = self.bytes_fetched = 0
        self.refused: Counter[str] = Counter()
        # The sizes of parts, by upload and number.
        self._parts: dict[str, dict[int, int]] = defaultdict(dict)

    def refusal(self, operation: str, headers: Any, query: dict[str, str]) -> Answer | None:
        """How it answers what it lacks."""

    def note_part(self, query: dict[str, str], headers: Any) -> None:
        """Notes the size of a part that is sent or copied."""
        if copied := headers.get("x-amz-copy-source-range"):
            start, end = copied.removeprefix("bytes=").split("-")
            size = int(end) - int(start) + 1
        else:
            size = int(headers.get("x-amz-decoded-content-length") or headers["Content-Length"])
        self._parts[query["uploadId"]][int(query["partNumber"])] = size


class NoPartCopies(Imperfect):
    """As Storj: it cannot copy a part."""

    def refusal(self, operation: str, headers: Any, query: dict[str, str]) -> Answer | None:
        return (501, "NotImplemented") if operation == "UploadPartCopy" else None


class EqualParts(Imperfect):
    """As Cloudflare R2: all parts but the last have one size, and the last is not larger."""

    def refusal(self, operation: str, headers: Any, query: dict[str, str]) -> Answer | None:
        if operation != "CompleteMultipartUpload":
            return None
        parts = self._parts[query["uploadId"]]
        *sizes, last = [parts[number] for number in sorted(parts)]
        is_equal = not sizes or (len(set(sizes)) == 1 and last <= sizes[0])
        return None if is_equal else (400, "InvalidPart")


class NoPartConditions(Imperfect):
    """As Google Cloud Storage: no conditions for uploads in parts; MD5 for several deletions."""

    def refusal(self, operation: str, headers: Any, query: dict[str, str]) -> Answer | None:
        is_conditional = "If-Match" in headers or "If-None-Match" in headers
        if operation == "CompleteMultipartUpload" and is_conditional:
            return 400, "InvalidArgument"
        if operation == "DeleteObjects" and "Content-MD5" not in headers:
            return 400, "MissingContentMD5"
        return None


class Old(Imperfect):
    """An old store: no conditions, no copies, and one deletion at a time."""

    def refusal(self, operation: str, headers: Any, query: dict[str, str]) -> Answer | None:
        if "If-None-Match" in headers or ("If-Match" in headers and operation != "GetObject"):
            return 400, "InvalidRequest"
        if operation in {"CopyObject", "UploadPartCopy"}:
            return 405, "MethodNotAllowed"
        return (501, "NotImplemented") if operation == "DeleteObjects" else None


@contextlib.contextmanager
def in_front_of(store: str, kind: Imperfect) -> Iterator[str]:
    """The address of a store of this kind, which keeps its objects in another one."""
    upstream = str(urlsplit(store).netloc)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(upstream, kind))
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _operation(method: str, path: str, query: dict[str, str], headers: Any) -> str:
    is_copy = "x-amz-copy-source" in headers
    if method == "PUT" and "uploadId" in query:
        return "UploadPartCopy" if is_copy else "UploadPart"
    if method == "PUT":
        return "CopyObject" if is_copy else "PutObject"
    if method == "POST" and "uploadId" in query:
        return "CompleteMultipartUpload"
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    return "GetObject" if method == "GET" and path.count("/") > 1 else method


def _handler(upstream: str, kind: Imperfect) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle_one_request()
                return
            self.close_connection = True

        def _pass_on(self) -> None:
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            operation = _operation(self.command, parts.path, query, self.headers)
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "partNumber" in query:
                kind.note_part(query, self.headers)
            if (refusal := kind.refusal(operation, self.headers, query)) is not None:
                kind.refused[operation] += 1
                text = f"<Error><Code>{refusal[1]}</Code><Message>no</Message></Error>".encode()
                self._answer(refusal[0], [("Content-Length", str(len(text)))], text)
                return
            if operation in {"PutObject", "UploadPart"}:
                kind.bytes_sent += len(body)
            with contextlib.closing(http.client.HTTPConnection(upstream, timeout=60)) as passed:
                passed.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in {"expect", "connection"}:
                        passed.putheader(name, value)
                passed.endheaders(body)
                answer = passed.getresponse()
                data = answer.read()
            if operation == "GetObject":
                kind.bytes_fetched += len(data)
            headers = [
                (name, value)
                for name, value in answer.getheaders()
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}
            ]
            size = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self._answer(answer.status, [*headers, ("Content-Length", str(size or 0))], data)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET: Callable[..., None] = _pass_on  # noqa: N815
        do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    return Handler
