"""Writes event files as TensorBoard's writers do, from the description of their format."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from worker.progress.sources.tfevents import masked_crc32c


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def field(number: int, value: bytes | int | float, *, single: bool = False) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    form, kind = ("<f", 5) if single else ("<d", 1)
    return varint(number << 3 | kind) + struct.pack(form, value)


def simple(value: float) -> bytes:
    return field(2, float(value), single=True)


def tensor(kind: int, content: bytes, shape: bytes = b"") -> bytes:
    return field(8, field(1, kind) + field(2, shape) + content)


def record(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return (
        size
        + struct.pack("<I", masked_crc32c(size))
        + data
        + struct.pack("<I", masked_crc32c(data))
    )


def event(step: int, values: Mapping[str, bytes], at: float = 1000.0) -> bytes:
    summary = b"".join(field(1, field(1, tag.encode()) + value) for tag, value in values.items())
    return record(field(1, at) + field(2, step) + field(5, summary))


HEAD = record(field(1, 1000.0) + field(3, b"brain.Event:2"))


def write(path: Path, points: Iterable[tuple[int, str, float]]) -> None:
    """Adds points to an event file, which may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if not file.tell():
            file.write(HEAD)
        for step, tag, value in points:
            file.write(event(step, {tag: simple(value)}, at=1000.0 + step))
