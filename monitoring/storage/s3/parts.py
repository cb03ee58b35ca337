"""How an object is made of parts: all of one size and only the last smaller, as some stores want.

Cloudflare R2 refuses other parts; Amazon S3 takes any that have 5 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_PART = 5 << 20
_MAX_COPIED = 5 << 30  # bytes of one copy request

Range = tuple[int, int]  # of bytes: start and end


@dataclass(frozen=True)
class Plan:
    """An object of the beginning of another one and new bytes.

    The ranges to copy as parts, the range of what is left of the beginning, to send with the new
    bytes, and the size of a part.
    """

    copied: list[Range]
    rest: Range
    size: int


def plan_of(offset: int) -> Plan:
    """The parts of an object that begins with `offset` bytes of another one, at least 5 MiB.

    What is left of them has fewer bytes than there are parts.
    """
    count = -(-offset // _MAX_COPIED)
    size = offset // count
    return Plan([(n * size, (n + 1) * size) for n in range(count)], (count * size, offset), size)


def copy_ranges(size: int) -> list[Range]:
    """The ranges of a copy of an object of `size` bytes, each small enough for one request."""
    count = -(-size // _MAX_COPIED)
    part = -(-size // max(1, count))
    return [(start, min(start + part, size)) for start in range(0, size, max(1, part))]


def pieces(data: bytes, size: int) -> list[bytes]:
    """Parts of `size` bytes, the last one smaller."""
    return [data[start : start + size] for start in range(0, len(data), size)]
