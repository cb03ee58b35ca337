"""The curves in Lightning's `metrics.csv`, or in any file of that name with a column `step`."""

from __future__ import annotations

import contextlib
import csv
import json
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.model.record import StepSource
from monitoring.files import open_file
from worker.files.look import Seen, folder_of
from worker.progress.points import Curves, Pace, Point, whole

NAME = "metrics.csv"
_BLOCK = 128 << 10  # read at once
_LONGEST_LINE = 64 << 10
_STEP = "step"
# What tells of a row, not of the training.
_NO_CURVES = {_STEP, "epoch", ""}


def _checksums() -> array[int]:
    return array("L")


@dataclass
class _File:
    """A file, the bytes of it that are read and that were restored, and a checksum of each row.

    `before` are those of the file that it replaces, as long as its rows are the same.
    """

    inode: int
    columns: list[str]
    offset: int
    restored: int = 0
    rows: array[int] = field(default_factory=_checksums)
    before: array[int] = field(default_factory=_checksums)


class MetricsCsv:
    """Reads `metrics.csv` as it grows, and again when it is rewritten.

    Lightning rewrites the file when there is a new metric: the rows are those from before, with
    another column. A later attempt may remove it and begin a new one.
    """

    name: StepSource = "metrics_csv"
    total: int | None = None

    def __init__(self) -> None:
        self.pace = Pace()
        self.step: int | None = None
        self.values: dict[str, float] = {}
        self._files: dict[str, _File] = {}
        self._curves, self._restored_curves = Curves(), Curves()

    @staticmethod
    def takes(path: str) -> bool:
        """Whether a path is one of this source."""
        return path.rpartition("/")[2] == NAME

    def read(
        self, path: str, file: Path, seen: Seen, restored: Seen | None
    ) -> tuple[list[Point], bool]:
        """The points that follow in a file, and whether there are more. Raises `OSError`."""
        with open_file(file) as opened:
            header = opened.readline(_LONGEST_LINE)
            columns = _cells(header)
            if not header.endswith(b"\n") or _STEP not in columns:
                return [], False
            known = self._file(path, columns, len(header), seen, restored)
            opened.seek(known.offset)
            lines = opened.read(_BLOCK).splitlines(keepends=True)
        whole_lines = [line for line in lines if line.endswith(b"\n")]
        points = [self._take(folder_of(path), known, line, seen) for line in whole_lines]
        return [point for point in points if point], bool(points) and known.offset < seen.size

    def _file(
        self, path: str, columns: list[str], begin: int, seen: Seen, restored: Seen | None
    ) -> _File:
        """The file as far as it is known; one that was rewritten is read from its beginning."""
        before = self._files.get(path)
        if (
            before is not None
            and (before.inode, before.columns) == (seen.inode, columns)
            and seen.size >= before.offset
        ):
            return before
        new = self._files[path] = _File(seen.inode, columns, begin)
        if before is not None:
            new.before = before.rows
        elif restored and restored.inode == seen.inode and restored.size <= seen.size:
            new.restored = restored.size
        return new

    def _take(self, folder: str, known: _File, line: bytes, seen: Seen) -> Point | None:
        """The point of a row; None if it has none, or it was read before."""
        known.offset += len(line)
        cells = {n: cell for n, cell in zip(known.columns, _cells(line), strict=False) if cell}
        row = len(known.rows)
        known.rows.append(zlib.crc32(json.dumps(cells, sort_keys=True).encode()))
        is_known = row < len(known.before) and known.before[row] == known.rows[row]
        if not is_known:
            known.before = _checksums()
        step, values = whole(_number(cells.get(_STEP, ""))), _numbers(cells)
        if is_known or step is None or not values:
            return None
        at = seen.modified_ns / 1e9
        if known.offset <= known.restored:
            names = self._restored_curves.named(folder, values)
            # Each attempt may have had a folder of its own.
            values = {name: value for name, value in values.items() if names[name] == name}
            return Point(step, values, at, restored=True) if values else None
        names = self._curves.named(folder, values)
        values = {names[name]: value for name, value in values.items()}
        self.values |= values
        self.step = step
        self.pace.note(step, at)
        return Point(step, values, at)


def _cells(line: bytes) -> list[str]:
    with contextlib.suppress(csv.Error):
        return next(csv.reader([line.decode(errors="replace")]), [])
    return []


def _numbers(cells: Mapping[str, str]) -> dict[str, float]:
    numbers = {name: _number(cell) for name, cell in cells.items() if name not in _NO_CURVES}
    return {name: number for name, number in numbers.items() if number is not None}


def _number(cell: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(cell)
    return None
