"""Pages of a run's metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.paths import RunPaths
from monitoring.storage.base import Storage

_BLOCK = 1 << 20


def rows_after(storage: Storage, run: str, step: int, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows of steps after `step`, as they stand in the file."""
    rows: list[dict[str, Any]] = []
    for line in _lines(storage, RunPaths(Path(run)).metrics.as_posix()):
        row = _row(line)
        if row is not None and row["step"] > step:
            rows.append(row)
            if len(rows) == limit:
                break
    return rows


def _lines(storage: Storage, key: str) -> Iterator[bytes]:
    """The complete lines of a file that is being written; none where there is no file."""
    position, rest = 0, b""
    while storage.stat(key) is not None and (block := storage.read(key, position, _BLOCK)):
        position += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None for a line that is none, which a program of the user's may write."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
