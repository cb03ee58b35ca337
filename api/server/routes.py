"""HTTP calls that describe themselves: a decorator parses, answers and feeds OpenAPI."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, get_origin, get_type_hints

from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from api.schemas import Query
from api.server.access.guard import check_role
from api.server.context import context
from api.server.problems import InvalidInputError
from api.validation import field_errors, wire_errors
from jobs.accounts.token import Role
from jobs.model.words import SUBMITTED
from workload.json_text import repeated_keys

View = Callable[..., BaseModel | Response]


@dataclass(frozen=True)
class Call:
    """One method of one path, as the service serves it and as OpenAPI describes it."""

    method: str
    rule: str
    name: str
    summary: str
    status: int
    answer: type[BaseModel] | str | None
    query: type[Query]
    body: type[BaseModel] | None
    problems: tuple[int, ...]
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)
    role: Role | None = None  # that the caller needs; None: none, not even a name
    is_own: bool = False  # a user may make it on their own jobs only
    takes: str | None = None  # the media type of a body that the view reads itself
    also: type[BaseModel] | None = None  # another answer, as JSON
    others: tuple[int, ...] = ()  # statuses of success beside `status`

    @property
    def public(self) -> bool:
        """Whether anybody may make the call."""
        return self.role is None

    @property
    def path(self) -> str:
        """The path in the notation of OpenAPI: /v1/jobs/{job_id}."""
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.rule)

    @property
    def path_arguments(self) -> list[str]:
        """The names of the variable parts of the path."""
        return re.findall(r"\{(\w+)\}", self.path)


class Routes:
    """A group of calls: a Flask blueprint and the list of its calls."""

    def __init__(self, name: str) -> None:
        self.blueprint = Blueprint(name, __name__)
        self.calls: list[Call] = []

    def call(
        self,
        method: str,
        rule: str,
        *,
        answer: type[BaseModel] | str | None,
        status: int = 200,
        problems: tuple[int, ...] = (),
        public: bool = False,
        role: Role | None = None,
        is_own: bool | None = None,
        takes: str | None = None,
        also: type[BaseModel] | None = None,
        others: tuple[int, ...] = (),
        request_headers: Mapping[str, str] | None = None,
        response_headers: Mapping[str, str] | None = None,
    ) -> Callable[[View], View]:
        """Registers a view.

        A view takes the variable parts of the path, `query` and `body`. The annotations of these
        two are the models of valid input; a view that `takes` a media type reads the body itself.
        `answer` is the model or the media type of the answer, `also` the model of another one,
        `others` are further statuses of success; a view may also return a finished `Response`.

        Unless the call is `public`, the caller needs `role`: by default `viewer` to read, and
        `user` for all else. `is_own`: a user may make it on their own jobs only, which is so by
        default for all changes of a job.
        """
        needed = None if public else role or (Role.VIEWER if method == "GET" else Role.USER)
        if method == "GET" and isinstance(answer, type):
            others = (*others, 304)
        own = is_own if is_own is not None else method != "GET" and "<job_id:job_id>" in rule

        def register(view: View) -> View:
            hints = get_type_hints(view)
            query, body = hints.get("query", Query), hints.get("body")
            self.calls.append(
                Call(
                    method=method,
                    rule=rule,
                    name=view.__name__,
                    summary=inspect.getdoc(view) or "",
                    status=status,
                    answer=answer,
                    query=query,
                    body=body,
                    problems=problems,
                    request_headers=request_headers or {},
                    response_headers=response_headers or {},
                    role=needed,
                    is_own=own,
                    takes=takes,
                    also=also,
                    others=others,
                )
            )

            @wraps(view)
            def respond(**arguments: str) -> Response:
                if needed is not None:
                    owner = partial(_owner, arguments["job_id"]) if own else None
                    if (refused := check_role(needed, owner)) is not None:
                        return refused
                parsed: dict[str, Any] = dict(arguments)
                options = parse_query(query)
                if "query" in hints:
                    parsed["query"] = options
                if body is not None:
                    parsed["body"] = parse_body(body)
                result = view(**parsed)
                return result if isinstance(result, Response) else as_json(result, status)

            self.blueprint.add_url_rule(rule, view.__name__, respond, methods=[method])
            return view

        return register


def _owner(job_id: str) -> str | None:
    return context().store.owner(job_id)


def as_json(
    value: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """The value as a JSON answer; that of a GET has an ETag."""
    text = value.model_dump_json().encode()
    if request.method in {"GET", "HEAD"} and not headers:
        return answered_once(text, hashlib.blake2b(text, digest_size=12).hexdigest())
    return Response(text, status, headers=headers, content_type="application/json")


def answered_once(text: bytes, etag: str) -> Response:
    """A JSON answer that a caller who has it does not get again: 304."""
    if etag in request.if_none_match.as_set(include_weak=True):
        response = Response(status=304)
    else:
        response = Response(text, content_type="application/json")
    response.set_etag(etag, weak=True)
    response.cache_control.no_cache = True
    return response


def parse_query(model: type[Query]) -> Query:
    """The request's query parameters; raises `InvalidInputError`."""
    lists = {n for n, f in model.model_fields.items() if get_origin(f.annotation) is list}
    given = {
        name: values if name in lists or len(values) > 1 else values[0]
        for name, values in request.args.lists()
    }
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidInputError(field_errors(model, error)) from None


def parse_body(model: type[BaseModel]) -> BaseModel:
    """The request's JSON body; raises `InvalidInputError` and the HTTP errors 400, 413, 415."""
    if request.mimetype != "application/json":
        given = request.mimetype or "no Content-Type"
        raise UnsupportedMediaType(f"Send JSON, with Content-Type: application/json, not {given}.")
    text = request.get_data(cache=False)
    if request.content_length is None:
        # A chunked body is cut at the limit without an error; reading on then raises 413.
        request.stream.read(1)
    try:
        from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if repeated := repeated_keys(text):
        raise InvalidInputError(wire_errors(repeated))
    try:
        return model.model_validate_json(text, context=SUBMITTED)
    except ValidationError as error:
        raise InvalidInputError(field_errors(model, error)) from None
