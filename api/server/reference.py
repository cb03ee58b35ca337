"""The reference of the HTTP API as one page of HTML, made from its OpenAPI description.

It needs no script, no other file and no internet. Its one style sheet is allowed by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Schema = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --ground: #fcfcfa; --raised: #f3f3ef; --ink: #1c1d1f;
  --quiet: #5c5f64; --rule: #dddcd6; --accent: #2f4fc4; }
@media (prefers-color-scheme: dark) { :root { --ground: #15161a; --raised: #1e2026; --ink: #e4e5e8;
  --quiet: #9b9fa8; --rule: #33363e; --accent: #8fa8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.25rem 4rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; }
h3 { margin: 2rem 0 .25rem; font-size: 1rem; overflow-wrap: anywhere; }
a { color: var(--accent); } code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 4.4em; margin-right: .4em; font-weight: 600; }
td:first-child a { display: flex; } td:first-child .method { flex: none; }
.quiet { color: var(--quiet); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-size: .93em; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0;
  border-bottom: 1px solid var(--rule); }
th { color: var(--quiet); font-weight: 500; }
summary { cursor: pointer; padding: .35rem 0; }
details { border-bottom: 1px solid var(--rule); }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_TOKEN = "Send <code>Authorization: Bearer TOKEN</code> where the service has tokens."  # noqa: S105


def reference_page(description: Mapping[str, Any]) -> str:
    """The page for an OpenAPI description."""
    info, paths = description["info"], description["paths"]
    calls = [
        (method.upper(), path, operation)
        for path, methods in sorted(paths.items())
        for method, operation in methods.items()
    ]
    index = "".join(
        f'<tr><td><a href="#{escape(operation["operationId"])}">{_heading(method, path)}</a></td>'
        f"<td>{_text(operation['summary'])}</td></tr>"
        for method, path, operation in calls
    )
    schemas = description["components"]["schemas"]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(info['title'])}: HTTP API</title>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}: HTTP API</h1>",
            f"<p>{_text(info['description'])}</p><p>{_TOKEN} Errors are ",
            '<code>application/problem+json</code> (RFC 9457), as <a href="#Problem">Problem</a>. ',
            'The same as OpenAPI: <a href="openapi.json">openapi.json</a>. ',
            '<a href="../">The dashboard</a>.</p>',
            f'<h2>Calls</h2><div class="scroll"><table>{index}</table></div>',
            *(_call(*call) for call in calls),
            "<h2>Objects</h2>",
            *(_object(name, schema) for name, schema in schemas.items()),
            "</main></body></html>",
        ]
    )


def _call(method: str, path: str, operation: Mapping[str, Any]) -> str:
    name = operation["operationId"]
    parts = [f'<h3 id="{escape(name)}">{_heading(method, path)}</h3>']
    about = f"{operation['summary']}. {operation.get('description', '')}".strip()
    parts.append(f"<p>{_text(about)}</p>")
    if parameters := operation.get("parameters"):
        rows = (
            (
                f"<code>{escape(one['name'])}</code>",
                escape(one["in"] + (", required" if one.get("required") else "")),
                _type(one["schema"]),
                _text(one.get("description", "")),
            )
            for one in parameters
        )
        parts.append(_table(("Parameter", "In", "Type", "What it sets"), rows))
    if body := operation.get("requestBody"):
        ((kind, media),) = body["content"].items()
        of = f" of {_type(media['schema'])}" if media.get("schema") else ""
        parts.append(f"<p>Body: <code>{escape(kind)}</code>{of}.</p>")
    answers = (
        (f"<code>{escape(status)}</code>", _content(one), _text(one["description"]))
        for status, one in operation["responses"].items()
    )
    parts.append(_table(("Answer", "Body", "What it is"), answers))
    return "".join(parts)


def _object(name: str, schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = (
        (
            f"<code>{escape(key)}</code>",
            _type(one) + (" (required)" if key in required else ""),
            _text(one.get("description", "")),
        )
        for key, one in schema.get("properties", {}).items()
    )
    inside = _table(("Field", "Type", "What it says"), rows)
    if "enum" in schema:
        inside = f"<p>{_type(schema)}</p>"
    about = _text(schema.get("description", ""))
    return (
        f'<details id="{escape(name)}" open><summary><strong>{escape(name)}</strong> '
        f'<span class="quiet">{about}</span></summary>{inside}</details>'
    )


def _content(answer: Mapping[str, Any]) -> str:
    shown = []
    for kind, media in answer.get("content", {}).items():
        schema = media.get("schema") or {}
        of = _type(schema) if "$ref" in schema else ""
        shown.append(f"<code>{escape(kind)}</code> {of}".strip())
    return "<br>".join(shown) or "none"


def _type(schema: Schema) -> str:
    """The type of a value, with links to objects."""
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if options := schema.get("anyOf") or ("type" not in schema and schema.get("oneOf")):
        return " or ".join(_type(one) for one in options)
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = escape(str(schema.get("type", "any")))
    inner = [
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("patternProperties", {}).values(),
    ]
    of = next((_type(one) for one in inner if isinstance(one, Mapping) and one), "")
    limits = [f"{words} {schema[key]}" for key, words in _LIMITS.items() if key in schema]
    return f"{kind} of {of}" if of else ", ".join([kind, *map(escape, limits)])


_LIMITS = {
    "minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than", "default": "default", "maxLength": "longest",
}  # fmt: skip


def _heading(method: str, path: str) -> str:
    return f'<span class="method">{escape(method)}</span><code>{escape(path)}</code>'


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>' if body else ""


def _text(words: str) -> str:
    """Words with `code` in them."""
    parts = escape(words).split("`")
    return "".join(
        f"<code>{part}</code>" if number % 2 and number < len(parts) - 1 else part
        for number, part in enumerate(parts)
    )
