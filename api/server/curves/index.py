"""The index of one file of metrics: its curves in buckets, extended by the bytes that are new.

An attempt that resumes cuts the file back to its checkpoint and writes other rows there. So the
index keeps the last bytes that it has read. Each extension reads them again: if they differ, it
begins anew. A cursor is the end of what an answer covered, and a checksum of the bytes before it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from api.server.curves.buckets import Batch, Buckets, Curve
from api.server.curves.table import CODES, STEP, Known, Table, csv_rows, json_rows, table_of
from monitoring.storage.base import Storage

RUN_BYTES = 16 << 20  # memory for the curves of one run
_MOST_NAMES = 2000
_MOST_BUCKETS, _FEWEST_BUCKETS = 1 << 14, 1 << 6  # of a metric
_BUCKET_BYTES = 80
_BLOCK = 8 << 20  # bytes read at once
_SLICE = 128 << 10  # bytes parsed at once
_TAIL = 1024
_MOST_PLACES = 4096
_PLACE_BYTES = 400
# A part of a file up to this size is read again for an answer, and an answer has each of its rows.
EXACT_BYTES = 1 << 20
# Up to this size if the index has only a few buckets there.
_RATHER_EXACT_BYTES, _FEW_BUCKETS = 8 << 20, 200


@dataclass(frozen=True)
class View:
    """What an answer shows: metrics, each in at most `points` buckets, between two places."""

    names: Sequence[str]
    axis: int = STEP
    points: int = 2000
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Place:
    """A part of the file: where it begins, what is known there, and what it spans on each axis."""

    offset: int
    known: Known
    spans: Sequence[tuple[float, float]]

    def overlaps(self, view: View) -> bool:
        """Whether it may have rows of a view."""
        if view.axis >= len(self.spans):
            return False
        start, end = self.spans[view.axis]
        return (view.low is None or end >= view.low) and (view.high is None or start <= view.high)


class MetricsIndex:
    """The curves of one file; hold `lock` for every call."""

    def __init__(self, key: str) -> None:
        self.lock = threading.Lock()
        self._key = key
        self._rows_of = csv_rows if key.endswith(".csv") else json_rows
        self.size_bytes = 0  # about what it occupies in memory
        self._seen: tuple[int, float] | None = None  # size and time of the file when last read
        self._begin()

    def _begin(self) -> None:
        self.rows = 0
        self.spans: list[tuple[float, float]] = [(math.inf, -math.inf)] * 2
        self._metrics: dict[str, Buckets] = {}
        self._known = Known()
        self._places: list[_Place] = []
        self._place_bytes = _SLICE // 2
        self._offset = 0
        self._tail = b""
        self._is_within_line = False  # of a line that is longer than a block

    # -- what it has ------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """The place behind the last row."""
        return _cursor(self._offset, self._tail)

    @property
    def has_tokens(self) -> bool:
        """Whether the run logs how many tokens it has seen."""
        return self._known.token_metric is not None

    @property
    def start(self) -> float:
        """When the run began: the first timestamp of a row; NaN if there is none."""
        return self._known.start

    def _measure(self) -> int:
        metrics = sum(1000 + one.size_bytes for one in self._metrics.values())
        return metrics + len(self._places) * _PLACE_BYTES + _TAIL

    def names(self) -> dict[str, int]:
        """The metrics, and how many rows each has."""
        return {name: one.count for name, one in self._metrics.items()}

    # -- reading ----------------------------------------------------------------------------

    def extend(self, storage: Storage) -> None:
        """Reads what is new in the file; raises `OSError` and `StorageError`."""
        file = storage.stat(self._key)
        now = None if file is None else (file.size, file.modified)
        if now is None or now != self._seen:
            self._seen = None
            size = 0 if file is None else file.size
            # Another writer may replace the file at any moment, but not each time.
            try:
                if self._read_to(size, storage) or self._read_anew(storage):
                    self._seen = now
            except FileNotFoundError:  # it was deleted meanwhile
                self._begin()
        self.size_bytes = self._measure()

    def _read_anew(self, storage: Storage) -> bool:
        self._begin()
        file = storage.stat(self._key)
        return file is None or self._read_to(file.size, storage)

    def _read_to(self, size: int, storage: Storage) -> bool:
        """Reads on to the end of the file; False if what was read before is not there any more."""
        while self._offset < size or self._tail:
            if size < self._offset:
                return False
            data = storage.read(self._key, self._offset - len(self._tail), _TAIL + _BLOCK)
            if not data.startswith(self._tail):
                return False
            block = data[len(self._tail) :]
            end = block.rfind(b"\n") + 1
            if end:
                self._add(block[:end])
            elif len(block) >= _BLOCK:
                self._is_within_line = True
                self._pass(block)
            if len(block) < _BLOCK:
                break
        return True

    def _add(self, block: bytes) -> None:
        """Adds whole lines."""
        if self._is_within_line:
            skipped = block.index(b"\n") + 1
            self._pass(block[:skipped])
            block, self._is_within_line = block[skipped:], False
        for part in _slices(block):
            self._take(table_of(part.split(b"\n"), self._known, None, self._rows_of))
            self._pass(part + b"\n")
            time.sleep(0)  # lets other requests run: unasked, Python does so each 5 ms only

    def _pass(self, block: bytes) -> None:
        self._offset += len(block)
        self._tail = (self._tail + block[-_TAIL:])[-_TAIL:]

    def _take(self, table: Table) -> None:
        if not table.count:
            self._known = table.known
            return
        spans = [axis.span() for axis in table.axes]
        if len(spans) > len(self.spans):
            self.spans.append((math.inf, -math.inf))
            for buckets in self._metrics.values():
                buckets.add_axis(CODES[len(spans) - 1])
        self.spans = _joined(self.spans, spans)
        self._note_place(spans)
        self._known = table.known
        self.rows += table.count
        for name, batch in table.metrics.items():
            if name not in self._metrics:
                if len(self._metrics) == _MOST_NAMES:
                    continue
                self._metrics[name] = Buckets(CODES[: len(self.spans)])
            self._metrics[name].add(batch, self._most())

    def _most(self) -> int:
        """Buckets that a metric may have, so that all of them fit into the memory of a run."""
        fit = RUN_BYTES // (_BUCKET_BYTES * max(1, len(self._metrics)))
        return max(_FEWEST_BUCKETS, min(_MOST_BUCKETS, 1 << fit.bit_length() - 1))

    def _note_place(self, spans: Sequence[tuple[float, float]]) -> None:
        """Notes where rows begin; the last place takes them if it is small."""
        if self._places and self._offset - self._places[-1].offset < self._place_bytes:
            last = self._places[-1]
            self._places[-1] = replace(last, spans=_joined(last.spans, spans))
            return
        self._places.append(_Place(self._offset, self._known, spans))
        if len(self._places) > _MOST_PLACES:
            self._place_bytes *= 2
            pairs = zip(self._places[::2], self._places[1::2], strict=False)
            joined = [replace(a, spans=_joined(a.spans, b.spans)) for a, b in pairs]
            self._places = joined + self._places[len(joined) * 2 :]

    # -- answers ----------------------------------------------------------------------------

    def curves(self, storage: Storage, view: View) -> dict[str, Curve]:
        """The curves in a view."""
        if view.axis < len(self.spans):
            parts = self._parts(view)
            if parts and self._should_read(sum(end - start for start, end in parts), view):
                texts = [
                    (storage.read(self._key, start, end - start), self._known_at(start))
                    for start, end in parts
                ]
                return self._exact(texts, view)
        return {name: self._bucketed(name, view) for name in view.names}

    def since(self, storage: Storage, cursor: str, view: View) -> dict[str, Curve] | None:
        """The curves of the rows behind a cursor; None if it is not one of this file any more.

        Also None if too many rows have come since: then the whole curves are the better answer.
        """
        place = int(cursor.partition("-")[0])
        if place == self._offset:
            return self._exact([], view) if cursor == self.cursor else None
        if place > self._offset or self._offset - place > EXACT_BYTES:
            return None
        begin = max((one.offset for one in self._places if one.offset <= place), default=0)
        start = max(0, min(begin, place - _TAIL))
        data = storage.read(self._key, start, self._offset - start)
        before, new = data[: place - start], data[place - start :]
        if cursor != _cursor(place, before[-_TAIL:]):
            return None
        lines = before[begin - start :].removesuffix(b"\n").split(b"\n")
        known = table_of(lines, self._known_at(begin), (), self._rows_of).known
        return self._exact([(new, known)], view)

    def _bucketed(self, name: str, view: View) -> Curve:
        buckets = self._metrics.get(name) if view.axis < len(self.spans) else None
        if buckets is None:
            return Buckets(CODES).curve(view.points, view.axis)
        return buckets.curve(view.points, view.axis, view.low, view.high)

    def _exact(self, texts: Sequence[tuple[bytes, Known]], view: View) -> dict[str, Curve]:
        """The curves of the rows in some parts of the file."""
        axes = len(self.spans)
        found = {name: Buckets(CODES[:axes]) for name in view.names}
        for text, before in texts:
            known = before
            for part in _slices(text[: text.rfind(b"\n") + 1]):
                table = table_of(part.split(b"\n"), known, view.names, self._rows_of)
                known = table.known
                for name, batch in table.metrics.items():
                    found[name].add(Batch(batch.values, batch.axes[:axes]), sys.maxsize)
                time.sleep(0)
        if view.axis >= axes:
            return {name: self._bucketed(name, view) for name in view.names}
        return {
            name: buckets.curve(view.points, view.axis, view.low, view.high)
            for name, buckets in found.items()
        }

    def _known_at(self, offset: int) -> Known:
        """What is known at the beginning of the part that holds an offset."""
        before = (one.known for one in reversed(self._places) if one.offset <= offset)
        known = next(before, Known())
        return replace(known, start=self._known.start, token_metric=self._known.token_metric)

    def _parts(self, view: View) -> list[tuple[int, int]]:
        """The parts of the file that may have rows of a view, from offset to offset.

        Empty for a view of the whole file, too.
        """
        if view.low is None and view.high is None:
            return []
        ends = [place.offset for place in self._places[1:]] + [self._offset]
        parts: list[tuple[int, int]] = []
        for place, end in zip(self._places, ends, strict=False):
            if not place.overlaps(view):
                continue
            if parts and parts[-1][1] == place.offset:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((place.offset, end))
        return parts

    def _should_read(self, size: int, view: View) -> bool:
        """Whether an answer reads this many bytes again, and does not make do with buckets."""
        if size > EXACT_BYTES:
            few = min(view.points, _FEW_BUCKETS)
            found = [self._metrics[name] for name in view.names if name in self._metrics]
            return size <= _RATHER_EXACT_BYTES and any(
                one.is_merged and one.count_between(view.axis, view.low, view.high) < few
                for one in found
            )
        return True


def _slices(block: bytes) -> Iterator[bytes]:
    """Whole lines, some at once, without the last line end."""
    start = 0
    while start < len(block):
        end = block.find(b"\n", start + _SLICE) + 1 or len(block)
        yield block[start : end - 1]
        start = end


def _joined(
    one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    both = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(longer, shorter, strict=False)]
    return both + list(longer[len(shorter) :])


def _cursor(offset: int, tail: bytes) -> str:
    return f"{offset}-{zlib.crc32(tail):08x}"
