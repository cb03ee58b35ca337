"""The curves of a run, made of what its attempts and its sources say.

A step may be made again: by an attempt that resumed from before it, or because a better source
tells of it. Then what is said last counts, as when the library rewinds its metrics: the values of
that curve from there on are removed first. The files that they came from still have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.json_values import jsonable
from monitoring.metrics.rows import RESERVED, decode
from worker.files.logs.row_file import RowFile
from worker.progress.points import Point

_MOST_CURVES = 1024
_LONGEST_NAME = 256
_MOST_BYTES = 64 << 20  # then every second row of each kind goes


class RunCurves:
    """Adds points to the rows of a run; its methods raise `OSError`."""

    def __init__(self, file: RowFile, most_bytes: int = _MOST_BYTES) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._last: dict[str, int] = {}  # the latest step of each curve
        self._ranks: dict[str, int] = {}  # of the source that a curve comes from in this attempt
        self._begun = False

    @property
    def is_ready(self) -> bool:
        """Whether the rows of earlier attempts are here."""
        return self._file.is_ready

    def add(self, points: Sequence[Point], rank: int) -> None:
        """Adds the points of a source; a curve comes from the source of the lowest `rank`."""
        if not self._begun:
            for row in _rows(self._file.read()):
                self._note(row)
            self._begun = True
        last, ranks = dict(self._last), dict(self._ranks)
        rows: list[bytes] = []
        again: dict[str, int] = {}
        for point in points:
            values = self._counting(point, rank, again)
            if values:
                rows.append(_line(point.step, point.at, values))
        try:
            if again:
                self._file.replace(_without(self._file.read(), again))
            if rows:
                self._file.append(b"".join(rows))
        except OSError:
            self._last, self._ranks = last, ranks
            raise
        if self._file.size > self._most_bytes:
            self._file.replace(_thinned(self._file.read()))

    def _counting(self, point: Point, rank: int, again: dict[str, int]) -> dict[str, float]:
        """The values of a point that count; `again` gets the first step of each curve remade."""
        values = {}
        for name, value in point.values.items():
            known, owner = self._last.get(name, -1), self._ranks.get(name)
            if not self._is_curve(name):
                continue
            if point.restored:
                if owner is not None or point.step <= known:
                    continue
            elif owner is not None and owner < rank:
                continue
            else:
                if owner != rank and point.step <= known:
                    again[name] = point.step
                self._ranks[name] = rank
            values[name] = value
            self._last[name] = max(known, point.step)
        return values

    def _is_curve(self, name: str) -> bool:
        if name in RESERVED or len(name) > _LONGEST_NAME:
            return False
        return name in self._last or len(self._last) < _MOST_CURVES

    def _note(self, row: Mapping[str, Any]) -> None:
        for name in row:
            if name not in RESERVED:
                self._last[name] = max(row["step"], self._last.get(name, -1))


def _line(step: int, at: float, values: Mapping[str, float]) -> bytes:
    row = {"step": step, "timestamp": round(at, 3), **values}
    return json.dumps(jsonable(row)).encode() + b"\n"


def _rows(data: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in data.splitlines():
        try:
            rows.append(decode(line))
        except ValueError:  # written by a machine that failed
            continue
    return rows


def _without(data: bytes, again: Mapping[str, int]) -> bytes:
    """The rows without the values of curves from a step on, by their names."""
    kept = []
    for row in _rows(data):
        values = {
            name: value
            for name, value in row.items()
            if name not in RESERVED and not (name in again and row["step"] >= again[name])
        }
        if values:
            kept.append(_line(row["step"], row["timestamp"], values))
    return b"".join(kept)


def _thinned(data: bytes) -> bytes:
    """Every second row, of those that have the same curves."""
    seen: dict[tuple[str, ...], int] = {}
    kept = []
    for row in _rows(data):
        names = tuple(name for name in row if name not in RESERVED)
        seen[names] = seen.get(names, 0) + 1
        if seen[names] % 2:
            kept.append(_line(row["step"], row["timestamp"], {n: row[n] for n in names}))
    return b"".join(kept)
