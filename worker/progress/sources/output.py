"""The curves in a program's output, found by the expressions of its job."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

from jobs.model.expressions import LOSS, Expression, Expressions
from jobs.model.record import StepSource
from machine.text import plain
from monitoring.files import open_file
from worker.progress.points import Pace, Point, whole

_BLOCK = 256 << 10  # read at once
# Of output that comes faster than it is read, only the newest block counts.
_MOST_BEHIND = 4 << 20
# Of a longer line the end is read, and what has no end for so long is no line.
_LONGEST_LINE = 8 << 10


class Output:
    """Reads a program's output, line by line, as it grows.

    What is found on a line belongs to the step on it, else to the step before.
    """

    name: StepSource = "output"

    def __init__(self, path: Path, expressions: Expressions) -> None:
        self._path = path
        self._expressions = expressions
        self._offset = 0
        self._rest = b""
        self.pace = Pace()
        self.step: int | None = None
        self.total = expressions.total if isinstance(expressions.total, int) else None
        self.values: dict[str, float] = {}
        self.diverged = False  # the loss was NaN or infinite

    def skip(self) -> None:
        """Leaves out what is there so far; raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            self._offset = self._path.stat().st_size

    def read(self) -> tuple[list[Point], bool]:
        """The points that follow, and whether there are more. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError), open_file(self._path) as file:
            size = file.seek(0, 2)
            if size < self._offset:  # it was cut, since nobody could keep up with it
                self._offset, self._rest = 0, b""
            if size - self._offset > _MOST_BEHIND:
                self._offset, self._rest = size - _BLOCK, b""
            file.seek(self._offset)
            data = file.read(_BLOCK)
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
            self._rest = self._rest[-_LONGEST_LINE:]
            return self._points(lines), self._offset < size
        return [], False

    def finish(self) -> list[Point]:
        """The points of a last line without an end."""
        rest, self._rest = self._rest, b""
        return self._points([rest])

    def _points(self, lines: list[bytes]) -> list[Point]:
        points: list[Point] = []
        values: dict[str, float] = {}
        now = time.time()
        for line in filter(None, map(_readable, lines)):
            step = whole(self._expressions.step.number(line))
            if step is not None and step != self.step:
                if values and self.step is not None:
                    points.append(Point(self.step, values, now))
                self.step, values = step, {}
                self.pace.note(step, now)
            if isinstance(self._expressions.total, Expression):
                self.total = whole(self._expressions.total.number(line)) or self.total
            for name, expression in self._expressions.values.items():
                if (value := expression.number(line)) is not None:
                    self.values[name] = value
                    self.diverged |= name == LOSS and not math.isfinite(value)
                    if self.step is not None:
                        values[name] = value
        if values and self.step is not None:
            points.append(Point(self.step, values, now))
        return points


def _readable(line: bytes) -> bytes:
    """The line as a terminal shows it; one that was cut off from the disk is empty."""
    line = line[-_LONGEST_LINE:].strip(b"\0")
    if line.isascii() and b"\x1b" not in line:
        return line
    return plain(line.decode(errors="replace")).encode()
