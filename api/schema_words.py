"""What a JSON schema of a pydantic model allows, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

# What pydantic puts behind the name of a key when the key itself is wrong.
KEY = "[key]"

# Regular expressions are no words for people.
PATTERNS = {
    r"^[a-z0-9_-]{1,63}$": "1 to 63 lower-case letters, digits, - or _",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and _, not beginning with a digit",
    r"^[^\x00]*$": "text without NUL characters",
    r"^[^:]+:": "text of the form key:value",
    r"^[1-9][0-9]{0,14}$": "the `cursor` of the page before",
    r"^[0-9]{1,19}-[0-9]{1,19}$": "the `after` of the page before",
}
_BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
}
_SCALARS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def describe(schema: Schema, root: Schema) -> str:
    """What `schema` allows; `root` holds the definitions that it refers to."""
    schema = _resolve(schema, root)
    kind = schema.get("type", "")
    if "anyOf" in schema:
        parts = [describe(part, root) for part in schema["anyOf"] if part.get("type") != "null"]
        words = " or ".join(parts) + (", or null" if len(parts) < len(schema["anyOf"]) else "")
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        words = " or ".join(json.dumps(value) for value in values)
    elif kind in _SCALARS:
        words = _SCALARS[kind] + _range(schema)
    elif kind == "string":
        words = _text(schema)
    elif kind == "array":
        words = _list(schema, root)
    elif "properties" in schema:
        words = "an object with the fields " + ", ".join(schema["properties"])
    else:
        words = "an object"
    return words


def schema_at(root: Schema, location: Sequence[int | str]) -> Schema | None:
    """The schema of the value, or of the key, at `location`; None where nothing may be."""
    schema: Schema = root
    for depth, part in enumerate(location):
        within = _one_kind(schema, root)
        patterns = within.get("patternProperties", {})
        if location[depth + 1 :] == (KEY,):
            return {
                "type": "string",
                **within.get("propertyNames", {}),
                "pattern": next(iter(patterns)),
            }
        found = _member(within, part)
        if found is None:
            return None
        schema = found
    return schema


def fields_at(root: Schema, location: Sequence[int | str]) -> list[str]:
    """The names of the fields of the object at `location`."""
    schema = schema_at(root, location)
    return list(_one_kind(schema, root).get("properties", {})) if schema else []


def _member(schema: Schema, part: int | str) -> Schema | None:
    if isinstance(part, int):
        fixed = schema.get("prefixItems", [])
        found = fixed[part] if part < len(fixed) else schema.get("items")
    else:
        others = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
        found = schema.get("properties", {}).get(part, others[0])
    return found if isinstance(found, Mapping) else None


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _one_kind(schema: Schema, root: Schema) -> Schema:
    """The schema with references followed and `or null` left out."""
    schema = _resolve(schema, root)
    parts = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
    return _resolve(parts[0], root) if len(parts) == 1 else schema


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return " and".join(f" {word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema)


def _text(schema: Schema) -> str:
    pattern, low, high = (schema.get(key) for key in ("pattern", "minLength", "maxLength"))
    words = PATTERNS.get(pattern, f"text that matches {pattern}") if pattern else "text"
    bounds = [*([f"at least {low}"] if low else []), *([f"at most {high}"] if high else [])]
    return words + (f" ({' and '.join(bounds)} characters)" if bounds else "")


def _list(schema: Schema, root: Schema) -> str:
    if "prefixItems" in schema:
        parts = [describe(part, root) for part in schema["prefixItems"]]
        return f"a list of {len(parts)}: {', '.join(parts)}"
    low, high = schema.get("minItems"), schema.get("maxItems")
    count = f" of {low} to {high}" if low and high else f" of up to {high}" if high else ""
    return f"a list{count}: {describe(schema.get('items', {}), root)}"
