"""Pages of a run's metrics.jsonl, or of what the service has read of a program without one.

A cursor is the place of the last row of a page: its offset in the file and its step. The next page
begins with one read at that offset, however long the file is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from api.schemas import MetricsPage, MetricsQuery
from api.server.runs.presentable import presentable
from monitoring.metrics.rows import decode
from monitoring.paths import RunPaths
from monitoring.storage.base import Storage

_BLOCK = 1 << 20
_STEPS = 1 << 63


@dataclass(frozen=True)
class _Row:
    offset: int
    values: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.values["step"])

    @property
    def cursor(self) -> str:
        return f"{self.offset}-{self.step}"


def page_of(storage: Storage, run: str, query: MetricsQuery) -> MetricsPage:
    """The rows behind `query.cursor`, and the cursor of the next page.

    An attempt that resumes cuts the file back to its checkpoint and writes other rows there. A
    cursor whose row has gone continues with the rows of later steps, found by a scan.
    """
    key, after = key_of(storage, run), query.after_step
    offset, step = map(int, query.cursor.split("-")) if query.cursor else (0, -1)
    rows = _rows(storage, key, offset)
    if query.cursor:
        last = next(rows, None)
        if last is None or last.cursor != query.cursor:
            after, rows = max(after, step), _rows(storage, key, 0)
    found = list(islice((row for row in rows if row.step > after), query.limit))
    asked = query.after_step if query.after_step >= 0 else None
    return MetricsPage(
        rows=[row.values for row in found],
        cursor=found[-1].cursor if found else query.cursor,
        after_step=found[-1].step if found else asked,
    )


def key_of(storage: Storage, run: str) -> str:
    """The key of the rows: those of the program itself, if it writes any."""
    paths = RunPaths(Path(run))
    own, read = paths.metrics.as_posix(), paths.read_metrics.as_posix()
    if storage.stat(read) is None or any(True for _ in _rows(storage, own, 0)):
        return own
    return read


def _rows(storage: Storage, key: str, offset: int) -> Iterator[_Row]:
    """The rows from an offset on; other lines, which a user's program may write, are left out.

    So is a row that is nested too deeply to be sent. A number that is not finite becomes one of the
    texts "NaN", "Infinity" and "-Infinity", also where the program wrote the bare word that JSON
    lacks.
    """
    for position, line in lines_of(storage, key, offset):
        try:
            values = decode(line)
            if abs(values["step"]) < _STEPS:
                yield _Row(position, presentable(values))
        except ValueError:
            continue


def lines_of(storage: Storage, key: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """The complete lines of a file with their offsets, as far as it goes now."""
    file = storage.stat(key)
    position, rest = offset, b""
    while file is not None and position < file.size:
        block = storage.read(key, position, _BLOCK)
        if not block:
            return
        start = position - len(rest)
        position += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield start, line
            start += len(line) + 1
