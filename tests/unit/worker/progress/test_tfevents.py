"""Event files of TensorBoard, read from the description of their format."""

from __future__ import annotations

import base64
import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.event_files import HEAD, event, field, record, simple, tensor
from worker.progress.sources.tfevents import DamagedError, Event, events, masked_crc32c

# Written by torch.utils.tensorboard: `loss` 0.5 and 0.25 at steps 1 and 2, then the same value as a
# tensor of a float and of a double.
WRITTEN = base64.b64decode(
    "SAAAAAAAAAD+kkidCX9dxKLawtpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2"
    "ZW50X2ZpbGVfd3JpdGVy+UGHzhoAAAAAAAAAEpvYLQkAAAAAAECPQBABKg0KCwoEbG9zcxUAAAA/BykHfhoAAAAAAAAA"
    "EpvYLQkAAAAAAEiPQBACKg0KCwoEbG9zcxUAAIA+QGAoIisAAAAAAAAAhhvDSwkAAAAAAFCPQBADKh4KHAoDbmV3QggI"
    "ASoEAAAAPkoLCgkKB3NjYWxhcnMi72DgMgAAAAAAAAAkGVbsCQAAAAAAWI9AEAQqJQojCgZkb3VibGVCDAgCMgicdQCI"
    "POQ3fkoLCgkKB3NjYWxhcnMpwraZ"
)


def scalars(data: bytes) -> list[tuple[int, dict[str, float]]]:
    return [(event.step, event.scalars) for _, event in events(data) if event]


def test_the_checksum_is_castagnolis() -> None:
    """RFC 3720, B.4: 32 bytes of zeros have the CRC 0x8a9136aa."""
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_file_of_torch_is_read() -> None:
    assert scalars(WRITTEN) == [
        (1, {"loss": 0.5}), (2, {"loss": 0.25}), (3, {"new": 0.125}), (4, {"double": 1e300}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (tensor(1, field(4, struct.pack("<f", 0.5))), 0.5),
        (tensor(2, field(4, struct.pack("<d", 1e300))), 1e300),
        (tensor(3, field(4, struct.pack("<i", -3))), -3),
        (tensor(9, field(4, struct.pack("<q", -3))), -3),
        (tensor(14, field(4, struct.pack("<f", 1.5)[2:])), 1.5),
        (tensor(19, field(4, struct.pack("<e", 1.5))), 1.5),
        (tensor(1, field(5, struct.pack("<f", 0.5))), 0.5),  # packed
        (tensor(1, field(5, 0.5, single=True)), 0.5),
        (tensor(2, field(6, 0.5)), 0.5),
        (tensor(9, field(10, -3)), -3),
        (simple(0.5), 0.5),
    ],
)
def test_a_scalar_may_be_a_tensor(value: bytes, number: float) -> None:
    assert scalars(HEAD + event(7, {"a": value})) == [(7, {"a": number})]


@pytest.mark.parametrize(
    "value",
    [
        tensor(1, field(4, struct.pack("<2f", 1, 2)), field(2, field(1, 2))),  # two numbers
        tensor(7, field(8, b"text")),
        tensor(1, b""),
        field(4, b"image"),
    ],
)
def test_what_is_no_scalar_is_none(value: bytes) -> None:
    assert scalars(event(7, {"a": value, "b": simple(1.0)})) == [(7, {"b": 1.0})]


def test_a_record_that_is_not_whole_is_left_for_later() -> None:
    data = HEAD + event(1, {"a": simple(1.0)})
    for end in range(len(HEAD), len(data)):
        assert scalars(data[:end]) == []
        assert [place for place, _ in events(data[:end])] == [len(HEAD)]


def test_an_image_need_not_be_read() -> None:
    image = record(bytes(100_000))
    data = image + event(1, {"a": simple(1.0)})
    ends = [end for end, _ in events(image[:50])]
    assert ends == [len(image)]
    assert scalars(data) == [(1, {"a": 1.0})]


def test_a_flipped_bit_is_found() -> None:
    data = HEAD + event(1, {"a": simple(1.0)}) + event(2, {"a": simple(2.0)})
    for place in range(len(HEAD), len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 4
        with pytest.raises(DamagedError):
            scalars(bytes(damaged))


@given(st.binary(max_size=200))
def test_no_content_does_harm(content: bytes) -> None:
    with contextlib.suppress(DamagedError):
        assert all(isinstance(one, Event | None) for _, one in events(record(content)))
