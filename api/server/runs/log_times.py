"""Where in the output log stands what came after a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Row = tuple[int, float]


def offset_since(rows: bytes, moment: float) -> int:
    """The offset of a log behind which all stands that came after a time, and little else.

    `rows` are those of `RunPaths.output_times`. 0 where they say nothing of the time.
    """
    found = 0
    for size, at in _parsed(rows.splitlines()):
        if at <= moment or size < found:  # or the log was begun anew since then
            found = size if at <= moment else 0
    return found


def _parsed(lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows that are whole; a program may have written anything."""
    for line in lines:
        size, _, at = line.partition(b" ")
        try:
            yield int(size), float(at)
        except ValueError:
            continue
