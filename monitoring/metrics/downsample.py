"""Downsampled curves of a long run, without losing a spike.

`metrics.jsonl` may have millions of rows, and `json` takes microseconds for each. But nearly all
rows of a run have the same form: the same names in the same order. So a block of lines is stripped
of its numbers and compared with a repetition of one such line. If they agree, everything but the
numbers is deleted and numpy parses them at once. Other lines are parsed by `json`.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitoring.metrics import rows
from monitoring.metrics.decimals import Decimals, Numbers
from monitoring.metrics.extremes import Extremes
from monitoring.metrics.logger import latest_step

logger = logging.getLogger(__name__)

_BLOCK = 1 << 17  # bytes read at once, so that their arrays fit into the processor's cache
_NUMERIC = b"0123456789.+-"
# Exponents are marked by E before names lose their letters, e among them.
_NUMBERS = bytes.maketrans(b"\nE", b",,")
_NOT_NUMBERS = bytes(set(range(256)) - set(_NUMERIC + b"E,\n"))
_PLAIN_KEY = frozenset(_NOT_NUMBERS)  # nothing remains of a key of these characters
_EXPONENT = re.compile(rb"\de")
_NON_FINITE = re.compile(rb'"-?(NaN|Infinity)"')


@dataclass(frozen=True)
class Series:
    """One metric: the smallest and the largest value of each bucket of steps, by step."""

    steps: list[int]
    values: list[float]


def read_curves(metrics_file: str | Path, points: int = 2000) -> dict[str, Series]:
    """Read every numeric metric of a run, each with at most `points` points.

    The steps are divided into `points / 2` buckets of equal width. Of each bucket the smallest and
    the largest finite value are kept, at their steps. Invalid lines are skipped; a warning names
    the first one. Memory does not grow with the file. A missing file gives {}.
    """
    path = Path(metrics_file)
    first, last = _first_step(path), latest_step(path)
    if first is None or last is None:
        return {}
    extremes = Extremes(first, last, max(1, points // 2))
    for names, table in _Table(path).blocks():
        metrics = [name for name in names if name not in rows.RESERVED]
        if metrics:
            columns = [names.index(name) for name in metrics]
            extremes.add(table.values[:, names.index("step")], metrics, columns, table)
    return {
        name: Series([step for step, _ in found], [value for _, value in found])
        for name, found in extremes.points()
    }


class _Table:
    """The rows of a file as arrays: (names, (rows, names)), one block after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        self._invalid = 0

    def blocks(self) -> Iterator[tuple[tuple[str, ...], Numbers]]:
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK) + file.readline():
                yield from self._parse(block if block.endswith(b"\n") else block + b"\n")
        if self._invalid > 1:
            logger.warning("%s: %d lines are invalid in total", self._path, self._invalid)

    def _parse(self, block: bytes) -> Iterator[tuple[tuple[str, ...], Numbers]]:
        skeleton = block.translate(None, _NUMERIC)
        usual = skeleton[: skeleton.index(b"\n") + 1]
        count = len(skeleton) // len(usual)
        alike, alike_count, others = block, count, []
        if skeleton != usual * count:
            lines, shapes = block.split(b"\n")[:-1], skeleton.split(b"\n")[:-1]
            count = len(lines)
            usual = Counter(shapes).most_common(1)[0][0]
            others = [(n, line) for n, line in enumerate(lines) if shapes[n] != usual]
            same = [line for n, line in enumerate(lines) if shapes[n] == usual]
            alike, alike_count = b"\n".join([*same, b""]), len(same)
        try:
            tables = [_read_alike(alike, alike_count)]
        except (ValueError, DeprecationWarning):  # the latter of older versions of numpy
            tables, others = [], list(enumerate(block.split(b"\n")[:-1]))
        yield from tables
        yield from self._read_slowly(others)
        self._line += count

    def _read_slowly(
        self, lines: Iterable[tuple[int, bytes]]
    ) -> Iterator[tuple[tuple[str, ...], Numbers]]:
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
            numeric = {
                name: rows.real(value) for name, value in row.items() if type(value) in (int, float)
            }
            tables.setdefault(tuple(numeric), []).append(list(numeric.values()))
        for names, table in tables.items():
            yield names, Numbers(np.array(table, dtype=np.float64))


def _read_alike(block: bytes, count: int) -> tuple[tuple[str, ...], Numbers]:
    """Parse `count` lines of the same form. Raises ValueError if only `json` can parse them."""
    line = block[: block.find(b"\n") + 1]
    row = rows.decode(line)
    if {type(value) for value in row.values()} - {int, float} or _NON_FINITE.search(line):
        raise ValueError("not only numbers")
    keys = [json.dumps(name).encode() for name in row]
    if len({key.translate(None, _NUMERIC) for key in keys}) < len(keys):
        raise ValueError("names differ only in digits, so their order is ambiguous")
    for key in keys:
        if key not in line:
            raise ValueError("a name is spelled differently")
        if not _PLAIN_KEY.issuperset(key):
            block, line = block.replace(key, b""), line.replace(key, b"")
    if _EXPONENT.search(line):  # in every line, because all have the same form
        block, line = _mark_exponents(block), _mark_exponents(line)
    exponents = [b"E" in number for number in line.translate(None, _NOT_NUMBERS).split(b",")]
    if len(exponents) != len(row) or _EXPONENT.search(line):
        raise ValueError("a name occurs twice, or an exponent has no sign")
    return tuple(row), Decimals(block.translate(_NUMBERS, _NOT_NUMBERS), count, exponents)


def _mark_exponents(text: bytes) -> bytes:
    return text.replace(b"e-", b"E-").replace(b"e+", b"E+")


def _first_step(path: Path) -> int | None:
    if not path.exists():
        return None
    for _, row in rows.read(path):
        if not isinstance(row, ValueError):
            return int(row["step"])
    return None
