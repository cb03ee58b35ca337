"""Rows of metrics.jsonl: writing and reading them.

A row is one line of JSON: `step`, `timestamp` (seconds since the epoch), then the metrics as
`json_values` writes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.json_values import jsonable, plain_number, restored

RESERVED = ("step", "timestamp")
_PLAIN = frozenset({float, int})


class RowFormat:
    """Formats metrics of the same names as lines: JSON for programs and text for people.

    Numbers are formatted into a template of bytes by one `%` operation. That takes a quarter of
    the time of `json.dumps` and gives the same digits (`repr`, which reads back as the same float).
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in RESERVED:
                raise ValueError(f"{name!r} is reserved; rename the metric")
        self.names = list(names)
        keys = [json.dumps(str(name)).encode().replace(b"%", b"%%") for name in names]
        row = b"".join(b", %b: %%r" % key for key in keys)
        self._json = b'{"step": %d, "timestamp": %.3f' + row + b"}\n"
        self._json_mixed = self._json.replace(b": %r", b": %b")
        labels = [key.strip(b'"') for key in keys]
        self._text = b"%b step %d" + b"".join(b" | %b %%.6g" % label for label in labels) + b"\n"
        self._text_mixed = self._text.replace(b" %.6g", b" %b")

    def lines(
        self, step: int, moment: float, clock: bytes, values: tuple[Any, ...]
    ) -> tuple[bytes, bytes]:
        """Return the JSON line and the text line of one row."""
        # A sum is finite only if every number is (and where it overflows, the long way is right).
        try:
            if _PLAIN.issuperset(map(type, values)) and math.isfinite(sum(values)):
                # Joined, not unpacked: that is twice as fast.
                return self._json % ((step, moment) + values), self._text % ((clock, step) + values)  # noqa: RUF005
        except OverflowError:
            pass  # an integer that is beyond every float
        plain = [plain_number(value) for value in values]
        return (
            self._json_mixed % (step, moment, *map(_encode, plain)),
            self._text_mixed % (clock, step, *map(_readable, plain)),
        )


def whole(step: Any) -> int:
    """Convert a step (a numpy integer, a tensor or a float) to an int. Raises ValueError."""
    plain = plain_number(step)
    if isinstance(plain, int) or (isinstance(plain, float) and plain.is_integer()):
        return int(plain)
    raise ValueError(f"a step must be a whole number, not {step!r}")


def real(number: float) -> float:
    """Convert a number to a float; an integer too large for one becomes infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def decode(line: str | bytes) -> dict[str, Any]:
    """Parse a line. Raises ValueError if it is not a row."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ValueError("not a row of metrics, which is an object with a step")
        for name, value in row.items():
            if type(value) not in _PLAIN:
                row[name] = restored(value)
    except RecursionError:
        raise ValueError("not a row of metrics: it is nested too deeply") from None
    return row


def read(path: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """Yield every line of a file with its number: the row, or the error of an invalid line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, decode(line)
            except ValueError as error:
                yield number, error


def _encode(value: Any) -> bytes:
    return json.dumps(jsonable(value)).encode()


def _readable(value: Any) -> bytes:
    text = f"{value:.6g}" if isinstance(value, float) else str(value).replace("\n", "\\n")
    return text.encode(errors="backslashreplace")  # a lone surrogate has no UTF-8 encoding
