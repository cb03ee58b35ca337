"""HTTP requests to one service, with retries and readable errors."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from api.hosts import is_loopback
from api.schemas import IDEMPOTENCY_KEY, Problem

Wire = TypeVar("Wire", bound=BaseModel)
Result = TypeVar("Result")

# Calls that may be carried out twice.
_SAFE = {"GET", "PUT"}
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
# Linux repeats a lost SYN packet after one and after three seconds.
_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 1.0  # then the caller is notified that no answer has come yet


class ClientError(Exception):
    """Base class of the exceptions that a client raises."""


class ApiError(ClientError):
    """The service answered with an error; `problem` holds the details."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        fields = [f"{e.field}: given {e.given}, allowed: {e.allowed}" for e in problem.errors or []]
        super().__init__("\n  ".join([problem.detail, *fields]))
        self.problem = problem
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return self.problem.status


class Unreachable(ClientError):  # noqa: N818 - reads better than UnreachableError
    """No service answered at the address."""

    def __init__(self, url: str, cause: Exception) -> None:
        at = without_credentials(url)
        super().__init__(f"No service answers at {at} ({cause}). Is `spectrain up` running there?")
        self.url = at
        self.unsent = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
        self.may_pass = not isinstance(cause, httpx.UnsupportedProtocol)


