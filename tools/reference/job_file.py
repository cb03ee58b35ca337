"""docs/reference/job-file.md: every key of a job, from the JSON schema of `JobSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.model.spec import JobSpec
from jobs.model.workspace import Workspace, WorkspaceSource
from tools.reference.markdown import code, document, table
from tools.reference.schema import Schema, default_of, limits_of, resolve, type_of


def key_paths() -> list[str]:
    """Every key of a job with its path, such as `train.model.d_model`."""
    return [path for path, _, _ in _keys()]


def _schema() -> dict[str, Any]:
    """The schema of a job, whose workspace is one in a job file, or one that was sent before."""
    schema = JobSpec.model_json_schema()
    source = WorkspaceSource.model_json_schema()
    sent = schema["$defs"][Workspace.__name__]
    sent["properties"] = source["properties"] | sent["properties"]
    sent["required"] = []
    return schema


def _keys() -> Iterator[tuple[str, Schema, bool]]:
    """Path, schema and whether it is required, sections before what is in them."""
    root = _schema()
    yield from _walk(root, root.get("$defs", {}), "")


def _walk(
    schema: Schema, definitions: Mapping[str, Schema], prefix: str
) -> Iterator[tuple[str, Schema, bool]]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}", field, name in required
        yield from _walk(_inside(field, definitions), definitions, f"{prefix}{name}.")


def _inside(field: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema of a section, also of each one in a list of sections; else of the field."""
    schema = resolve(field, definitions)
    entry = resolve(schema["items"], definitions) if "items" in schema else schema
    return entry if "properties" in entry else schema


def block() -> str:
    """What the page says below its introduction."""
    definitions: Mapping[str, Schema] = _schema().get("$defs", {})
    sections: dict[str, list[list[str]]] = {"": []}
    about: dict[str, str] = {}
    for path, field, required in _keys():
        inner = _inside(field, definitions)
        if "properties" in inner:
            sections[path] = []
            about[path] = field.get("description") or inner.get("description", "")
        sections[path.rpartition(".")[0]].append(_row(path, field, inner, required, definitions))
    head = ["key", "type", "default", "what it sets"]
    parts = [
        (f"## Keys of `{name}`\n\n{about[name]}\n\n" if name else "## Keys of a job\n\n")
        + table(head, rows)
        for name, rows in sections.items()
    ]
    return document(_contents(sections), *parts)


def _contents(sections: Mapping[str, list[list[str]]]) -> str:
    lines = []
    for name in sections:
        keys = [path for path in key_paths() if path.rpartition(".")[0] == name]
        links = ", ".join(f"[{path.rpartition('.')[2]}](#{path})" for path in keys)
        lines.append(f"- {code(name) if name else 'a job'}: {links}")
    return "All keys:\n\n" + "\n".join(lines)


def _row(
    path: str, field: Schema, inner: Schema, required: bool, definitions: Mapping[str, Schema]
) -> list[str]:
    is_section = "properties" in inner
    kind = type_of(field, definitions)
    limits = "" if is_section else limits_of(field)
    is_one = is_section and "items" not in resolve(field, definitions)
    default = "required" if required else "see below" if is_one else default_of(field)
    if is_section and field.get("default", ...) is None:
        default = "`null`"
    about = field.get("description") or inner.get("description", "")
    key = f'<a id="{path}"></a>{code(path)}'
    link = f"[section](#keys-of-{path.replace('.', '')})"
    return [
        key,
        "; ".join(filter(None, [kind.replace("section", link), limits])),
        default or _empty(resolve(field, definitions)),
        about,
    ]


def _empty(schema: Schema) -> str:
    """The default of a list or mapping that a factory makes."""
    return {"array": "`[]`", "object": "`{}`"}.get(str(schema.get("type")), "")
