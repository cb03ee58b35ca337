"""One service over HTTP: what may be tried again is, and what goes wrong is said in sentences."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from api.hosts import is_loopback
from api.schemas import IDEMPOTENCY_KEY, Problem

Wire = TypeVar("Wire", bound=BaseModel)
Result = TypeVar("Result")

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0
# An address behind which there is no machine: SYN packets are repeated after one and three seconds.
_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 1.0  # after which a caller is told that there is no answer yet


class ClientError(Exception):
    """Base of what a client raises."""


class ApiError(ClientError):
    """The service refused; `problem` says why, as `str()` does for a person."""

    def __init__(self, problem: Problem) -> None:
        fields = [f"{e.field}: given {e.given}, allowed: {e.allowed}" for e in problem.errors or []]
        super().__init__("\n  ".join([problem.detail, *fields]))
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


class Unreachable(ClientError):  # noqa: N818 - what it is, not that it is an error
    """Nobody answered at the service's address."""

    def __init__(self, url: str, cause: Exception) -> None:
        super().__init__(f"Nobody answers at {url} ({cause}). Is `spectrain up` running there?")
        self.url = url
        self.unsent = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
        self.may_pass = not isinstance(cause, httpx.UnsupportedProtocol)


class Transport:
    """Sends requests.

    Each is tried again for `patience` seconds while no connection can be made; reading, and what
    carries an Idempotency-Key, also while nobody answers or the service says 503. `on_wait` is
    called with a sentence when a request has to wait. Each method may raise `ApiError` and
    `Unreachable`.
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
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._patience = patience
        self._on_wait = on_wait
        try:
            # A proxy that the environment names must not stand before this machine's own service.
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
        """The answer as a `model`."""
        answer = self.call(method, path, query, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Unreachable(self.url, ValueError("what answers is no Spectrain")) from error

    def call(
        self, method: str, path: str, query: Mapping[str, object] | None = None, **options: Any
    ) -> httpx.Response:
        """The answer; what is None in `query` is left out."""
        given: Any = {name: value for name, value in (query or {}).items() if value is not None}

        def once() -> httpx.Response:
            try:
                return _accepted(self._http.request(method, path, params=given, **options))
            except httpx.TransportError as error:
                raise Unreachable(self.url, error) from error

        safe = method == "GET" or IDEMPOTENCY_KEY in options.get("headers", {})
        return self._persist(once, safe=safe)

    def download(self, path: str, target: Path) -> None:
        """Writes the answer's body into the file `target`."""

        def once() -> None:
            try:
                with self._http.stream("GET", path, follow_redirects=True) as answer:
                    if answer.is_error:
                        answer.read()
                    _accepted(answer)
                    with target.open("wb") as file:
                        for block in answer.iter_bytes():
                            file.write(block)
            except httpx.TransportError as error:
                raise Unreachable(self.url, error) from error

        self._persist(once, safe=True)

    def _persist(self, once: Callable[[], Result], *, safe: bool) -> Result:
        """The result of `once`, called until it has one; `safe`: it may be carried out twice."""
        deadline = time.monotonic() + self._patience
        delay, told = _FIRST_DELAY, False
        with self._silence_told():
            while True:
                try:
                    return once()
                except (ApiError, Unreachable) as error:
                    left = deadline - time.monotonic()
                    if not _may_pass(error, safe=safe) or delay > left:
                        raise
                    if self._on_wait is not None and not told:
                        self._on_wait(f"{_state(self.url, error)}, trying again for {left:.0f} s")
                        told = True
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)

    @contextlib.contextmanager
    def _silence_told(self) -> Iterator[None]:
        """Tells the caller when the block takes longer than a moment."""
        if self._on_wait is None:
            yield
            return
        seconds = max(self._timeout, self._patience)
        sentence = f"{self.url} has not answered yet, waiting for up to {seconds:.0f} s"
        timer = threading.Timer(_SILENT_SECONDS, self._on_wait, [sentence])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _may_pass(error: ApiError | Unreachable, *, safe: bool) -> bool:
    """Whether the request may succeed when it is sent again, and does no harm then."""
    if isinstance(error, Unreachable):
        return error.may_pass and (safe or error.unsent)
    return safe and error.status == 503


def _state(url: str, error: ApiError | Unreachable) -> str:
    if isinstance(error, Unreachable):
        return f"Nobody answers at {url}"
    return f"{url} answers {error.status} ({error.problem.detail.rstrip('.')})"


def _accepted(answer: httpx.Response) -> httpx.Response:
    """The answer, unless it is an error."""
    if not answer.is_error:
        return answer
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:
        detail = f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
        problem = Problem(title=answer.reason_phrase, status=answer.status_code, detail=detail)
    raise ApiError(problem)
