"""Requests made from the service's own description, and what its answers must keep to.

Each case follows from a number, so that a failure can be repeated. Most values are as the schema
wants them, some are not: a wrong type, a number at its limit, a text with a meaning elsewhere.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, 0.5, "", " ", "0",
    "null", "..", "../..", "/", "%00", "\x00", "\x1b[31m", "ä∿\U0001f600", "a" * 9000, "-",
    "1-1", "NaN", "Infinity", [], [[]], {}, {"": {}}, {"a.b": 1}, "http://[", "$(HOME)",
    "checkpoint_latest.pt", "logs/output.log", "1970-01-01", "{}", "\ud7ff", "a:b", "::",
)  # fmt: skip
_JSON = "application/json"
_DEEPEST = 6


@dataclass(frozen=True)
class Case:
    """A request."""

    call: str  # method and path as the description has them
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None

    def __str__(self) -> str:
        shown = (self.body or b"")[:600]
        return f"{self.method} {self.url}\n{dict(self.headers)}\n{shown!r}"


@dataclass
class Fuzzer:
    """Makes requests for the calls of a description; `known` are values that mean something."""

    description: dict[str, Any]
    known: Mapping[str, list[str]]
    token: str = ""
    left_out: frozenset[str] = frozenset()  # operations
    statuses: Counter[int] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=random.Random)
    _validators: dict[str, Draft202012Validator] = field(default_factory=dict)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Every method with its path."""
        return [
            (method, path)
            for path, methods in self.description["paths"].items()
            for method, operation in methods.items()
            if operation["operationId"] not in self.left_out
        ]

    def case(self, number: int) -> Case:
        """The request of a number."""
        chance = self._random = random.Random(number)
        method, path = self.calls[number % len(self.calls)]
        operation = self.description["paths"][path][method]
        url, query = path, []
        headers: dict[str, str] = {}
        for parameter in operation.get("parameters", ()):
            name, place = parameter["name"], parameter["in"]
            if place == "path":
                given = self._known(name) if chance.random() < 0.85 else self._odd_text()
                url = url.replace(f"{{{name}}}", quote(given, safe="/" if name == "path" else ""))
            elif place == "query":
                query += self._query(parameter)
            elif chance.random() < 0.5:
                headers[name] = self._header(name)
        if chance.random() < 0.05:
            query.append(("unknown", "1"))
        if query:
            url += "?" + urlencode(query, errors="replace")
        body = self._body(operation, headers)
        if self.token and chance.random() < 0.95:
            headers["Authorization"] = f"Bearer {self.token}"
        return Case(f"{method.upper()} {path}", method.upper(), url, headers, body)

    def check(self, case: Case, answer: TestResponse) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        self.statuses[answer.status_code] += 1
        method, _, path = case.call.partition(" ")
        responses = self.description["paths"][path][method.lower()]["responses"]
        status = answer.status_code
        if status >= 500 and status != 503:
            return f"a {status}: {answer.get_data(as_text=True)[:500]}"
        if str(status) not in responses:
            return f"the status {status} is not documented: {answer.get_data(as_text=True)[:300]}"
        return self._check_body(responses[str(status)].get("content", {}), answer)

    def _check_body(self, content: Mapping[str, Any], answer: TestResponse) -> str | None:
        data = answer.get_data()
        if not content:
            return f"a body with {answer.status}: {data[:100]!r}" if data else None
        if answer.mimetype not in content and "*/*" not in content:
            return f"the type {answer.mimetype} is not documented for {answer.status}"
        schema = content.get(answer.mimetype, {}).get("schema")
        if schema is None or not answer.mimetype.endswith("json"):
            return None
        try:
            found = json.loads(data.decode(), parse_constant=_refuse)
        except ValueError as error:
            return f"no JSON: {error}"
        wrong = next(self._validator(schema).iter_errors(found), None)
        return None if wrong is None else f"{wrong.json_path}: {wrong.message[:500]}"

    # -- values ---------------------------------------------------------------------------------

    def _known(self, name: str) -> str:
        return self._random.choice(self.known.get(name) or self.known["job_id"])

    def _odd_text(self) -> str:
        odd = [one for one in ODD if isinstance(one, str)]
        return self._random.choice(odd) or "x"

    def _query(self, parameter: Mapping[str, Any]) -> list[tuple[str, str]]:
        chance, name = self._random, parameter["name"]
        if not parameter.get("required") and chance.random() < 0.5:
            return []
        if chance.random() < 0.2:
            return [(name, str(chance.choice(ODD)))]
        if name in self.known:
            return [(name, self._known(name)) for _ in range(chance.choice((1, 2, 3)))]
        value = self._value(parameter["schema"], 0)
        values = value if isinstance(value, list) else [value]
        return [(name, str(one).lower() if one in (True, False) else str(one)) for one in values]

    def _header(self, name: str) -> str:
        odd = [one for one in ODD if isinstance(one, str) and one.isascii() and one.isprintable()]
        return self._random.choice([*self.known.get(name, []), *odd])[:500] or "x"

    def _body(self, operation: Mapping[str, Any], headers: dict[str, str]) -> bytes | None:
        chance = self._random
        content = operation.get("requestBody", {}).get("content")
        if content is None:
            return None
        kind = next(iter(content))
        headers["Content-Type"] = (
            kind
            if chance.random() < 0.95
            else chance.choice(
                [
                    "text/plain",
                    "application/json; charset=latin-1",
                    "application/x-www-form-urlencoded",
                ]
            )
        )
        if kind != _JSON:
            return chance.randbytes(chance.choice((0, 10, 5000)))
        if chance.random() < 0.05:
            return chance.choice(
                [b"", b"{", b"[" * 5000, b"\xff", b'{"a": NaN}', b'{"name": "a", "name": "b"}',
                 b'{"name": "\\ud800"}', b"1e999", b'"' + b"a" * 70_000 + b'"']
            )  # fmt: skip
        value = self._value(content[kind]["schema"], 0)
        return json.dumps(value, allow_nan=False).encode(errors="surrogatepass")

    def _value(self, schema: Mapping[str, Any], depth: int) -> Any:
        """A value that mostly fits."""
        chance = self._random
        if chance.random() < 0.02 or depth > _DEEPEST:
            return chance.choice(ODD)
        while "$ref" in schema:
            schema = self.description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return chance.choice(schema["enum"])
        if choices := schema.get("anyOf") or (
            schema.get("oneOf") if "type" not in schema else None
        ):
            return self._value(chance.choice(choices), depth + 1)
        if "allOf" in schema:
            return self._value(schema["allOf"][0], depth + 1)
        kind = schema.get("type")
        make: dict[Any, Callable[[], Any]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: [
                self._value(schema.get("items", {}), depth + 1)
                for _ in range(chance.choice((0, 1, 1, 2, 3)))
            ],
            "string": lambda: self._text(schema),
            "integer": lambda: self._number(schema),
            "number": lambda: self._number(schema) + chance.choice((0, 0.5)),
            "boolean": lambda: chance.random() < 0.5,
            "null": lambda: None,
        }
        return make[kind]() if kind in make else chance.choice(ODD)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        chance, required = self._random, set(schema.get("required", ()))
        groups = [one.get("required", []) for one in schema.get("oneOf", ())]
        left_out = {name for group in groups for name in group}
        if groups:
            required |= set(chance.choice(groups))
        found = {}
        for name, inside in schema.get("properties", {}).items():
            if name in required or (name not in left_out and chance.random() < 0.15):
                found[name] = self._value(inside, depth + 1)
        extra = schema.get("additionalProperties") or next(
            iter(schema.get("patternProperties", {}).values()), None
        )
        if isinstance(extra, dict):
            for _ in range(chance.choice((0, 1, 2))):
                name = chance.choice(["a", "loss", "A_B", "train.steps", "ä", "", "x" * 600])
                found[name] = self._value(extra, depth + 1)
        return found

    def _text(self, schema: Mapping[str, Any]) -> str:
        pattern, chance = schema.get("pattern", ""), self._random
        usual = ["a", "wave", "loss", "out/ckpt.pt", "true", "7", "file:///data", "https://x/y",
                 "abc_DEF", "/usr/bin/python", "1-1", "100-2-ffffffff", "default"]  # fmt: skip
        if "0-9a-f]{64}" in pattern:
            return "0" * 64
        fitting = [one for one in usual if not pattern or _matches(pattern, one)]
        return chance.choice(fitting or usual)[: schema.get("maxLength", 10_000)]

    def _number(self, schema: Mapping[str, Any]) -> Any:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high = schema.get("maximum", schema.get("exclusiveMaximum", 10_000))
        return self._random.choice([low, low + 1, min(high, low + 7), high, high + 1, low - 1])

    def _validator(self, schema: Mapping[str, Any]) -> Draft202012Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self.description["components"]}
            self._validators[key] = Draft202012Validator(whole)
        return self._validators[key]


def run(fuzzer: Fuzzer, http: FlaskClient, numbers: range) -> list[str]:
    """Sends the requests of the numbers; what was wrong with their answers."""
    found = []
    for number in numbers:
        case = fuzzer.case(number)
        answer = http.open(case.url, method=case.method, headers=dict(case.headers), data=case.body)
        wrong = fuzzer.check(case, answer)
        answer.close()
        if wrong is not None:
            found.append(f"case {number}: {wrong}\n{case}")
    return found


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