class SettingsRefusedError(ClientError):
    """A setting that names the service cannot be used; the message says what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class InvalidTokenError(SettingsRefusedError):
    """The token cannot be sent; the message does not show it."""

    def __init__(self) -> None:
        super().__init__(
            "The API token holds a character that no token has, such as a line end or a space: "
            "check SPECTRAIN_API_TOKEN."
        )


def without_credentials(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    bare = re.sub(r"//[^/?#]*@", "//***@", url)
    return re.sub(r"\?.*", "?***", bare, flags=re.DOTALL)


class Transport:
    """Sends requests.

    Retries each for `patience` seconds while no connection can be made. A GET or PUT, and a
    request with an Idempotency-Key, is also retried when no answer comes or the service answers
    503. `on_wait` is called with a message when a request has to wait. Each method may raise
    `ApiError` and `Unreachable`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        patience: float,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        if token and not re.fullmatch(r"[!-~]+", token):
            raise InvalidTokenError
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self.shown = without_credentials(self.url)
        self._timeout = timeout
        self._patience = patience
        self._on_wait = on_wait
        try:
            # A proxy of the environment must not intercept requests to this machine.
            proxies = not is_loopback(httpx.URL(self.url).host)
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
                trust_env=proxies,
            )
        except httpx.InvalidURL as error:
            raise Unreachable(url, error) from None

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def read(
        self,
        model: type[Wire],
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Wire:
        """The answer, parsed as a `model`."""
        answer = self.call(method, path, query, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Unreachable(self.url, ValueError("another service answers there")) from error

    def call(
        self, method: str, path: str, query: Mapping[str, object] | None = None, **options: Any
    ) -> httpx.Response:
        """The answer; parameters of `query` that are None are left out."""
        given: Any = {name: value for name, value in (query or {}).items() if value is not None}

        def once(_: object) -> httpx.Response:
            try:
                return _accepted(self._http.request(method, path, params=given, **options))
            except httpx.TransportError as error:
                raise Unreachable(self.url, error) from error

        safe = method in _SAFE or IDEMPOTENCY_KEY in options.get("headers", {})
        return self._persist(once, safe=safe)

    def download(
        self, path: str, part: IO[bytes], version: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Adds to an open file what it lacks of the body of the answer.

        The file `version` has the ETag of what is there: if the service has another version now,
        all of it comes anew. `on_bytes` is called with the size of each block that has come, and
        with the negative size of what is dropped; it may raise.
        """

        def drop(have: int) -> None:
            part.truncate(0)
            version.unlink(missing_ok=True)
            on_bytes(-have)

        def once(answered: Callable[[], None]) -> None:
            have = part.seek(0, os.SEEK_END)
            known = _text_of(version)
            if have and not known:
                drop(have)
                have = 0
            # Compressed, a range would be one of another body.
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            if not self._receive(
                path, headers, part, version, have, known, drop, on_bytes, answered
            ):
                once(answered)  # from the beginning

        self._persist(once, safe=True)
        version.unlink(missing_ok=True)

    def save(self, path: str, target: Path) -> None:
        """Writes the body of the answer to the file `target`."""

        def once(answered: Callable[[], None]) -> None:
            try:
                with self._http.stream("GET", path, follow_redirects=True) as answer:
                    answered()
                    if answer.is_error:
                        answer.read()
                    _accepted(answer)
                    with target.open("wb") as file:
                        for block in answer.iter_bytes():
                            file.write(block)
            except httpx.TransportError as error:
                raise Unreachable(self.url, error) from error

        self._persist(once, safe=True)

    def _receive(
        self, path: str, headers: Mapping[str, str], part: IO[bytes], version: Path,
        have: int, known: str, drop: Callable[[int], None], on_bytes: Callable[[int], None],
        answered: Callable[[], None],
    ) -> bool:  # fmt: skip
        """Writes what comes to the end of `part`; false if it does not continue what is there."""
        try:
            with self._http.stream("GET", path, headers=headers, follow_redirects=True) as answer:
                answered()
                tag, status = answer.headers.get("ETag", ""), answer.status_code
                if have and (status == 416 or (status == 206 and tag != known)):
                    drop(have)
                    return False
                if answer.is_error:
                    answer.read()
                _accepted(answer)
                if have and status != 206:
                    drop(have)
                if tag:
                    version.write_text(tag)
                for block in answer.iter_bytes():
                    part.write(block)
                    on_bytes(len(block))
                return True
        except httpx.TransportError as error:
            raise Unreachable(self.url, error) from error

    def _persist(self, once: Callable[[Callable[[], None]], Result], *, safe: bool) -> Result:
        """Calls `once` until it succeeds; `safe`: the request may be carried out twice.

        `once` gets what it may call when the service has begun to answer.
        """
        deadline = time.monotonic() + self._patience
        delay, notified = _FIRST_DELAY, False
        with self._silence_notified() as answered:
            while True:
                try:
                    return once(answered)
                except (ApiError, Unreachable) as error:
                    answered()
                    left = deadline - time.monotonic()
                    if not _may_pass(error, safe=safe) or delay > left:
                        raise
                    if self._on_wait is not None and not notified:
                        self._on_wait(f"{_describe(self.shown, error)}, retrying for {left:.0f} s")
                        notified = True
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)

    @contextlib.contextmanager
    def _silence_notified(self) -> Iterator[Callable[[], None]]:
        """Notifies the caller if it takes longer than a second until what it yields is called."""
        if self._on_wait is None:
            yield lambda: None
            return
        seconds = max(self._timeout, self._patience)
        message = f"{self.shown} has not answered yet, waiting up to {seconds:.0f} s"
        timer = threading.Timer(_SILENT_SECONDS, self._on_wait, [message])
        timer.daemon = True
        timer.start()
        try:
            yield timer.cancel
        finally:
            timer.cancel()


def _text_of(path: Path) -> str:
    """What a file says; '' without one."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _may_pass(error: ApiError | Unreachable, *, safe: bool) -> bool:
    """Whether a retry may succeed, and is safe."""
    if isinstance(error, Unreachable):
        return error.may_pass and (safe or error.unsent)
    return safe and error.status == 503


def _describe(url: str, error: ApiError | Unreachable) -> str:
    if isinstance(error, Unreachable):
        return f"No service answers at {url}"
    return f"{url} answers {error.status} ({error.problem.detail.rstrip('.')})"


def _accepted(answer: httpx.Response) -> httpx.Response:
    """The answer; raises `ApiError` if it is an error."""
    if not answer.is_error:
        return answer
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        source = without_credentials(str(answer.url))
        detail = f"{answer.status_code} {answer.reason_phrase} from {source}"
        problem = Problem(title=answer.reason_phrase, status=answer.status_code, detail=detail)
    raise ApiError(problem, answer.headers)
