"""docs/reference/http-api.md: every call of the service, from the OpenAPI that it serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from api.server.app import create_app
from api.server.views.health import OPENAPI
from jobs.settings import Settings
from tools.reference.markdown import code, document, sentence, table
from tools.reference.schema import Schema, default_of, limits_of, reference, type_of


def describe() -> dict[str, Any]:
    """The OpenAPI document that the application serves."""
    app = create_app(Settings(storage_url="file:///experiments", api_tokens=""))
    description: dict[str, Any] = json.loads(app.config[OPENAPI])
    return description


def block() -> str:
    """What the page says below its introduction."""
    api = describe()
    schemas: dict[str, Schema] = api["components"]["schemas"]
    calls = [
        (method.upper(), path, operation)
        for path, operations in api["paths"].items()
        for method, operation in operations.items()
    ]
    index = table(
        ["call", "what it does"],
        (
            [f"[`{method} {path}`](#{operation['operationId']})", sentence(operation["summary"])]
            for method, path, operation in calls
        ),
    )
    return document(
        "## Calls",
        index,
        *(part for call in calls for part in _call(*call, schemas)),
        "## Objects",
        *(part for name in _shown(schemas) for part in _object(name, schemas[name], schemas)),
    )


def _call(
    method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Schema]
) -> Iterator[str]:
    yield f'<a id="{operation["operationId"]}"></a>\n\n### `{method} {path}`'
    public = "" if operation["security"] else " *Public.*"
    yield sentence(operation["summary"]) + public
    yield operation.get("description", "")
    if parameters := operation["parameters"]:
        yield table(
            ["parameter", "in", "type", "default", "what it sets"],
            ([*_parameter(one, schemas)] for one in parameters),
        )
    if body := operation.get("requestBody"):
        ((kind, media),) = body["content"].items()
        is_json = kind == "application/json"
        what = f"JSON, {_model(media['schema'], schemas)}" if is_json else code(kind)
        yield f"Body: {what}."
    yield table(["answer", "body", "when"], _answers(operation["responses"], schemas))
    if statuses := [status for status, one in operation["responses"].items() if _is_usual(one)]:
        yield f"[Errors](#errors): {', '.join(map(code, statuses))}."


def _is_usual(answer: Mapping[str, Any]) -> bool:
    """Whether it is an error that means the same for every call."""
    phrases = {status.phrase for status in HTTPStatus if status >= 400}
    return answer["description"] in phrases


def _parameter(one: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Iterator[str]:
    schema = one["schema"]
    yield code(one["name"])
    yield one["in"]
    yield "; ".join(filter(None, [type_of(schema, schemas), limits_of(schema)]))
    yield "required" if one.get("required") else default_of(schema)
    yield one.get("description", "")


def _answers(
    responses: Mapping[str, Mapping[str, Any]], schemas: Mapping[str, Schema]
) -> Iterator[list[str]]:
    for status, answer in responses.items():
        if _is_usual(answer):
            continue
        bodies = [
            _model(media["schema"], schemas) if "json" in kind and media["schema"].get("$ref")
            else code(kind)
            for kind, media in answer.get("content", {}).items()
        ]  # fmt: skip
        headers = "; ".join(
            f"Header {code(name)}: {header['description']}"
            for name, header in answer.get("headers", {}).items()
        )
        about = " ".join(filter(None, [sentence(answer["description"]), sentence(headers)]))
        yield [code(status), ", ".join(bodies) or "none", about]


def _model(schema: Schema, schemas: Mapping[str, Schema]) -> str:
    if reference(schema) == "JobSpec":
        return "a [job](job-file.md)"
    return type_of(schema, schemas, links=True)


def _shown(schemas: Mapping[str, Schema]) -> list[str]:
    """The models that have no page of their own: those inside a job are in the job file."""
    inside: set[str] = set()
    waiting = ["JobSpec"]
    while waiting:
        found = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schemas[waiting.pop()])))
        waiting += found - inside
        inside |= found
    return [name for name in schemas if name not in inside]


def _object(name: str, schema: Schema, schemas: Mapping[str, Schema]) -> Iterator[str]:
    yield f"### {name}"
    if name == "JobSpec":
        yield "A job as it was submitted: the keys of [the job file](job-file.md)."
        return
    yield sentence(schema.get("description", ""))
    if "enum" in schema:
        yield "One of " + ", ".join(code(value) for value in schema["enum"]) + "."
    if properties := schema.get("properties"):
        yield table(
            ["key", "type", "what it says"],
            (
                [
                    code(key),
                    "; ".join(
                        filter(None, [type_of(field, schemas, links=True), limits_of(field)])
                    ),
                    field.get("description", ""),
                ]
                for key, field in properties.items()
            ),
        )
