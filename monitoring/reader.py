"""Curves of a long run, brought down to what a screen can show, without losing a spike.

`metrics.jsonl` may have millions of rows, and `json` needs microseconds for each. But nearly all
rows of a run look alike: the same names in the same order, with other numbers between them. So
a block of lines is stripped of its numbers and compared with one such line, repeated; where
they agree, everything but the numbers is deleted and numpy reads them in one go. Lines that
look otherwise go through `json`.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitoring import rows
from monitoring.curves import Array
from monitoring.metrics import latest_step

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20  # bytes read at a time: what bounds the memory
_NUMERIC = b"0123456789.+-"
# Exponents are marked by E before names lose their letters, e among them.
_NUMBERS = bytes.maketrans(b"\n", b",")
_NOT_NUMBERS = bytes(set(range(256)) - set(_NUMERIC + b"E,\n"))


@dataclass(frozen=True)
class Series:
    """One metric: the smallest and the largest value of each bucket of steps, by step."""

    steps: list[int]
    values: list[float]


def read_curves(metrics_file: str | Path, points: int = 2000) -> dict[str, Series]:
    """Every numeric metric of a run in at most so many points.

    The steps are divided into `points / 2` buckets of equal width; of each, the smallest and
    the largest finite value are kept at their steps. Invalid lines are skipped with one warning
    that gives the first of them. Memory does not grow with the file. An absent file gives {}.
    """
    path = Path(metrics_file)
    first, last = _first_step(path), latest_step(path)
    if first is None or last is None:
        return {}
    collected: dict[str, _Extremes] = {}
    for names, table in _Table(path).blocks():
        steps = table[:, names.index("step")]
        for column, name in enumerate(names):
            if name not in rows.RESERVED:
                if name not in collected:
                    collected[name] = _Extremes(first, last, max(1, points // 2))
                collected[name].add(steps, table[:, column])
    return {name: extremes.series() for name, extremes in collected.items()}


class _Table:
    """The rows of a file as arrays: (names, (rows, names)), one block after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        self._invalid = 0

    def blocks(self) -> Iterator[tuple[tuple[str, ...], Array]]:
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK) + file.readline():
                yield from self._parse(block if block.endswith(b"\n") else block + b"\n")
        if self._invalid > 1:
            logger.warning("%s: %d lines are invalid in all", self._path, self._invalid)

    def _parse(self, block: bytes) -> Iterator[tuple[tuple[str, ...], Array]]:
        skeleton = block.translate(None, _NUMERIC)
        usual = skeleton[: skeleton.index(b"\n") + 1]
        count = len(skeleton) // len(usual)
        alike, others = block, []
        if skeleton != usual * count:
            lines, shapes = block.split(b"\n")[:-1], skeleton.split(b"\n")[:-1]
            count = len(lines)
            usual = Counter(shapes).most_common(1)[0][0]
            others = [(n, line) for n, line in enumerate(lines) if shapes[n] != usual]
            same = [line for n, line in enumerate(lines) if shapes[n] == usual]
            alike = b"\n".join([*same, b""])
        if (fast := _read_alike(alike)) is not None:
            yield fast
            yield from self._read_slowly(others)
        else:
            yield from self._read_slowly(enumerate(block.split(b"\n")[:-1]))
        self._line += count

    def _read_slowly(
        self, lines: Iterable[tuple[int, bytes]]
    ) -> Iterator[tuple[tuple[str, ...], Array]]:
        tables: dict[tuple[str, ...], list[list[float]]] = {}
        for number, line in lines:
            try:
                row = rows.decode(line)
            except ValueError as error:
                if not self._invalid:
                    where = self._line + number + 1
                    logger.warning(
                        "%s line %d is invalid and skipped: %s", self._path, where, error
                    )
                self._invalid += 1
                continue
            numeric = {name: value for name, value in row.items() if type(value) in (int, float)}
            tables.setdefault(tuple(numeric), []).append(list(numeric.values()))
        for names, table in tables.items():
            yield names, np.array(table, dtype=np.float64)


class _Extremes:
    """The smallest and the largest value in each bucket of steps, and where they are."""

    def __init__(self, first: int, last: int, buckets: int) -> None:
        self._first = first
        self._width = (last - first + 1) / buckets
        self._buckets = buckets
        # Row 0: the smallest values; row 1: the largest with the sign changed, also smallest.
        self._values = np.full((2, buckets), np.inf)
        self._steps = np.zeros((2, buckets))

    def add(self, steps: Array, values: Array) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            steps, values = steps[finite], values[finite]
        if not len(values):
            return
        bucket = ((steps - self._first) / self._width).astype(np.int64)
        bucket = np.clip(bucket, 0, self._buckets - 1)  # writers may be out of step with the end
        if (np.diff(bucket) < 0).any():
            order = np.argsort(bucket, kind="stable")
            steps, values, bucket = steps[order], values[order], bucket[order]
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        here = bucket[starts]
        lengths = np.diff(starts, append=len(bucket))
        for row, signed in enumerate((values, -values)):
            least = np.minimum.reduceat(signed, starts)
            hits = np.flatnonzero(signed == np.repeat(least, lengths))
            place = hits[np.searchsorted(hits, starts)]  # the first hit in each bucket
            better = least < self._values[row, here]
            self._values[row, here[better]] = least[better]
            self._steps[row, here[better]] = steps[place[better]]

    def series(self) -> Series:
        """The points by step, one where smallest and largest are the same row."""
        used = np.isfinite(self._values[0])
        lowest = zip(self._steps[0, used], self._values[0, used], strict=True)
        highest = zip(self._steps[1, used], -self._values[1, used], strict=True)
        points = sorted({(int(step), float(value)) for step, value in [*lowest, *highest]})
        return Series([step for step, _ in points], [value for _, value in points])


def _read_alike(block: bytes) -> tuple[tuple[str, ...], Array] | None:
    """Lines of one shape as an array; None where that is not as safe as reading each."""
    line = block[: block.find(b"\n")]
    try:
        row = rows.decode(line)
    except ValueError:
        return None
    if {type(value) for value in row.values()} - {int, float} or b'"NaN"' in line:
        return None
    names = tuple(row)
    bare = [name.encode().translate(None, _NUMERIC) for name in names]
    if len(set(bare)) < len(bare) or b"Infinity" in line:
        return None  # two names that differ in numbers only: their order would not show
    for name in names:
        key = f'"{name}"'.encode()
        if set(key) & set(_NUMERIC + b"E"):
            block = block.replace(key, b"")
    if re.search(rb"\de[-+]\d", line):  # so in every line: they are alike
        block = block.replace(b"e-", b"E-").replace(b"e+", b"E+")
    text = block.translate(_NUMBERS, _NOT_NUMBERS)
    try:
        numbers = np.fromstring(text, sep=",")
    except (ValueError, DeprecationWarning):
        return None
    if len(numbers) != len(names) * block.count(b"\n"):
        return None
    return names, numbers.reshape(-1, len(names))


def _first_step(path: Path) -> int | None:
    if not path.exists():
        return None
    for _, row in rows.read(path):
        if not isinstance(row, ValueError):
            return int(row["step"])
    return None
