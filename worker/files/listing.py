"""Names files with their sizes, for a line in a run's log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitoring.disk import file_size

_MOST_NAMES = 8
_LONGEST = 200


def short(path: Path) -> str:
    """A path for people: of a long one, the beginning and the end."""
    text = ascii(str(path))[1:-1] if not str(path).isprintable() else str(path)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}…{text[-half:]}"


def listed(sizes: Mapping[str, int]) -> str:
    """The largest files with their sizes in bytes, and how many more there are."""
    by_size = sorted(sizes, key=lambda path: (-sizes[path], path))
    named = ", ".join(f"{path} ({file_size(sizes[path])})" for path in by_size[:_MOST_NAMES])
    others = by_size[_MOST_NAMES:]
    if not others:
        return named
    return f"{named} and {len(others)} more ({file_size(sum(sizes[path] for path in others))})"
