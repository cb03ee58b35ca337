"""What differs between two jobs, as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from api.render.tables import table_of
from api.schemas import Difference, JobDiff

_NOTHING = "-"


def is_same(found: JobDiff) -> bool:
    """Whether nothing differs."""
    code = found.code
    return not (
        found.specification or found.environment or code.workspace or code.commit or code.patch
        or any(step is not None for step in found.curves.values())
    )  # fmt: skip


def differences(found: JobDiff, one: str, two: str) -> RenderableType:
    """The differences of two jobs, whose ids are given."""
    code = {
        name: value for name in ("workspace", "commit", "patch")
        if (value := getattr(found.code, name)) is not None
    }  # fmt: skip
    parts = [
        *_table("specification", found.specification, one, two),
        *_table("code", code, one, two),
        *_table("environment", found.environment, one, two),
        *_curves(found.curves),
    ]
    return Group(*parts)


def _table(
    title: str, found: Mapping[str, Difference], one: str, two: str
) -> Iterator[RenderableType]:
    if not found:
        return
    yield Text(title, style="bold")
    table = table_of("key", one, two)
    for name, value in found.items():
        table.add_row(name, Text(as_text(value.job), "red"), Text(as_text(value.other), "green"))
    yield table
    yield Text()


def _curves(curves: Mapping[str, int | None]) -> Iterator[RenderableType]:
    same = [name for name, step in curves.items() if step is None]
    differ = {name: step for name, step in curves.items() if step is not None}
    if differ:
        table = table_of("curve", "differs from step")
        for name, step in sorted(differ.items(), key=lambda item: item[1]):
            table.add_row(name, str(step))
        yield table
    if same:
        yield Text(f"the same at all steps that both have: {', '.join(same)}")
    if not curves:
        yield Text("they have no curve in common")


def as_text(value: Any) -> str:
    """A value of a specification, in one line."""
    if value is None:
        return _NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
