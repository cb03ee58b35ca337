"""Durations as people type them: `90`, `30s`, `10m`, `2h`, `1d`."""

from __future__ import annotations

import re

import click

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_PARTS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|m|h|d|w)? ?", re.IGNORECASE)


def seconds_of(text: str) -> float | None:
    """The seconds of a duration; None for a text that is none. A bare number is in seconds."""
    found = list(_PARTS.finditer(text))
    if not found or "".join(match[0] for match in found) != text:
        return None
    if len(found) > 1 and not all(match[2] for match in found):
        return None
    return sum(float(match[1]) * _UNITS[(match[2] or "s").lower()] for match in found)


class Duration(click.ParamType[float]):
    """An option that is a duration; its value is in seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds."""
        seconds = seconds_of(str(value).strip())
        if seconds is None:
            self.fail(f"{value!r} is no duration such as 30s, 10m, 2h or 1d", param, ctx)
        return seconds
