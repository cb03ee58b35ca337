"""A metric as a bounded number of buckets, each of the same number of rows.

Rows are added in the order of the file. While there are few, each is a bucket of its own. Beyond a
limit, neighbors are merged in pairs. So memory does not grow with the file, and neither does the
time of an answer, which merges neighbors again until there are few enough. All of it runs over
whole columns at a time: `map(min, …)` over two slices costs a tenth of a loop.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from operator import add, le
from typing import Any

Column = Sequence[Any]


@dataclass(frozen=True)
class Axis:
    """Where rows lie; NaN: not known. `ascends` if each is known and none is below the last."""

    places: Column
    ascends: bool

    @classmethod
    def of(cls, places: Column) -> Axis:
        """The axis of these places."""
        return cls(places, all(map(le, places, islice(places, 1, None))) and _is_known(places))

    def chosen(self, has: Sequence[bool]) -> Axis:
        """The places of some of the rows."""
        return Axis(list(compress(self.places, has)), self.ascends)

    def span(self, start: int = 0, end: int | None = None) -> tuple[float, float]:
        """The smallest and the largest known place of some rows; inf and -inf if there is none."""
        some = self.places[start:end]
        if self.ascends and some:
            return some[0], some[-1]
        known = [place for place in some if not math.isnan(place)]
        return min(known, default=math.inf), max(known, default=-math.inf)


def _is_known(places: Column) -> bool:
    return not places or not math.isnan(places[0])


@dataclass(frozen=True)
class Batch:
    """Consecutive values of a metric, and where they lie on each axis."""

    values: Sequence[float]
    axes: Sequence[Axis]


@dataclass(frozen=True)
class Curve:
    """Buckets in the order of the file.

    `x` is the largest of a bucket, `last` its last value, `low` and `high` the smallest and the
    largest finite one (`low` > `high`: there is none), `bad` the number of values not finite.
    """

    x: Column
    low: Column
    high: Column
    last: Column
    bad: Column


class Buckets:
    """The buckets of one metric; `codes` are the array types of the axes."""

    def __init__(self, codes: Sequence[str]) -> None:
        self.count = 0  # values
        self._size = 1  # values of each bucket, except that the last one may have fewer
        # The smallest and the largest of each bucket on each axis.
        self._from: list[array[Any]] = [array(code) for code in codes]
        self._to: list[array[Any]] = [array(code) for code in codes]
        self._low, self._high, self._last = array("d"), array("d"), array("d")
        self._bad = array("L")

    def __len__(self) -> int:
        return len(self._last)

    @property
    def is_merged(self) -> bool:
        """Whether a bucket has several rows."""
        return self._size > 1

    @property
    def size_bytes(self) -> int:
        """The memory of the buckets."""
        return sum(len(column) * column.itemsize for column, _ in self._columns())

    def add(self, batch: Batch, most: int) -> None:
        """Adds rows, and merges neighbors until there are at most `most` buckets."""
        count = len(batch.values)
        open_rows = self.count % self._size
        begin = min(self._size - open_rows, count) if open_rows else 0
        if begin:
            self._extend(batch, 0, begin)
            self._join_last()
        if begin < count:
            self._extend(batch, begin, count)
        self.count += count
        while len(self) > most:
            self._halve()

    def add_axis(self, code: str) -> None:
        """Adds an axis on which the place of all rows so far is not known."""
        self._from.append(array(code, [math.inf]) * len(self))
        self._to.append(array(code, [-math.inf]) * len(self))

    def curve(
        self, points: int, axis: int, low: float | None = None, high: float | None = None
    ) -> Curve:
        """At most `points` buckets, of those that have rows between `low` and `high` on an axis."""
        columns: list[array[Any]] = [
            self._to[axis], self._low, self._high, self._last, self._bad
        ]  # fmt: skip
        chosen = self._chosen(axis, low, high)
        if chosen is not None:
            columns = [array(column.typecode, compress(column, chosen)) for column in columns]
        x, lows, highs, last, bad = columns
        together = max(1, math.ceil(len(x) / points))
        return Curve(
            merged(x, max, together),
            merged(lows, min, together),
            merged(highs, max, together),
            merged(last, None, together),
            merged(bad, sum, together) if any(bad) else [0] * math.ceil(len(x) / together),
        )

    def count_between(self, axis: int, low: float | None, high: float | None) -> int:
        """The number of buckets that have rows between `low` and `high` on an axis."""
        chosen = self._chosen(axis, low, high)
        return len(self) if chosen is None else sum(chosen)

    def _chosen(self, axis: int, low: float | None, high: float | None) -> list[bool] | None:
        """For each bucket whether it lies in a range; None if all do."""
        starts, ends = self._from[axis], self._to[axis]
        if low is None and high is None and (not starts or starts[0] <= ends[0]):
            return None
        least, most = -math.inf if low is None else low, math.inf if high is None else high
        return [s <= e and e >= least and s <= most for s, e in zip(starts, ends, strict=True)]

    def _columns(self) -> Iterator[tuple[array[Any], Callable[..., Any]]]:
        """Each column, with what makes one of two neighbors."""
        for column in (*self._from, self._low):
            yield column, min
        for column in (*self._to, self._high):
            yield column, max
        yield self._last, _second
        yield self._bad, add

    def _extend(self, batch: Batch, start: int, end: int) -> None:
        """Adds buckets for the rows from `start` to `end`; the last of them may stay open."""
        size = self._size
        begins = range(start, end, size)
        for lows, highs, axis in zip(self._from, self._to, batch.axes, strict=True):
            if axis.ascends:
                lows.extend(axis.places[start:end:size])
                highs.extend(_ends(axis.places, start, end, size))
            else:
                for i in begins:
                    low, high = axis.span(i, min(i + size, end))
                    lows.append(low)
                    highs.append(high)
        values = batch.values[start:end]
        self._last.extend(_ends(values, 0, len(values), size))
        if not math.isfinite(sum(values)):
            for i in range(0, len(values), size):
                finite = [value for value in values[i : i + size] if math.isfinite(value)]
                self._low.append(min(finite, default=math.inf))
                self._high.append(max(finite, default=-math.inf))
                self._bad.append(len(values[i : i + size]) - len(finite))
            return
        self._bad.extend([0] * len(begins))
        if size == 1:
            self._low.extend(values)
            self._high.extend(values)
        else:
            parts = [values[i : i + size] for i in range(0, len(values), size)]
            self._low.extend(map(min, parts))
            self._high.extend(map(max, parts))

    def _join_last(self) -> None:
        """Merges the last two buckets."""
        for column, join in self._columns():
            newer = column.pop()
            column[-1] = join(column[-1], newer)

    def _halve(self) -> None:
        for column, join in self._columns():
            pairs = array(column.typecode, map(join, column[::2], column[1::2]))
            if len(column) % 2:
                pairs.append(column[-1])
            column[:] = pairs
        self._size *= 2


def _ends(column: Column, start: int, end: int, size: int) -> Column:
    """The last of each `size` values from `start` to `end`; the last group may have fewer."""
    found = column[start + size - 1 : end : size]
    return [*found, column[end - 1]] if (end - start) % size else found


def merged(column: Column, join: Callable[..., Any] | None, together: int) -> list[Any]:
    """One value for each `together` neighbors, the last of them for no `join`."""
    if together == 1:
        return list(column)
    whole = len(column) - len(column) % together
    if join is None:
        values = list(column[together - 1 : whole : together])
        return values + [column[-1]] * (whole < len(column))
    if join is sum:
        return [sum(column[i : i + together]) for i in range(0, len(column), together)]
    values = list(map(join, *(column[i:whole:together] for i in range(together))))
    return values + ([join(column[whole:])] if whole < len(column) else [])


def _second(_: Any, newer: Any) -> Any:
    return newer
