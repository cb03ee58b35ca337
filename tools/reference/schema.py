"""A JSON schema in words: types, limits and defaults of one value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.reference.markdown import code

Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "greater than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}
_COUNTS = {"Length": "character", "Items": "item", "Properties": "entry"}


def resolve(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema itself, or the one that it refers to, without `null`."""
    if "anyOf" in schema:
        options = [one for one in schema["anyOf"] if one != {"type": "null"}]
        if len(options) == 1:
            return resolve(options[0], definitions)
    if "$ref" in schema:
        return resolve(definitions[reference(schema)], definitions)
    return schema


def reference(schema: Schema) -> str:
    """The name of the model that a `$ref` refers to; empty without one."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def type_of(schema: Schema, definitions: Mapping[str, Schema], *, links: bool = False) -> str:
    """The type in words; `links` makes names of models links to their headings."""
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(type_of(option, definitions, links=links) for option in options)
    name = reference(schema)
    target = definitions[name] if name else schema
    if "enum" in target:
        return "one of " + ", ".join(code(value) for value in target["enum"])
    if "const" in target:
        return code(target["const"])
    if name:
        return f"[{name}](#{name.lower()})" if links else "section"
    inner: list[object] = [target.get("items")]
    inner += [target.get("additionalProperties"), *target.get("patternProperties", {}).values()]
    of = [_of(one, definitions, links) for one in inner if isinstance(one, Mapping)]
    kind = str(target.get("type", "any"))
    return {"array": "list", "object": "mapping"}.get(kind, kind) + "".join(of[:1])


def _of(inner: Schema, definitions: Mapping[str, Schema], links: bool) -> str:
    words = type_of(inner, definitions, links=links)
    words = {"string": "strings", "number": "numbers", "integer": "integers"}.get(words, words)
    return "" if words == "any" else f" of {words}"


def limits_of(schema: Schema) -> str:
    """What the schema asks of a value beside its type; empty if nothing."""
    return "; ".join(_limits(schema))


def _limits(schema: Schema) -> Iterator[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"{_number(schema['minimum'])} to {_number(schema['maximum'])}"
    else:
        for key, words in _LIMITS.items():
            if key in schema:
                yield words.format(_number(schema[key]))
    for noun, thing in _COUNTS.items():
        yield from _count(schema.get(f"min{noun}"), schema.get(f"max{noun}"), thing)
    if "pattern" in schema:
        yield f"matches {code(schema['pattern'])}"
    for option in schema.get("anyOf", ()):
        yield from _limits(option)
    for item in [schema.get("items"), *schema.get("patternProperties", {}).values()]:
        if isinstance(item, Mapping) and (words := ", ".join(_limits(item))):
            yield f"each: {words}"
    for pattern in schema.get("patternProperties", {}):
        yield f"keys match {code(pattern)}"
    if "propertyNames" in schema and (words := ", ".join(_limits(schema["propertyNames"]))):
        yield f"keys: {words}"


def _count(least: int | None, most: int | None, thing: str) -> Iterator[str]:
    things = "entries" if thing == "entry" else f"{thing}s"
    if least is not None and least == most:
        yield f"exactly {least} {things}"
    elif least and most is not None:
        yield f"{least} to {_number(most)} {things}"
    elif least:
        yield f"at least {least} {thing if least == 1 else things}"
    elif most is not None:
        yield f"at most {_number(most)} {things}"


def _number(value: float) -> str:
    """A number as people read it: 1,000,000 and 0.5, and a power of two beyond them."""
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    whole = int(value)
    if whole >= 1 << 40:
        for shift, words in ((0, ""), (1, " - 1")):
            if (whole + shift) & (whole + shift - 1) == 0:
                return f"2^{(whole + shift).bit_length() - 1}{words}"
    return f"{whole:,}"


def default_of(schema: Schema) -> str:
    """The default as JSON in code; empty for one that is missing."""
    if "default" not in schema:
        return ""
    return code(json.dumps(schema["default"], ensure_ascii=False))
