"""Text for people: without escape codes, and with times in readable units."""

from __future__ import annotations

import re

# Each alternative is bounded by a terminator that it cannot contain, so the search is linear.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # colours, moves of the cursor
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # titles, hyperlinks
    r"|\x1b[PX^_][^\x1b\n]*(?:\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Select Graphic Rendition: colours, bold and the like, which only change how text looks.
_COLOURS = re.compile(r"(\x1b\[[0-9;:]{0,64}m)")
# The rest of the control characters; a tab and a line's end are text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


# A unit, the next smaller one, the seconds of the first, and how many of the second it holds.
_UNITS = (("d", "h", 86400, 24), ("h", "min", 3600, 60), ("min", "s", 60, 60))


def plain(text: str) -> str:
    """The text without escape codes and control characters, except tabs and newlines."""
    if text.isprintable():
        return text
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def coloured(text: str) -> str:
    """The text with its colours, and without all other escape codes and control characters."""
    parts = _COLOURS.split(text)
    parts[::2] = map(plain, parts[::2])
    return "".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 7 min`, `2 d 3 h`."""
    whole = max(0, round(seconds))
    for large, small, size, ratio in _UNITS:
        if whole >= size:
            count, rest = divmod(whole, size)
            rest //= size // ratio
            return f"{count} {large} {rest} {small}" if rest else f"{count} {large}"
    return f"{whole} s"
