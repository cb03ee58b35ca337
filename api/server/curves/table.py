"""Lines of metrics as columns: the numbers of each metric, and where they lie on each axis."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress
from typing import Any

import orjson

from api.server.curves.buckets import Axis, Batch
from monitoring.json_values import restored
from monitoring.metrics.rows import RESERVED, real
from monitoring.storage.base import is_text

_STEPS = 1 << 63
_LONGEST_NAME = 200
_PART = re.compile(r"[./]")
_NUMBERS = frozenset({float, int})
_FLOATS = frozenset({float})

# The axes, and how they are kept: steps are whole numbers of up to 64 bits.
STEP, TIME, TOKENS = 0, 1, 2
CODES = ("q", "d", "d")
# Metrics that count the tokens seen so far, by whoever writes them.
TOKEN_METRICS = (
    "tokens_seen", "num_input_tokens_seen", "consumed_tokens", "total_tokens", "tokens",
)  # fmt: skip

Row = dict[str, Any]
# As a table of samples names the columns that place its rows.
_PLACES = {"time": "timestamp", "step": "step"}


@dataclass(frozen=True)
class Known:
    """What is known before a row: a row that does not say it lies where the one before it does.

    `start`: timestamp of the first row that has one. `time`: seconds since then. `columns`: those
    of a table with a head.
    """

    start: float = math.nan
    time: float = math.nan
    tokens: float = math.nan
    token_metric: str | None = None
    columns: tuple[str, ...] = ()


# Lines as rows, and what is known after them.
RowsOf = Callable[[Sequence[bytes], Known], tuple[list[Row], Known]]


@dataclass(frozen=True)
class Table:
    """Rows as columns, and what is known after them."""

    count: int
    axes: Sequence[Axis]
    metrics: dict[str, Batch]
    known: Known


def table_of(
    lines: Sequence[bytes], known: Known, wanted: Collection[str] | None, rows_of: RowsOf
) -> Table:
    """The numbers of lines, of all metrics or those `wanted`; no row, no number: left out."""
    rows, known = rows_of(lines, known)
    shapes = list(dict.fromkeys(map(tuple, rows)))
    places: list[Sequence[Any]] = [[row["step"] for row in rows]]
    times, known = _times(rows, known)
    places.append(times)
    tokens, known = _tokens(rows, shapes, known)
    if tokens is not None:
        places.append(tokens)
    axes = [Axis.of(column) for column in places]
    metrics: dict[str, Batch] = {}
    for name in _names(shapes):
        if (wanted is None or name in wanted) and _is_name(name):
            if all(name in shape for shape in shapes):
                batch = _batch([row[name] for row in rows], axes)
            else:
                batch = _sparse(name, rows, axes)
            if batch.values:
                metrics[name] = batch
    return Table(len(rows), axes, metrics, known)


def rows_of(lines: Sequence[bytes]) -> Iterator[Row]:
    """The rows in lines, their numbers and texts as they are written there."""
    try:
        found = list(map(orjson.loads, lines))
    except ValueError:
        found = list(map(_decoded, lines))
    for row in found:
        if type(row) is dict:
            step = row.get("step")
            if type(step) is int and -_STEPS < step < _STEPS:
                yield row


def json_rows(lines: Sequence[bytes], known: Known) -> tuple[list[Row], Known]:
    """The rows of a file with a JSON object on each line."""
    return list(rows_of(lines)), known


def csv_rows(lines: Sequence[bytes], known: Known) -> tuple[list[Row], Known]:
    """The rows of a table of numbers as `worker.usage.sampler` writes it, its head the first line.

    A value that is empty is not known: its row has no such column.
    """
    columns, rows = known.columns, []
    for line in lines:
        values = line.decode(errors="replace").split(",")
        if values[0] == "time":
            columns = tuple(_PLACES.get(name, name) for name in values)
        elif len(values) == len(columns):
            pairs = zip(columns, values, strict=True)
            with contextlib.suppress(ValueError):
                row: Row = {name: float(value) for name, value in pairs if value}
                rows.append({**row, "step": int(row.get("step", 0))})
    return rows, replace(known, columns=columns)


def _decoded(line: bytes) -> Any:
    """A line as either parser takes it; None if neither does.

    orjson takes no NaN, no lone surrogate and no number beyond a float.
    """
    try:
        return orjson.loads(line)
    except ValueError:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None


def _times(rows: Sequence[Row], known: Known) -> tuple[Sequence[float], Known]:
    stamps: list[Any] = [row.get("timestamp") for row in rows]
    start = known.start
    if not _FLOATS.issuperset(map(type, stamps)) or not math.isfinite(sum(stamps)):
        stamps = [_finite(stamp) for stamp in stamps]
    if math.isnan(start):
        start = next((stamp for stamp in stamps if stamp is not None), math.nan)
    times = [math.nan if stamp is None else stamp - start for stamp in stamps]
    carried = _carried(times, known.time)
    last = carried[-1] if carried else known.time
    return carried, replace(known, start=start, time=last)


def _tokens(
    rows: Sequence[Row], shapes: Sequence[tuple[str, ...]], known: Known
) -> tuple[Sequence[float] | None, Known]:
    name = known.token_metric
    if name is None:
        there = {one for one in TOKEN_METRICS if any(one in shape for shape in shapes)}
        name = next((one for one in TOKEN_METRICS if one in there and _is_known(one, rows)), None)
        if name is None:
            return None, known
    found = [_finite(row.get(name)) for row in rows]
    carried = _carried([math.nan if n is None else n for n in found], known.tokens)
    last = carried[-1] if carried else known.tokens
    return carried, replace(known, tokens=last, token_metric=name)


def _is_known(name: str, rows: Sequence[Row]) -> bool:
    return any(_finite(row.get(name)) is not None for row in rows)


def number(value: Any) -> float | None:
    """The number that a value of a row is, or the text of it stands for; else None."""
    if type(value) is str:
        value = restored(value)
    return real(value) if type(value) in _NUMBERS else None


def _finite(value: Any) -> float | None:
    if type(value) not in _NUMBERS:
        return None
    number = real(value)
    return number if math.isfinite(number) else None


def _carried(values: Sequence[float], before: float) -> Sequence[float]:
    """The values, each NaN replaced by the one before it."""
    if not math.isnan(sum(values)):
        return values
    return list(accumulate(values, lambda a, b: a if math.isnan(b) else b, initial=before))[1:]


def _names(shapes: Sequence[tuple[str, ...]]) -> list[str]:
    """The metrics of rows of several shapes, as they appear; those of fewer parts first.

    So where there are more than an index holds, it leaves out `layers.7.norm`, and not `loss`.
    """
    found = dict.fromkeys(name for shape in shapes for name in shape if name not in RESERVED)
    return sorted(found, key=lambda name: len(_PART.findall(name)))


def _sparse(name: str, rows: Sequence[Row], axes: Sequence[Axis]) -> Batch:
    """The column of a metric that not all rows have."""
    has = [name in row for row in rows]
    column = [row[name] for row in rows if name in row]
    return _batch(column, [axis.chosen(has) for axis in axes])


def _batch(column: Sequence[Any], axes: Sequence[Axis]) -> Batch:
    """The numbers of a column."""
    kinds = set(map(type, column))
    if kinds == _FLOATS:
        return Batch(column, axes)
    if not kinds <= _NUMBERS:
        column = [restored(value) if type(value) is str else value for value in column]
        is_number = [type(value) in _NUMBERS for value in column]
        if not all(is_number):
            column = list(compress(column, is_number))
            axes = [axis.chosen(is_number) for axis in axes]
    return Batch(list(map(real, column)), axes)


def _is_name(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and is_text(name)
