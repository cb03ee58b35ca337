"""Every error as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flask import Flask, Response, request
from redis.exceptions import ResponseError
from werkzeug.exceptions import HTTPException, NotFound, default_exceptions

from api.schemas import FieldError, Problem
from jobs.accounts.store import TokenNotFoundError
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
    """The request is invalid; `errors` lists the fields."""

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
    """The answer to a failed request."""
    title = default_exceptions[status]().name
    body = Problem(title=title, status=status, detail=detail, errors=errors, state=state)
    text = body.model_dump_json(exclude_none=True)
    return Response(text, status, headers=headers, content_type=PROBLEM_JSON)


def handle_problems(app: Flask) -> None:
    """Turns every exception of a request into a problem."""
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(InvalidInputError, _invalid)
    app.register_error_handler(JobNotFoundError, lambda error: problem(404, str(error)))
    app.register_error_handler(WorkerNotFoundError, lambda error: problem(404, str(error)))
    app.register_error_handler(TokenNotFoundError, lambda error: problem(404, str(error)))
    app.register_error_handler(IdempotencyConflictError, lambda error: problem(422, str(error)))
    app.register_error_handler(IllegalMoveError, _illegal_move)
    for away in STORE_AWAY:
        app.register_error_handler(away, _store_away)
    # Errors of Redis are not OSErrors, and only storage opens files in a view.
    app.register_error_handler(OSError, _storage_away)
    app.register_error_handler(StorageError, _storage_away)


def unavailable(detail: str) -> Response:
    """The answer while a part that the service needs is unreachable."""
    return problem(503, detail, headers={"Retry-After": RETRY_SECONDS})


def _http(error: HTTPException) -> Response:
    if error.code == 500:
        # Flask has logged the traceback; the caller must not see internals.
        return problem(500, "Internal error; the log of the API has the details.")
    headers = {k: v for k, v in error.get_headers() if k != "Content-Type"}
    detail = error.description or error.name
    if detail == NotFound.description:
        detail = f"No call at {request.path}; /v1/openapi.json lists all calls."
    return problem(error.code or 500, detail, headers=headers)


def _invalid(error: InvalidInputError) -> Response:
    fields = len(error.errors)
    subject = "1 field is" if fields == 1 else f"{fields} fields are"
    return problem(422, f"{subject} invalid; see errors.", errors=error.errors)


def _illegal_move(error: IllegalMoveError) -> Response:
    return problem(409, str(error), state=error.state)


def _store_away(error: Exception) -> Response:
    if isinstance(error, ResponseError):
        log.warning("Redis refuses a command: %s", error)
        return unavailable("Redis refuses commands; the log of the API has its answer.")
    log.warning("Redis is unreachable: %s", error)
    return unavailable("Redis, which holds the jobs, is unreachable; try again in a moment.")


def _storage_away(error: Exception) -> Response:
    log.warning("storage: %s", error)
    return unavailable(f"Storage, which holds the runs, is unreachable: {error}.")
