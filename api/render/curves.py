"""Curves in a terminal: a line of eight heights, and a plot of braille dots.

Our own, since a plot here has what the service knows of a curve: the smallest and the largest value
of each bucket, values that are no numbers, and where attempts began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from api.schemas import Series

_HEIGHTS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "x"
_BLANK = 0x2800
# The bit of each dot of a braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_COLOURS = ("cyan", "yellow", "magenta", "green", "red", "blue")
_NO_CURVE = "There is nothing to draw yet."
_NO_LOG = "Nothing is larger than 0, as a logarithmic scale needs."
_LABEL = 10  # characters of the values beside the axis


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The values as a line of at most `width` characters; x where one is no number."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _NOT_FINITE * min(len(values), width)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    groups = _groups(values, width)
    return "".join(_height(group, low, span) for group in groups)


def _groups(values: Sequence[float], count: int) -> Iterator[Sequence[float]]:
    """The values in at most `count` groups of neighbours."""
    count = min(count, len(values))
    for number in range(count):
        yield values[number * len(values) // count : (number + 1) * len(values) // count]


def _height(group: Sequence[float], low: float, span: float) -> str:
    finite = [value for value in group if math.isfinite(value)]
    if len(finite) < len(group):
        return _NOT_FINITE
    mean = sum(value / len(finite) for value in finite)
    return _HEIGHTS[min(int((mean - low) / span * len(_HEIGHTS)), len(_HEIGHTS) - 1)]


@dataclass(frozen=True)
class Axis:
    """A scale: how the values from `low` to `high` lie on `size` dots."""

    low: float
    high: float
    size: int
    is_log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], size: int, *, is_log: bool) -> Axis | None:
        """The scale that all of the values fit on; None without any that can be drawn."""
        drawn = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        return cls(min(drawn), max(drawn), size, is_log) if drawn else None

    def dot(self, value: float) -> int | None:
        """The dot of a value, 0 for the lowest; None for one that cannot be drawn."""
        if not math.isfinite(value) or (self.is_log and value <= 0):
            return None
        scale: Callable[[float], float] = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(value) - low) / (high - low) if high > low else 0.5
        return min(max(round(share * (self.size - 1)), 0), self.size - 1)

    def value(self, share: float) -> float:
        """The value at a share of the scale, 0 to 1."""
        if self.is_log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


class _Canvas:
    """Dots in braille characters, two across and four down in each."""

    def __init__(self, width: int, height: int) -> None:
        self._cells = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]
        self.dots = width * 2, height * 4

    def set(self, x: int, y: int, style: str) -> None:
        """Sets a dot; `y` counts from below."""
        row, column = (self.dots[1] - 1 - y) // 4, x // 2
        self._cells[row][column] |= _DOTS[(self.dots[1] - 1 - y) % 4][x % 2]
        self._styles[row][column] = style

    def rows(self) -> Iterator[Text]:
        """The rows, from above."""
        for cells, styles in zip(self._cells, self._styles, strict=True):
            row = Text(no_wrap=True)
            for cell, style in zip(cells, styles, strict=True):
                row.append(chr(_BLANK + cell) if cell else " ", style)
            yield row


def plot(
    curves: Sequence[tuple[str, Series]],
    *,
    width: int,
    height: int,
    x_name: str = "step",
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[float] = (),
) -> Text:
    """The curves over each other, in lines of at most `width`, with labels and a legend.

    The curves have `height` lines. Each is drawn from the smallest to the largest value of each
    bucket. Below the axis stands a mark at each x of `marks`. Without anything to draw it is a
    sentence.
    """
    canvas = _Canvas(max(width - _LABEL - 2 - len(x_name) - 2, 8), max(height, 3))
    across = Axis.over((x for _, one in curves for x in one.x), canvas.dots[0], is_log=log_x)
    values = (value for _, one in curves for value in (*one.min, *one.max))
    up = Axis.over(values, canvas.dots[1], is_log=log_y)
    if across is None or up is None:
        return Text(_NO_LOG if log_x or log_y else _NO_CURVE)
    for (_, one), style in zip(curves, _styles(len(curves)), strict=True):
        _draw(canvas, one, across, up, style)
    rows = list(canvas.rows())
    labelled = {0: 1.0, len(rows) // 2: 0.5, len(rows) - 1: 0.0}
    text = Text(no_wrap=True)
    for number, row in enumerate(rows):
        label = f"{up.value(labelled[number]):.4g}" if number in labelled else ""
        text.append(f"{label:>{_LABEL}} ┤").append_text(row).append("\n")
    text.append(" " * (_LABEL + 1) + "└" + "─" * len(rows[0]) + "\n")
    if places := {dot // 2 for mark in marks if (dot := across.dot(mark)) is not None}:
        line = "".join("▲" if column in places else " " for column in range(len(rows[0])))
        text.append(" " * (_LABEL + 2) + line.rstrip() + "\n")
    text.append(_labels_below(across, len(rows[0]), x_name))
    return text.append_text(_legend(curves, has_marks=bool(places), log_y=log_y))


def _draw(canvas: _Canvas, one: Series, across: Axis, up: Axis, style: str) -> None:
    """Draws a curve: what each bucket spans, and lines between its last values."""
    before: tuple[int, int] | None = None
    for x, low, high, last in zip(one.x, one.min, one.max, one.last, strict=True):
        column, bottom, top = across.dot(x), up.dot(low), up.dot(high)
        here = up.dot(last)
        if column is None or top is None:
            before = None
            continue
        for y in range(bottom if bottom is not None else 0, top + 1):
            canvas.set(column, y, style)
        if before is not None and here is not None:
            _line(canvas, before, (column, here), style)
        before = None if here is None else (column, here)


def _line(canvas: _Canvas, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for number in range(steps + 1):
        share = number / steps
        x = round(start[0] + share * (end[0] - start[0]))
        canvas.set(x, round(start[1] + share * (end[1] - start[1])), style)


def _labels_below(across: Axis, width: int, name: str) -> str:
    left, middle, right = (f"{across.value(share):.6g}" for share in (0.0, 0.5, 1.0))
    line = f"{left}{middle:^{max(width - len(left) - len(right), 0)}}{right}"
    return " " * (_LABEL + 2) + f"{line}  {name}\n"


def _legend(curves: Sequence[tuple[str, Series]], *, has_marks: bool, log_y: bool) -> Text:
    legend = Text(" " * (_LABEL + 2))
    for (name, one), style in zip(curves, _styles(len(curves)), strict=True):
        legend.append("━ ", style).append(name)
        if lost := sum(one.not_finite):
            legend.append(f" ({lost} not finite)", "red")
        elif log_y and any(value <= 0 for value in one.min if math.isfinite(value)):
            legend.append(" (values up to 0 are left out)", "red")
        legend.append("   ")
    if has_marks:
        legend.append("▲ an attempt began")
    return legend


def _styles(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
