"""One service over HTTP: what may be tried again is, and what goes wrong is said in sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from api.hosts import is_loopback
from api.schemas import IDEMPOTENCY_KEY, Problem

Wire = TypeVar("Wire", bound=BaseModel)
Result = TypeVar("Result")

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0


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


class Transport:
    """Sends requests.

    Reading, and what carries an Idempotency-Key, is tried again while nobody answers or the
    service says 503, for `patience` seconds; everything else is sent once. Each method may raise
    `ApiError` and `Unreachable`.
    """

    def __init__(self, url: str, token: str | None, *, timeout: float, patience: float) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._patience = patience
        try:
            # A proxy that the environment names must not stand before this machine's own service.
            proxies = not is_loopback(httpx.URL(self.url).host)
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, trust_env=proxies
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
        return self._persist(once) if safe else once()

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

        self._persist(once)

    def _persist(self, once: Callable[[], Result]) -> Result:
        deadline = time.monotonic() + self._patience
        delay = _FIRST_DELAY
        while True:
            try:
                return once()
            except (ApiError, Unreachable) as error:
                passing = isinstance(error, Unreachable) or error.status == 503
                if not passing or time.monotonic() + delay > deadline:
                    raise
            time.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)


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
