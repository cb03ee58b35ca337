"""Errors as `application/problem+json` (RFC 9457): whatever goes wrong, in one form."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flask import Flask, Response, request
from redis.exceptions import ResponseError
from werkzeug.exceptions import HTTPException, NotFound, default_exceptions

from api.schemas import FieldError, Problem
from jobs.errors import (
    STORE_AWAY,
    IdempotencyConflictError,
    IllegalMoveError,
    JobNotFoundError,
    WorkerNotFoundError,
)
from monitoring.storage.base import StorageError

PROBLEM_JSON = "application/problem+json"
RETRY_SECONDS = "2"
log = logging.getLogger(__name__)


class InvalidInputError(Exception):
    """The request cannot be carried out as it stands; `errors` says which fields are wrong."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.allowed}" for error in errors))
        self.errors = errors


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
    state: str | None = None,
) -> Response:
    """The answer to a request that failed."""
    title = default_exceptions[status]().name
    body = Problem(title=title, status=status, detail=detail, errors=errors, state=state)
    text = body.model_dump_json(exclude_none=True)
    return Response(text, status, headers=headers, content_type=PROBLEM_JSON)


def handle_problems(app: Flask) -> None:
    """Makes every exception that a request can end with a problem."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InvalidInputError, _invalid)
    app.register_error_handler(JobNotFoundError, lambda error: problem(404, str(error)))
    app.register_error_handler(WorkerNotFoundError, lambda error: problem(404, str(error)))
    app.register_error_handler(IdempotencyConflictError, lambda error: problem(422, str(error)))
    app.register_error_handler(IllegalMoveError, _illegal_move)
    for away in STORE_AWAY:
        app.register_error_handler(away, _store_away)
    # Redis errors are none of these, and nothing else in a view opens files.
    app.register_error_handler(OSError, _storage_away)
    app.register_error_handler(StorageError, _storage_away)


def unavailable(detail: str) -> Response:
    """The answer while something that the service needs is away."""
    return problem(503, detail, headers={"Retry-After": RETRY_SECONDS})


def _http(error: HTTPException) -> Response:
    if error.code == 500:
        # Flask has logged the cause with its trace; who asked learns nothing of the inside.
        return problem(500, "Something went wrong in the service; its log says what.")
    headers = {k: v for k, v in error.get_headers() if k != "Content-Type"}
    detail = error.description or error.name
    if detail == NotFound.description:
        detail = f"There is nothing at {request.path}; /v1/openapi.json says what there is."
    return problem(error.code or 500, detail, headers=headers)


def _invalid(error: InvalidInputError) -> Response:
    fields = len(error.errors)
    subject = "One field is" if fields == 1 else f"{fields} fields are"
    return problem(422, f"{subject} not what is allowed; see errors.", errors=error.errors)


def _illegal_move(error: IllegalMoveError) -> Response:
    return problem(409, str(error), state=error.state)


def _store_away(error: Exception) -> Response:
    if isinstance(error, ResponseError):
        log.warning("Redis refuses: %s", error)
        return unavailable("Redis, which holds the jobs, refuses this now; the API's log says why.")
    log.warning("Redis cannot be reached: %s", error)
    return unavailable("Redis, which holds the jobs, cannot be reached; try again in a moment.")


def _storage_away(error: Exception) -> Response:
    log.warning("storage: %s", error)
    return unavailable(f"The storage of the runs does not answer: {error}.")
