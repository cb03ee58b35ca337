"""What differs between several jobs, and what each has come to, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from api.render.differences import as_text
from api.render.tables import number, table_of
from api.schemas import Comparison
from api.schemas.curves import Result

_HASH = 12  # characters that tell one from another


def comparison(found: Comparison) -> RenderableType:
    """A column for each job: results, and what differs in specification, code and environment."""
    ids = found.jobs
    code = {
        name: [None if one is None else str(one)[:_HASH] for one in values]
        for name in ("workspace", "commit", "patch")
        if (values := getattr(found.code, name)) is not None
    }
    parts = [
        *_results(found.results, ids),
        *_table("specification", found.specification, ids, as_text),
        *_table("code", code, ids, as_text),
        *_table("environment", found.environment, ids, as_text),
        *_curves(found, ids),
    ]
    return Group(*parts)


def _results(
    results: Mapping[str, Sequence[Result | None]], ids: Sequence[str]
) -> Iterator[RenderableType]:
    rows: dict[str, list[float | None]] = {}
    for name, values in results.items():
        for kind in ("best", "min", "last"):
            row = [None if one is None else getattr(one, kind) for one in values]
            # What is best of a loss is its smallest value: once is enough.
            if any(value is not None for value in row) and row not in (
                rows.get(f"{name} best"), rows.get(f"{name} min")
            ):  # fmt: skip
                rows[f"{name} {kind}"] = row
    yield from _table("results", rows, ids, number)


def _table(
    title: str, rows: Mapping[str, Sequence[Any]], ids: Sequence[str], show: Callable[[Any], str]
) -> Iterator[RenderableType]:
    if not rows:
        return
    yield Text(title, style="bold")
    table = table_of("", *ids)
    for name, values in rows.items():
        table.add_row(name, *map(show, values))
    yield table
    yield Text()


def _curves(found: Comparison, ids: Sequence[str]) -> Iterator[RenderableType]:
    names = dict.fromkeys(name for curves in found.curves.values() for name in curves)
    rows = {name: [_step(found.curves.get(one, {}), name) for one in ids[1:]] for name in names}
    yield from _table(f"first step that differs from {ids[0]}", rows, ids[1:], str)


def _step(curves: Mapping[str, int | None], name: str) -> str:
    if name not in curves:
        return ""
    step = curves[name]
    return "none" if step is None else str(step)
