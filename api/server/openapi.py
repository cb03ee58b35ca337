"""The OpenAPI 3.1 description of the service, made from the calls and their models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.schemas import Problem
from api.server.access.access import COOKIE
from api.server.problems import PROBLEM_JSON
from api.server.routes import Call

_REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_PATH_ARGUMENTS = {
    "job_id": "Id of the job.",
    "other": "Id of the job to compare it with.",
    "sha256": "SHA-256 of the archive, 64 hexadecimal digits.",
    "path": "Path of the file within the run's directory.",
}

Mode = Literal["validation", "serialization"]
References = Mapping[tuple[Any, Mode], dict[str, Any]]


def describe_api(calls: Iterable[Call]) -> dict[str, Any]:
    """The description of `calls`; OpenAPI 3.1 takes the JSON schema of pydantic unchanged."""
    calls = list(calls)
    refs, components = _schemas(calls)
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, refs, components)
    queries = {call.query.__name__ for call in calls}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Spectrain",
            "version": version("spectrain"),
            "description": "Training jobs that come back finished. JSON has no NaN and no "
            "infinity: answers have the texts `NaN`, `Infinity` and `-Infinity` in their place.",
        },
        "paths": paths,
        "components": {
            "schemas": {k: v for k, v in sorted(components.items()) if k not in queries},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def _schemas(calls: list[Call]) -> tuple[References, dict[str, dict[str, Any]]]:
    """A reference to each model, as input or output, and the schemas that these refer to."""
    models: list[tuple[type[BaseModel], Mode]] = [(Problem, "serialization")]
    for call in calls:
        models.append((call.query, "validation"))
        if call.body is not None:
            models.append((call.body, "validation"))
        if isinstance(call.answer, type):
            models.append((call.answer, "serialization"))
        if call.also is not None:
            models.append((call.also, "serialization"))
    unique = list(dict.fromkeys(models))
    refs, definitions = models_json_schema(unique, ref_template=_REF)
    _close(definitions["$defs"])
    return refs, definitions["$defs"]


def _close(schema: Any) -> None:
    """Says of an object whose names have a pattern that it has no other names."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        schema = list(schema.values())
    if isinstance(schema, list):
        for inside in schema:
            _close(inside)


def _operation(
    call: Call,
    refs: References,
    components: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    summary, _, description = call.summary.partition("\n")
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": summary.rstrip("."),
        "parameters": [*_parameters(call, components[call.query.__name__])],
        "responses": _responses(call, refs),
        "security": [] if call.public else [{}, {"token": []}, {"session": []}],
        "x-role": str(call.role) if call.role else None,
    }
    operation["description"] = "\n\n".join(filter(None, [description.strip(), _who(call)]))
    if call.body is not None:
        content = {"application/json": {"schema": refs[call.body, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif call.takes is not None:
        operation["requestBody"] = {"required": True, "content": {call.takes: {}}}
    return operation


def _who(call: Call) -> str:
    """Who may make a call."""
    if call.role is None:
        return "Anybody may make this call."
    own = " A user may change only their own jobs." if call.is_own else ""
    return f"Needs the role `{call.role}`.{own}"


def _parameters(call: Call, query: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for name in call.path_arguments:
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_ARGUMENTS.get(name, f"Name of the {_kind(call.path, name)}."),
            "schema": _TEXT,
        }
    for name, schema in query.get("properties", {}).items():
        about = {k: v for k, v in schema.items() if k not in {"title", "description"}}
        yield {
            "name": name,
            "in": "query",
            "required": name in query.get("required", ()),
            "description": schema.get("description", ""),
            "schema": about,
        }
    headers = dict(call.request_headers)
    if HTTPStatus.NOT_MODIFIED in call.others:
        headers.setdefault(
            "If-None-Match", "`ETag` of an earlier answer: 304 if nothing has changed."
        )
    for name, text in headers.items():
        yield {"name": name, "in": "header", "description": text, "schema": _TEXT}


def _kind(path: str, argument: str) -> str:
    """What a path argument names: `worker` in /v1/workers/{name}."""
    before = path.partition(f"/{{{argument}}}")[0]
    return before.rpartition("/")[2].removesuffix("s")


def _schema_of(kind: str) -> dict[str, Any]:
    """The schema of an answer of a media type: bytes have none."""
    if kind == "application/json":
        return {"type": "object"}
    return _TEXT if kind.startswith("text/") else {}


def _responses(call: Call, refs: References) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(call.status).phrase}
    if isinstance(call.answer, type):
        answer["content"] = {"application/json": {"schema": refs[call.answer, "serialization"]}}
    elif call.answer is not None:
        answer["content"] = {call.answer: {"schema": _schema_of(call.answer)}}
    if call.also is not None:
        answer["content"]["application/json"] = {"schema": refs[call.also, "serialization"]}
    if call.response_headers:
        answer["headers"] = {
            name: {"description": text, "schema": _TEXT}
            for name, text in call.response_headers.items()
        }
    content = {PROBLEM_JSON: {"schema": refs[Problem, "serialization"]}}
    failures = {*call.problems, 422, 500}
    failures |= set() if call.public else {401, 403, 429, 503}
    failures |= {403} if call.method != "GET" else set()  # a page of another site
    failures |= {400, 413, 415} if call.body is not None else set()
    failures |= {404} if call.path_arguments else set()
    others = {str(one): {"description": HTTPStatus(one).phrase} for one in call.others}
    for status in set(call.others) & {HTTPStatus.PARTIAL_CONTENT}:
        others[str(int(status))] |= {"content": answer["content"]}
    return (
        {str(call.status): answer}
        | others
        | {
            str(status): {"description": HTTPStatus(status).phrase, "content": content}
            for status in sorted(failures)
        }
    )
