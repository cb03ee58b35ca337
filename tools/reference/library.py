"""docs/reference/python-library.md: the public classes and functions, from their docstrings."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import api.client
import monitoring
from tools.reference.markdown import code, document, table

_CLIENT = """
The objects that the methods return (`JobView`, `Event`, `Artifact`, `Worker`, `Pool`) are the
[objects of the HTTP API](http-api.md#objects); `JobSpec` is [the job file](job-file.md).
"""
_HEADING = re.compile(r"^(Args|Arguments|Raises|Returns|Yields|Attributes):$")


def public() -> dict[str, Any]:
    """Every public class, function and module by its name: `monitoring.MetricsLogger`."""
    found = {f"monitoring.{name}": getattr(monitoring, name) for name in monitoring.__all__}
    for name, value in list(found.items()):
        if inspect.ismodule(value):
            del found[name]
            found[name] = value
    found |= {
        f"api.client.{name}": value
        for name, value in vars(api.client).items()
        if inspect.isclass(value) and value.__module__.startswith("api.client.")
    }
    return found


def block() -> str:
    """What the page says below its introduction."""
    found = public()
    index = table(
        ["name", "what it is"],
        ([f"[{code(name)}](#{name})", _first_line(value)] for name, value in found.items()),
    )
    library = {name: value for name, value in found.items() if name.startswith("monitoring.")}
    client = {name: value for name, value in found.items() if name not in library}
    results = {f"{one.__module__}.{one.__name__}": one for one in _results(library)}
    return document(
        index,
        "## `monitoring`: what a training script imports",
        *(part for item in library.items() for part in _entry(*item)),
        "## What these calls return",
        *(part for item in results.items() for part in _entry(*item)),
        "## `api.client`: a service from Python",
        _CLIENT,
        *(part for item in client.items() for part in _entry(*item)),
    )


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f'<a id="{name}"></a>\n\n### `{name}`'
    if inspect.ismodule(value):
        yield _doc(value)
        for member, one in _members(value):
            yield from _member(f"{name}.{member}", one)
        return
    yield f"```python signature\n{_signature(name, value)}\n```"
    yield _doc(value)
    if inspect.isclass(value) and not issubclass(value, Exception):
        for member, one in _members(value):
            yield from _member(f"{name}.{member}", one)


def _member(name: str, value: Any) -> Iterator[str]:
    short = name.rpartition(".")[2]
    yield f'<a id="{name}"></a>\n\n#### `{short}`'
    if isinstance(value, property):
        yield "Property. " + _doc(value.fget)
        return
    yield f"```python signature\n{_signature(short, value)}\n```"
    yield _doc(value)
    if inspect.isclass(value):
        for member, one in _members(value):
            yield from _member(f"{name}.{member}", one)


def _members(owner: Any) -> Iterator[tuple[str, Any]]:
    """The public functions, classes and properties that a class or module defines itself."""
    module = owner.__name__ if inspect.ismodule(owner) else owner.__module__
    for name, value in vars(owner).items():
        if name.startswith("_"):
            continue
        own = getattr(value, "__module__", None) == module
        if isinstance(value, property) or (own and (inspect.isfunction(value) or _is_class(value))):
            yield name, value


def _is_class(value: Any) -> bool:
    return inspect.isclass(value) and not value.__name__.startswith("_")


def _first_line(value: Any) -> str:
    return _doc(value).partition("\n\n")[0]


def _doc(value: Any) -> str:
    """The docstring as Markdown; raises ValueError for a public thing without one."""
    text = inspect.getdoc(value)
    if not text:
        raise ValueError(f"{value!r} is public and has no docstring")
    lines, listing = [], False
    for line in text.splitlines():
        if _HEADING.match(line):
            lines += [f"**{line}**", ""]
            listing = True
        elif listing and re.match(r"    \S", line):
            name, colon, about = line.strip().partition(": ")
            lines.append(f"- {code(name)}: {about}" if colon else f"- {line.strip()}")
        else:
            listing = listing and (not line or line.startswith(" "))
            lines.append(line.removeprefix("    ") if listing else line)
    return "\n".join(lines)


def _signature(name: str, value: Any) -> str:
    """The call as it is written: `save_checkpoint(step: int, …) -> Path | None`."""
    signature = inspect.signature(value)
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    written, seen_star = [], False
    for one in parameters:
        if one.kind is one.VAR_POSITIONAL:
            seen_star = True
        if one.kind is one.KEYWORD_ONLY and not seen_star:
            written.append("*")
            seen_star = True
        written.append(_parameter(one))
    result = signature.return_annotation
    arrow = "" if inspect.isclass(value) or result is signature.empty else f" -> {_plain(result)}"
    call = f"{name}({', '.join(written)}){arrow}"
    if len(call) <= 96:
        return call
    return f"{name}(\n" + "".join(f"    {one},\n" for one in written) + f"){arrow}"


def _parameter(one: inspect.Parameter) -> str:
    stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
    text = f"{stars}{one.name}"
    if one.annotation is not one.empty:
        text += f": {_plain(one.annotation)}"
    if one.default is not one.empty:
        text += f" = {'...' if callable(one.default) else repr(one.default)}"
    return text


def _plain(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _results(library: dict[str, Any]) -> list[type]:
    """The classes of the library that its calls return and that have no entry of their own."""
    known = set(library.values())
    found: dict[type, None] = {}
    calls = [call for one in library.values() for call in _calls(one)]
    for call in calls:
        names = re.findall(r"\w+", str(inspect.signature(call).return_annotation))
        module: ModuleType = sys.modules[call.__module__]
        for name in names:
            one = vars(module).get(name)
            if not inspect.isclass(one) or one in known or one.__name__.startswith("_"):
                continue
            if one.__module__.startswith("monitoring."):
                found[one] = None
    return list(found)


def _calls(value: Any) -> list[Any]:
    if inspect.isfunction(value):
        return [value]
    if inspect.isclass(value):
        return [one for _, one in _members(value) if inspect.isfunction(one)]
    return []
