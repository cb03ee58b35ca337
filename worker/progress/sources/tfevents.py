"""Scalars of TensorBoard's event files, read without TensorBoard.

A file is a series of records (TFRecord): the length of the data, a checksum of the length, the
data, a checksum of the data. The data is a protocol buffer `Event`, whose `Summary` has values: a
scalar is a `simple_value`, or a tensor without dimensions. A checksum is a CRC-32C, rotated and
offset so that the checksum of a checksum is no special case.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
_MASK_DELTA = 0xA282EAD8
# A record with a larger event holds an image, a histogram or a graph.
_MOST_BYTES = 16 << 10
_LONGEST_RECORD = 1 << 31
_FLOAT, _DOUBLE, _INT32, _INT64, _BFLOAT16, _HALF = 1, 2, 3, 9, 14, 19  # of `DataType`
_CONTENT = {_FLOAT: "<f", _DOUBLE: "<d", _INT32: "<i", _INT64: "<q", _HALF: "<e"}
_SIGN = 1 << 63


def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


_TABLE = _table()


class DamagedError(ValueError):
    """What is in a file is no record."""


@dataclass(frozen=True)
class Event:
    """The scalars of one event, by tag; `at` is in seconds since the epoch."""

    step: int
    at: float
    scalars: dict[str, float] = field(default_factory=dict)


def masked_crc32c(data: bytes) -> int:
    """The checksum of data in an event file."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def events(data: bytes) -> Iterator[tuple[int, Event | None]]:
    """The events in a part of a file that begins with a record, and where each record ends.

    An event without scalars is None. Its record may end beyond the data: it need not be read. Ends
    at a record that is not whole; raises `DamagedError` at what is none.
    """
    place = 0
    while place + _HEADER.size <= len(data):
        size, checksum = _HEADER.unpack_from(data, place)
        if masked_crc32c(data[place : place + 8]) != checksum or size > _LONGEST_RECORD:
            raise DamagedError(f"no record begins at byte {place}")
        begin = place + _HEADER.size
        end = begin + size + _CHECKSUM.size
        if size > _MOST_BYTES:
            yield end, None
            place = end
            continue
        if end > len(data):
            return
        content = data[begin : begin + size]
        if masked_crc32c(content) != _CHECKSUM.unpack_from(data, begin + size)[0]:
            raise DamagedError(f"the record at byte {place} has another checksum")
        event = _event(content)
        yield end, event if event.scalars else None
        place = end


def _event(data: bytes) -> Event:
    at, step = 0.0, 0
    scalars: dict[str, float] = {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            at = _number("<d", value)
        elif number == 2 and isinstance(value, int):
            step = value - (value & _SIGN) * 2
        elif number == 5 and isinstance(value, bytes):
            scalars.update(_summary(value))
    return Event(step, at, scalars)


def _summary(data: bytes) -> Iterator[tuple[str, float]]:
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag, scalar = _value(value)
            if tag and scalar is not None:
                yield tag, scalar


def _value(data: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            tag = value.decode(errors="replace")
        elif number == 2:
            scalar = _number("<f", value)
        elif number == 8:
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: bytes) -> float | None:
    """The value of a tensor without dimensions; None for another one, or one that is no number."""
    kind, values = 0, {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            if any(field == 2 for field, _ in _fields(value)):
                return None
        else:
            values[number] = value
    content = values.get(4)
    if isinstance(content, bytes) and content:
        if kind == _BFLOAT16:
            return _number("<f", b"\0\0" + content)
        return _number(_CONTENT[kind], content) if kind in _CONTENT else None
    # A list of one number: packed, or a field of its own.
    number, form = {_FLOAT: (5, "<f"), _DOUBLE: (6, "<d"), _INT32: (7, ""), _INT64: (10, "")}.get(
        kind, (0, "")
    )
    found = values.get(number)
    if found is None or (isinstance(found, bytes) and not found):
        return None
    if isinstance(found, bytes):
        if form:
            return _number(form, found)
        found = _varint(found, 0)[0]
    return float(found - (found & _SIGN) * 2)


def _number(form: str, data: bytes) -> float:
    if len(data) != struct.calcsize(form):
        raise DamagedError("a number of another size")
    return float(struct.unpack(form, data)[0])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer, in their order: a number, or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise DamagedError(f"a field of kind {kind}")
        if place + size > len(data):
            raise DamagedError("a field beyond its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise DamagedError("a number without an end")
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & (1 << 64) - 1, place
    raise DamagedError("a number of more than 64 bits")
