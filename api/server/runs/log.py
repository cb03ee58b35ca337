"""The output log of a run: a part, its last lines, those of one attempt, those with a text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator

from api.schemas import LogMatch, LogMatches, LogQuery
from api.server.runs.log_times import offset_since
from api.server.runs.metric_pages import lines_of
from monitoring.storage.base import Storage

_LAST_BYTES = 64 << 10  # read at first for the last lines
_MOST_MATCHES = 200
_LONGEST, _BEFORE_TEXT = 4096, 1000  # characters of a line
# How a line says which rank printed it, after the mark of its attempt: torchrun's `--tee` and
# `--redirects` write `[default0]:` (the role, `default` or `trainer`), PyTorch `[rank0]:`.
_RANK = re.compile(rb"\[\d+\] \[?(?:rank|default|trainer)[ :=]?(\d{1,6})\]?(?=[:,\s|])", re.I)

Chooses = Callable[[bytes], bool]


class Log:
    """A log in storage, as long as it is now; the methods raise `OSError` and `StorageError`."""

    def __init__(self, storage: Storage, key: str, times_key: str) -> None:
        self._storage = storage
        self._key = key
        self._times_key = times_key
        file = storage.stat(key)
        self._size = file.size if file is not None else 0

    def read(self, query: LogQuery) -> tuple[bytes, int]:
        """The bytes that a query asks for, and the offset where to go on."""
        start, chooses = self._start(query), _choice(query)
        if chooses is None:
            if query.tail is not None:
                start = self._line_within(start, query.limit)
            text = self._storage.read(self._key, start, query.limit) if self._size else b""
            return text, start + len(text)
        found, size, end = deque[bytes](), 0, start
        for offset, line in self._lines(start):
            if chooses(line):
                if found and size + len(line) >= query.limit and query.tail is None:
                    break
                found.append(line + b"\n")
                size += len(line) + 1
            end = offset + len(line) + 1
        while len(found) > 1 and size > query.limit:  # of the last lines, the newest
            size -= len(found.popleft())
        return b"".join(found), end

    def search(self, query: LogQuery) -> LogMatches:
        """The lines with the text of a query."""
        wanted, chooses = (query.search or "").lower(), _choice(query)
        start, found, beyond = self._start(query), list[LogMatch](), None
        before: deque[str] = deque(maxlen=query.context)
        for offset, line in self._lines(max(0, start - _LAST_BYTES)):
            if chooses is not None and not chooses(line):
                continue
            text = line.decode(errors="replace")
            for match in found[-query.context :] if query.context else []:
                if len(match.after) < query.context:
                    match.after.append(_short(text, 0))
            place = text.lower().find(wanted) if offset >= start else -1
            if place >= 0 and len(found) < _MOST_MATCHES:
                shown = _short(text, place)
                found.append(LogMatch(offset=offset, text=shown, before=list(before), after=[]))
            elif place >= 0 and beyond is None:
                beyond = offset
            if beyond is not None and len(found[-1].after) == query.context:
                break
            before.append(_short(text, 0))
        return LogMatches(matches=found, next_offset=beyond)

    def _start(self, query: LogQuery) -> int:
        """Where to begin; an attempt that resumed may have cut the log before `offset`."""
        start = self._size
        if query.tail is None:
            start = min(query.offset, self._size)
        else:
            start = self._last_lines(query.tail, _choice(query))
        return start if query.since is None else max(start, self._since(query.since))

    def _since(self, moment: float) -> int:
        """The offset of the first line that came after a time, or one a little before."""
        if self._storage.stat(self._times_key) is None:
            return 0
        offset = min(offset_since(self._storage.read(self._times_key), moment), self._size)
        first = next(iter(self._lines(offset, end=True)), None)
        return offset if first is None else first[0]

    def _last_lines(self, count: int, chooses: Chooses | None) -> int:
        """The offset of the first of the last `count` lines that are chosen."""
        span = _LAST_BYTES
        while True:
            begin = max(0, self._size - span)
            starts = [
                offset
                for offset, line in self._lines(begin, end=chooses is None)
                if chooses is None or chooses(line)
            ]
            if len(starts) >= count:
                return starts[-count]
            if begin == 0:
                return starts[0] if starts else self._size
            span *= 8

    def _line_within(self, start: int, limit: int) -> int:
        """The first line from `start` on with at most `limit` bytes behind its beginning."""
        if self._size - start <= limit:
            return start
        begin = self._size - limit
        return next((offset for offset, _ in self._lines(begin, end=True)), begin)

    def _lines(self, start: int, *, end: bool = False) -> Iterator[tuple[int, bytes]]:
        """The whole lines that begin from `start` on; with `end`, the place of a last part too."""
        position = start
        if 0 < start < self._size and self._storage.read(self._key, start - 1, 1) != b"\n":
            first = next(lines_of(self._storage, self._key, start), None)
            if first is None:
                return
            position = start + len(first[1]) + 1
        for offset, line in lines_of(self._storage, self._key, position):
            yield offset, line
            position = offset + len(line) + 1
        if end and position < self._size:
            yield position, b""


def _choice(query: LogQuery) -> Chooses | None:
    """Which lines a query asks for: those of an attempt, of a rank; None for all."""
    if query.attempt is None and query.rank is None:
        return None
    mark = b"" if query.attempt is None else b"[%d] " % query.attempt
    return lambda line: line.startswith(mark) and query.rank in {None, _rank_of(line)}


def _rank_of(line: bytes) -> int | None:
    """The rank that a line names at its beginning."""
    match = _RANK.match(line)
    return int(match[1]) if match else None


def _short(text: str, place: int) -> str:
    """The text, or its part around a place."""
    start = max(0, place - _BEFORE_TEXT) if len(text) > _LONGEST else 0
    return text[start : start + _LONGEST]
