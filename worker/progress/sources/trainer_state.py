"""The curves and the steps in `trainer_state.json`, which Hugging Face's Trainer saves."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.model.record import StepSource
from monitoring.files import open_file
from worker.files.look import Seen
from worker.progress.points import Pace, Point, whole

NAME = "trainer_state.json"
_MOST_BYTES = 64 << 20
_STEP = "step"
_NO_CURVES = {_STEP, "epoch", "total_flos"}


class TrainerState:
    """Reads the state that lies in each checkpoint: all that was logged up to it.

    A new one repeats what those before it have. If it differs from some row on, the training has
    gone back there, and its rows count.
    """

    name: StepSource = "trainer_state"

    def __init__(self) -> None:
        self.pace = Pace()
        self.step: int | None = None
        self.total: int | None = None
        self.values: dict[str, float] = {}
        self._known: list[int] = []  # a checksum of each row that was read
        self._read: dict[str, Seen] = {}

    @staticmethod
    def takes(path: str) -> bool:
        """Whether a path is one of this source."""
        return path.rpartition("/")[2] == NAME

    def read(
        self, path: str, file: Path, seen: Seen, restored: Seen | None
    ) -> tuple[list[Point], bool]:
        """The points that a file adds to those that were read. Raises `OSError`."""
        if seen.size > _MOST_BYTES or self._read.get(path) == seen:
            return [], False
        with open_file(file) as opened:
            state = _parsed(opened.read())
        if state is None:  # it is being written
            return [], False
        self._read[path] = seen
        is_old = restored is not None and restored == seen
        log = state.get("log_history")
        rows = [row for row in log if isinstance(row, dict)] if isinstance(log, list) else []
        points = [self._point(row, seen, is_old) for row in self._new(rows)]
        step = whole(_number(state.get("global_step")))
        if not is_old and step is not None:
            self.step, self.total = step, whole(_number(state.get("max_steps"))) or None
            self.pace.note(step, seen.modified_ns / 1e9)
        return [point for point in points if point], False

    def _new(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows behind those that were read before; none of an older state."""
        sums = [zlib.crc32(json.dumps(row, sort_keys=True).encode()) for row in rows]
        alike = next(
            (n for n, (a, b) in enumerate(zip(sums, self._known, strict=False)) if a != b),
            min(len(sums), len(self._known)),
        )
        if alike == len(sums):
            return []
        self._known = sums
        return rows[alike:]

    def _point(self, row: Mapping[str, Any], seen: Seen, is_old: bool) -> Point | None:
        step = whole(_number(row.get(_STEP)))
        named = {name: _number(value) for name, value in row.items() if name not in _NO_CURVES}
        values = {name: value for name, value in named.items() if value is not None}
        if step is None or not values:
            return None
        if not is_old:
            self.values |= values
        return Point(step, values, seen.modified_ns / 1e9, restored=is_old)


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        state = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if is_number else None  # type: ignore[arg-type]
    except OverflowError:
        return None
